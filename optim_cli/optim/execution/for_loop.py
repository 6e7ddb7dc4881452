"""The for-loop execution: the rule itself, called on one tensor after another. The reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from optim_cli.optim.execution.scalars import Values
from optim_cli.optim.execution.translate import Stage

REDUCED = (torch.bfloat16, torch.float16)


class Composed:
    """Stages called one after another on the tensors of one parameter.

    Args:
        stages: the texts.
        states: names of the states present, in the order of `rows`.
        flags: values of the flags.
    """

    def __init__(self, stages: Sequence[Stage], states: Sequence[str], flags: dict[str, object]) -> None:
        self.inputs = ("p", "g", *states)
        self.written = ("p", *states)
        self.calls = []
        for stage in stages:
            parameters = inspect.signature(stage.rule).parameters.values()
            positional = [x.name for x in parameters if x.kind is not x.KEYWORD_ONLY]
            keyword = [x.name for x in parameters if x.kind is x.KEYWORD_ONLY]
            fixed = {x: flags[x] for x in keyword if x in flags}
            self.calls.append((stage, positional, [x for x in keyword if x not in flags], fixed))

    def __call__(self, row: Sequence[Tensor], values: Values) -> tuple[Tensor, ...]:
        """New values of the parameter and its states; nothing is overwritten."""
        tensors: dict[str, Tensor | None] = dict(zip(self.inputs, row, strict=True))
        for stage, positional, keyword, fixed in self.calls:
            results = stage.rule(
                *(tensors.get(x) for x in positional), **{x: values[x] for x in keyword}, **fixed
            )
            tensors.update(zip(stage.outputs, results, strict=True))
        return tuple(tensors[x] for x in self.written)  # type: ignore[misc]


def run_for_loop(
    update: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    rows: Sequence[Sequence[Tensor]],
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
        if differentiable:
            read = [x.clone() for x in read]
        for x, new in zip((p, *states), update(read), strict=True):
            if new is not x:
                x.copy_(new)
