"""An algorithm with its flags resolved, and its executions, each translated when first needed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from optim_cli.optim.execution.for_loop import Composed, run_for_loop
from optim_cli.optim.execution.foreach import (
    compile_foreach,
    compile_single,
    run_foreach,
    unfused,
)
from optim_cli.optim.execution.scalars import Values, derive, hoisted
from optim_cli.optim.execution.translate import Program, Stage, translate

Columns = Sequence[Sequence[Tensor]]


class Variant:
    """Runs one step of an algorithm on columns of tensors (p, g, *states) of one device and dtypes.

    Args:
        name: a Python identifier for generated code.
        scalars: the algorithm's scalar text.
        stages: the texts that make up the rule, in order.
        states: names of the states present, in the order of the columns.
        flags: values of the flags.

    Raises:
        RuleError: a text says something outside the vocabulary.
    """

    def __init__(
        self,
        name: str,
        scalars: FunctionType,
        stages: Sequence[Stage],
        states: Sequence[str],
        flags: dict[str, object],
    ) -> None:
        self.states = tuple(states)
        texts = [inspect.signature(scalars), *(inspect.signature(stage.rule) for stage in stages)]
        self.hyperparameters = tuple(
            {x.name: None for text in texts for x in text.parameters.values() if x.kind is x.KEYWORD_ONLY}
        )
        self.program: Program = translate(name, stages, states, flags)
        self.derive: Callable[[Values], Values] = derive(scalars)
        self.hoisted = hoisted(self.program)
        outputs = self.program.outputs.items()
        self._moves = any(value in self.program.inputs and value != x for x, value in outputs)
        self._composed = Composed(stages, states, flags)
        self._unfused: dict[frozenset[str], Program] = {}
        self._compiled: dict[tuple[str, frozenset[str]], Callable[..., Any]] = {}

    @cached_property
    def _foreach(self) -> Callable[..., None]:
        return compile_foreach(self.program)

    def foreach(self, columns: Columns, scalars: Sequence[float | Tensor]) -> None:
        """All tensors at once; `scalars` in the order of the program."""
        run_foreach(self._foreach, columns, scalars)

    def for_loop(self, columns: Columns, values: Values, differentiable: bool = False) -> None:
        """One parameter after another; `values` by name."""
        run_for_loop(self._composed.bind(values), columns, differentiable or self._moves)

    def foreach_with_tensors(self, columns: Columns, scalars: Sequence[float | Tensor]) -> None:
        """All tensors at once, with scalars in tensors: 0-d, or an entry for each parameter."""
        update = self._with_tensors(compile_foreach, scalars)
        run_foreach(update, columns, _entries(columns, scalars))

    def for_loop_with_tensors(
        self, columns: Columns, scalars: Sequence[float | Tensor], differentiable: bool = False
    ) -> None:
        """One parameter after another, with scalars in tensors: 0-d, or an entry for each parameter."""
        update = self._with_tensors(compile_single, scalars)
        count = len(columns[0])
        each = [x if isinstance(x, list) else [x] * count for x in _entries(columns, scalars)]
        of_row = iter(list(zip(*each, strict=True)) or [()] * count)
        apart = differentiable or self._moves
        run_for_loop(lambda row: update(*row, *next(of_row)), columns, apart)

    def _with_tensors(
        self, compiler: Callable[[Program], Callable[..., Any]], scalars: Sequence[float | Tensor]
    ) -> Callable[..., Any]:
        names = zip(self.program.scalars, scalars, strict=True)
        held = frozenset(name for name, value in names if isinstance(value, Tensor))
        key = (compiler.__name__, held)
        if key not in self._compiled:
            self._compiled[key] = compiler(unfused(self.program, held))
        return self._compiled[key]


def _entries(columns: Columns, scalars: Sequence[float | Tensor]) -> list[float | list[Tensor]]:
    """Numbers as they are; tensors as an entry for each parameter, in the dtype of the arithmetic."""
    p, count = columns[0][0], len(columns[0])
    wide = torch.float64 if p.dtype == torch.float64 else torch.float32
    return [list(s.to(wide).expand(count).unbind()) if isinstance(s, Tensor) else s for s in scalars]
