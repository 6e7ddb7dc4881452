"""Several algorithms as one optimizer: their fused steps share a norm and an average, and are repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS, MultiOptimizer
from optim_cli.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tests.optim.execution.fused.interpreted.side_by_side import values_of
from tests.optim.oracle import difference, entries, give, like

STEPS = 5
SHAPES = [(3, 5), (7,), (4, 3), (5,), (2,), (6,)]


def side(values: Sequence[Tensor], implementation: str) -> tuple[nn.ParameterList, MultiOptimizer]:
    """Muon of the matrices, two elementwise algorithms of the rest."""
    model = nn.ParameterList([nn.Parameter(x.clone()) for x in values])
    params = [*model]
    rest = [p for p in params if p.dim() == 1]
    kind: dict[str, Any] = {"implementation": implementation}
    parts = [
        ALGORITHMS["AdamW"](rest[:2], lr=0.1, **kind),
        ALGORITHMS["SGD"](rest[2:], lr=0.1, momentum=0.9, **kind),
        ALGORITHMS["Muon"]([p for p in params if p.dim() == 2], lr=0.1),
    ]
    return model, MultiOptimizer(parts)


def clip(sides: Sequence[tuple[nn.ParameterList, MultiOptimizer]], *limits: float | None) -> None:
    for _, optimizer in sides:
        optimizer.clip_gradients(*limits)


def step_all(
    sides: Sequence[tuple[nn.ParameterList, MultiOptimizer]], gradients: Sequence[Tensor | None]
) -> None:
    for model, optimizer in sides:
        give([*model], gradients)
        optimizer.step()


def compare(sides: Sequence[tuple[nn.ParameterList, MultiOptimizer]], context: object) -> None:
    fused, loop = (optimizer for _, optimizer in sides)
    found = difference(entries(fused), entries(loop), (1e-9, 1e-9))
    assert found is None, f"{context}: {found}"


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("limits", [(None, None), (0.5, None), (None, 0.1), (0.5, 0.1)], ids=str)
def test_as_the_for_loops(
    limits: tuple[float | None, float | None], averaged: bool, generator: torch.Generator
) -> None:
    values = values_of(generator, SHAPES)
    sides = [side(values, implementation) for implementation in ("fused", "for_loop")]
    averages = [AveragedModel(x, multi_avg_fn=get_ema_multi_avg_fn(0.6)) for x, _ in sides]
    plans = []
    for step in range(STEPS):
        gradients = like(values, generator)
        if step == 3:
            gradients[1][0] = torch.inf
        for (model, optimizer), average in zip(sides, averages, strict=True):
            if step == 0:
                optimizer.clip_gradients(*limits)
                optimizer.average_into(*((average, model) if averaged else (None,)))
            give([*model], gradients)
            if step == 3:
                optimizer.found_inf = torch.ones(())
            optimizer.step()
            optimizer.__dict__.pop("found_inf", None)
        compare(sides, step)
        fused, loop = (optimizer for _, optimizer in sides)
        if limits[0] is not None:
            torch.testing.assert_close(fused.grad_norm, loop.grad_norm)
        for x, y in zip(averages[0].state_dict().values(), averages[1].state_dict().values(), strict=True):
            torch.testing.assert_close(x, y)
        parts: Any = fused.optimizers
        plans.append([part._plans[0] for part in parts[:2]])
    assert fused.executions["fused"] == 2 * (STEPS - 1)
    assert int(averages[0].n_averaged) == averaged * STEPS
    # The norm is measured once for all, by none of them; each keeps to its plan.
    assert fused.launches["norm"] == 0
    assert fused.launches["update"] == 2 * (STEPS - 1)
    assert all(now == then for now, then in zip(plans[1:], plans, strict=False))
    assert [bool(plan.averages) for plan in plans[-1]] == [False, averaged], "the last one, in its kernel"


@pytest.mark.parametrize("limits", [(0.5, 0.1), (None, 0.1)], ids=str)
def test_a_part_steps_alone_in_between(
    limits: tuple[float | None, float | None], generator: torch.Generator
) -> None:
    """With what the whole has measured it does not go on, nor the whole with what it did."""
    values = values_of(generator, SHAPES)
    sides = [side(values, implementation) for implementation in ("fused", "for_loop")]
    clip(sides, *limits)
    for step in range(2 * STEPS):
        step_all(sides, like(values, generator))
        for _, optimizer in sides:
            optimizer.optimizers[step % 2].step()
        compare(sides, step)


def test_limits_that_change(generator: torch.Generator) -> None:
    values = values_of(generator, SHAPES)
    sides = [side(values, implementation) for implementation in ("fused", "for_loop")]
    for limits in ((1.0, None), (0.5, 0.1), (0.5, 0.2), (None, 0.2), (None, 0.1), (None, None)):
        clip(sides, *limits)
        for _ in range(2):
            step_all(sides, like(values, generator))
            compare(sides, limits)
