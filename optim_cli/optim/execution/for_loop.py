"""The for-loop execution: the rule itself, called on one tensor after another. The reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

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
    update: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    columns: Sequence[Sequence[Tensor]],
    apart: bool,
) -> None:
    """Apply a pure update to each row `(p, g, *states)` of the columns and store the results.

    Arithmetic is in float32 (float64 for float64 parameters) and rounds once, at the store.

    Args:
        update: from a row to new values of `(p, *states)`.
        columns: parameters, gradients and each state; one dtype a column.
        apart: let the update see copies: autograd may then keep what it reads while the parameter is
            overwritten, and a rule may hand one state the old value of another.
    """
    wide = torch.float64 if columns[0][0].dtype == torch.float64 else torch.float32
    narrow = any(column[0].dtype != wide for column in columns)
    for row in zip(*columns, strict=True):
        read: Sequence[Tensor] = [x.to(wide) for x in row] if narrow else row
        if apart:
            read = [x.clone() for x in read]
        for x, new in zip((row[0], *row[2:]), update(read), strict=True):
            x.copy_(new)
