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


class Variant:
    """Runs one step of an algorithm on rows `(p, g, *states)` of equal device and dtypes.

    Args:
        name: a Python identifier for generated code.
        scalars: the algorithm's scalar text.
        stages: the texts that make up the rule, in order.
        states: names of the states present, in the order of the rows.
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
        self._composed = Composed(stages, states, flags)
        self._unfused: dict[frozenset[str], Program] = {}
        self._compiled: dict[tuple[str, frozenset[str]], Callable[..., Any]] = {}

    @cached_property
    def _foreach(self) -> Callable[..., None]:
        return compile_foreach(self.program)

    def foreach(self, rows: Sequence[Sequence[Tensor]], scalars: Sequence[float]) -> None:
        """All rows at once; `scalars` in the order of the program."""
        run_foreach(self._foreach, list(zip(*rows, strict=True)), scalars)

    def for_loop(
        self, rows: Sequence[Sequence[Tensor]], values: Values, differentiable: bool = False
    ) -> None:
        """Row after row; `values` by name."""
        run_for_loop(self._composed.bind(values), rows, differentiable)

    def foreach_with_tensors(
        self, rows: Sequence[Sequence[Tensor]], scalars: Sequence[float | Tensor]
    ) -> None:
        """All rows at once, with scalars in tensors: 0-d, or of shape (len(rows),)."""
        update = self._with_tensors(compile_foreach, scalars)
        wide = _wide(rows)
        lists = [
            s if not isinstance(s, Tensor) else list(s.to(wide).expand(len(rows)).unbind()) for s in scalars
        ]
        run_foreach(update, list(zip(*rows, strict=True)), lists)

    def for_loop_with_tensors(
        self,
        rows: Sequence[Sequence[Tensor]],
        scalars: Sequence[float | Tensor],
        differentiable: bool = False,
    ) -> None:
        """Row after row, with scalars in tensors: 0-d, or of shape (len(rows),)."""
        update = self._with_tensors(compile_single, scalars)
        wide = _wide(rows)
        columns = [
            [s] * len(rows) if not isinstance(s, Tensor) else s.to(wide).expand(len(rows)).unbind()
            for s in scalars
        ]
        of_row = iter(list(zip(*columns, strict=True)) or [()] * len(rows))
        run_for_loop(lambda row: update(*row, *next(of_row)), rows, differentiable)

    def _with_tensors(
        self, compiler: Callable[[Program], Callable[..., Any]], scalars: Sequence[float | Tensor]
    ) -> Callable[..., Any]:
        names = zip(self.program.scalars, scalars, strict=True)
        held = frozenset(name for name, value in names if isinstance(value, Tensor))
        key = (compiler.__name__, held)
        if key not in self._compiled:
            self._compiled[key] = compiler(unfused(self.program, held))
        return self._compiled[key]


def _wide(rows: Sequence[Sequence[Tensor]]) -> torch.dtype:
    return torch.float64 if rows[0][0].dtype == torch.float64 else torch.float32
