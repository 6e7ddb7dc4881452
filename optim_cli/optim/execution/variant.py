"""An algorithm with its flags resolved, and its executions, each translated when first needed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import repeat
from types import FunctionType
from typing import Any, cast

from torch import Tensor

from optim_cli.optim.execution.for_loop import Composed, run_for_loop, run_pure, wide_dtype
from optim_cli.optim.execution.foreach import run_foreach
from optim_cli.optim.execution.printer import Form, compile_in_place, compile_pure, unfused
from optim_cli.optim.execution.scalars import Values, derive, hoisted
from optim_cli.optim.execution.translate import Program, Stage, check_scalars, translate

Columns = Sequence[Sequence[Tensor]]


class Variant:
    """Runs one step of an algorithm on columns of tensors (p, g, *states) of one device and dtypes.

    Args:
        name: a Python identifier for generated code.
        scalars: the algorithm's scalar text.
        stages: the texts that make up the rule, in order.
        states: names of the states present, in the order of the columns.
        flags: values of the flags.

    Attributes:
        texts: `scalars` and the stages' rules.
        keywords: names of all hyperparameters, derived scalars and flags that the texts take.
        derived: names of what `scalars` derives.

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
        self.derived = check_scalars(scalars)
        self.texts: tuple[Callable[..., Any], ...] = (scalars, *(stage.rule for stage in stages))
        parameters = [x for text in self.texts for x in inspect.signature(text).parameters.values()]
        self.keywords = tuple({x.name: None for x in parameters if x.kind is x.KEYWORD_ONLY})
        self.program: Program = translate(name, stages, states, flags)
        self.derive: Callable[[Values], Values] = derive(scalars)
        self.hoisted = hoisted(self.program)
        outputs = self.program.outputs.items()
        self._moves = any(value in self.program.inputs and value != x for x, value in outputs)
        self._composed = Composed(stages, states, flags)
        self._functions: dict[tuple[str, frozenset[str]], Callable[..., Any]] = {}

    def foreach(self, columns: Columns, scalars: Sequence[float | Tensor]) -> None:
        """All tensors at once.

        Args:
            columns: parameters, gradients and each state.
            scalars: in the order of the program; numbers, or tensors, 0-d or of an entry per parameter.
        """
        update = self._compiled("foreach", scalars)
        if any(isinstance(s, Tensor) for s in scalars):
            # Between 0-d tensors the wider dtype would win, where one of them is meant as a number.
            columns = [[x if x.dim() else x.view(1) for x in column] for column in columns]
        run_foreach(update, columns, _entries(columns, scalars))

    def for_loop(
        self,
        columns: Columns,
        scalars: Sequence[float | Tensor],
        values: Values,
        differentiable: bool = False,
    ) -> None:
        """One parameter after another; arguments as for `foreach`, and the values known by name."""
        wide = wide_dtype(columns)
        if not differentiable and all(column[0].dtype == wide for column in columns):
            run_for_loop(self._compiled("single", scalars), columns, _entries(columns, scalars))
        elif any(isinstance(s, Tensor) for s in scalars):
            update, entries = self._compiled("pure", scalars), _entries(columns, scalars)
            each = [s if isinstance(s, list) else [s] * len(columns[0]) for s in entries]
            updates = (lambda row, own=own: update(*row, *own) for own in zip(*each, strict=True))
            run_pure(updates, columns, differentiable or self._moves)
        else:
            run_pure(repeat(self._composed.bind(values)), columns, differentiable or self._moves)

    def _compiled(self, form: str, scalars: Sequence[float | Tensor]) -> Callable[..., Any]:
        names = zip(self.program.scalars, scalars, strict=True)
        held = frozenset(name for name, value in names if isinstance(value, Tensor))
        if (form, held) not in self._functions:
            program = unfused(self.program, held)
            self._functions[form, held] = (
                compile_pure(program) if form == "pure" else compile_in_place(program, cast(Form, form))
            )
        return self._functions[form, held]


def _entries(columns: Columns, scalars: Sequence[float | Tensor]) -> list[float | list[Tensor]]:
    """Numbers as they are; tensors as an entry for each parameter, in the dtype of the arithmetic."""
    wide, count = wide_dtype(columns), len(columns[0])
    return [list(s.to(wide).expand(count).unbind()) if isinstance(s, Tensor) else s for s in scalars]
