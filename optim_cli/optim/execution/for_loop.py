"""The for-loop execution: one tensor after another.

In place for tensors of full precision. The rule itself, called as it stands, where a step is recorded for
autograd and where float32 arithmetic on narrower tensors rounds once: that form is the reference.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from optim_cli.optim.execution.scalars import Values
from optim_cli.optim.execution.translate import Stage


class Composed:
    """Stages called one after another on the tensors of one parameter.

    Args:
        stages: the texts.
        states: names of the states present, in the order of the rows.
        flags: values of the flags.
    """

    def __init__(self, stages: Sequence[Stage], states: Sequence[str], flags: Mapping[str, object]) -> None:
        self.flags = flags
        # Tensors stand in slots: first the row, then states that a rule names but that are absent.
        self.slots = ["p", "g", *states]
        self.written = [0, *range(2, len(self.slots))]
        self.stages = []
        for stage in stages:
            parameters = inspect.signature(stage.rule).parameters.values()
            positional = [x.name for x in parameters if x.kind is not x.KEYWORD_ONLY]
            keyword = [x.name for x in parameters if x.kind is x.KEYWORD_ONLY]
            self.slots += [x for x in positional if x not in self.slots]
            reads = [self.slots.index(x) for x in positional]
            self.stages.append((stage.rule, reads, [self.slots.index(x) for x in stage.outputs], keyword))

    def bind(self, values: Values) -> Callable[[Sequence[Tensor]], list[Tensor]]:
        """The update of a row for given hyperparameters and derived scalars.

        Returns:
            A pure function from a row `(p, g, *states)` to new values of `(p, *states)`.
        """
        known = {**values, **self.flags}
        calls = [
            (rule, reads, writes, {x: known[x] for x in keyword})
            for rule, reads, writes, keyword in self.stages
        ]

        def update(row: Sequence[Tensor]) -> list[Tensor]:
            tensors = [*row, *[None] * (len(self.slots) - len(row))]
            for rule, reads, writes, keywords in calls:
                results = rule(*[tensors[i] for i in reads], **keywords)
                for i, result in zip(writes, results, strict=True):
                    tensors[i] = result
            return [tensors[i] for i in self.written]

        return update


def run_for_loop(
    update: Callable[..., None],
    columns: Sequence[Sequence[Tensor]],
    scalars: Sequence[float | Sequence[Tensor]],
) -> None:
    """Apply an update in place to each row `(p, g, *states)` of the columns."""
    if not any(isinstance(s, Sequence) for s in scalars):
        for row in zip(*columns, strict=True):
            update(*row, *scalars)
        return
    each = [s if isinstance(s, Sequence) else [s] * len(columns[0]) for s in scalars]
    for row in zip(*columns, *each, strict=True):
        update(*row)


def run_pure(
    updates: Iterable[Callable[[Sequence[Tensor]], Sequence[Tensor]]],
    columns: Sequence[Sequence[Tensor]],
    apart: bool,
) -> None:
    """Apply a pure update to each row `(p, g, *states)` of the columns and store the results.

    Arithmetic is in float32 (float64 for float64 parameters) and rounds once, at the store.

    Args:
        updates: for each row, from it to new values of `(p, *states)`.
        columns: parameters, gradients and each state; one dtype a column.
        apart: let the update see copies: autograd may then keep what it reads while the parameter is
            overwritten, and a rule may hand one state the old value of another.
    """
    wide = wide_dtype(columns)
    for update, row in zip(updates, zip(*columns, strict=True), strict=False):
        read = [x.to(wide) for x in row]
        if apart:
            read = [x.clone() for x in read]
        for x, new in zip((row[0], *row[2:]), update(read), strict=True):
            x.copy_(new)


def wide_dtype(columns: Sequence[Sequence[Tensor]]) -> torch.dtype:
    """The dtype of the arithmetic for these tensors."""
    return torch.float64 if columns[0][0].dtype == torch.float64 else torch.float32
