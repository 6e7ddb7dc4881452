"""The for-loop execution: the rule itself, called on one tensor after another. The reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from optim_cli.optim.execution.scalars import Values
from optim_cli.optim.execution.translate import Stage

REDUCED = (torch.bfloat16, torch.float16)


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
    rows: Iterable[Sequence[Tensor]],
    differentiable: bool,
) -> None:
    """Apply a pure update to each row `(p, g, *states)` and store the results.

    Arithmetic is in float32 (float64 for float64 parameters) and rounds once, at the store. With
    `differentiable` the update sees clones, so that autograd may keep what it reads while the
    parameter is overwritten.
    """
    for row in rows:
        p, _, *states = row
        wide = torch.float64 if p.dtype == torch.float64 else torch.float32
        read = [x if x.dtype == wide else x.to(wide) for x in row]
        written = [p, *states]
        if differentiable:
            results = update([x.clone() for x in read])
        else:
            # A rule may hand one state the old value of another: keep it before that is overwritten.
            own = {id(x) for x in written}
            results = [new.clone() if id(new) in own else new for new in update(read)]
        for x, new in zip(written, results, strict=True):
            x.copy_(new)
