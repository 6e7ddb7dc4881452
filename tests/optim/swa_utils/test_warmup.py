"""Exponential averages that begin with a small decay, against what their authors' formulas give."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim.swa_utils import (
    AveragedModel,
    InverseGammaWarmup,
    PowerWarmup,
    Warmup,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
)

STEPS = 12


def drawn(seed: int) -> list[Warmup]:
    """Random ones of each form."""
    draw = random.Random(seed)
    inverse = [InverseGammaWarmup(draw.uniform(0.1, 20), draw.uniform(0.1, 2)) for _ in range(5)]
    return [*inverse, *(PowerWarmup(draw.uniform(-0.9, 20)) for _ in range(5))]


def decays_of(warmup: Warmup, limit: float) -> list[float]:
    """Those of the reference implementations: k-diffusion's EMAWarmup, and EDM2's power_function_beta."""
    if isinstance(warmup, InverseGammaWarmup):
        found = [1 - (1 + epoch / warmup.inv_gamma) ** -warmup.power for epoch in range(STEPS)]
    else:
        assert isinstance(warmup, PowerWarmup)
        found = [(1 - 1 / t_next) ** (warmup.gamma + 1) for t_next in range(1, STEPS + 1)]
    return [min(limit, max(0.0, x)) for x in found]


def averages(weights: list[Tensor], **functions: Any) -> list[Tensor]:
    """The average after each weight; half the way a new one takes over the state."""
    model = nn.Linear(3, 2, bias=False).double()
    averaged: Any = AveragedModel(model, **functions)
    found = []
    for step, weight in enumerate(weights):
        if step == len(weights) // 2:
            saved = averaged.state_dict()
            averaged = AveragedModel(model, **functions)
            averaged.load_state_dict(saved)
        model.weight.data.copy_(weight)
        averaged.update_parameters(model)
        found.append(averaged.module.weight.detach().clone())
    return found


def weights(generator: torch.Generator) -> list[Tensor]:
    return [torch.randn(2, 3, generator=generator, dtype=torch.float64) for _ in range(STEPS)]


def test_decays_are_those_of_their_authors(seed: int, generator: torch.Generator) -> None:
    for warmup in drawn(seed):
        limit = random.Random(seed).choice([0.6, 0.999, 1.0])
        decays, newest = decays_of(warmup, limit), weights(generator)
        assert decays[0] == 0.0, "the first one is a copy"
        expected = [newest[0]]
        for decay, weight in zip(decays[1:], newest[1:], strict=True):
            expected.append(decay * expected[-1] + (1 - decay) * weight)
        for name, get in (("avg_fn", get_ema_avg_fn), ("multi_avg_fn", get_ema_multi_avg_fn)):
            found = averages(newest, **{name: get(limit, warmup=warmup)})
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, msg=f"{warmup} {name}")


def test_power_profile(generator: torch.Generator) -> None:
    """What the i-th of t weights counts: i^(gamma + 1) - (i - 1)^(gamma + 1), over t^(gamma + 1)."""
    for gamma in (0.0, 6.94):  # equal weights, and a width of 10 %
        newest, power = weights(generator), gamma + 1
        found = averages(newest, multi_avg_fn=get_ema_multi_avg_fn(1.0, warmup=PowerWarmup(gamma)))[-1]
        shares = [((i + 1) ** power - i**power) / STEPS**power for i in range(STEPS)]
        expected = torch.stack([x * share for x, share in zip(newest, shares, strict=True)]).sum(0)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_counts_in_tensors(seed: int) -> None:
    """As they lie on a device: the same numbers, in float64."""
    for warmup in drawn(seed):
        for count in (0, 1, 7, 10**9):
            there = warmup.decay_at(torch.tensor(count, dtype=torch.float64))
            assert there.dtype == torch.float64
            assert float(there) == pytest.approx(warmup.decay_at(count), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InverseGammaWarmup(inv_gamma=0), r"Invalid inv_gamma value: 0 \(inv_gamma must be > 0\)"),
        (lambda: InverseGammaWarmup(power=-1), r"Invalid power value: -1 \(power must be > 0\)"),
        (lambda: PowerWarmup(gamma=-1), r"Invalid gamma value: -1 \(gamma must be > -1\)"),
        (lambda: PowerWarmup(gamma=float("nan")), r"Invalid gamma value: nan \(gamma must be > -1\)"),
        (lambda: get_ema_multi_avg_fn(1.5, warmup=PowerWarmup()), r"Invalid decay value 1\.5"),
    ],
)
def test_refused_numbers(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_no_warmup_is_named() -> None:
    for get in (get_ema_avg_fn, get_ema_multi_avg_fn):
        with pytest.raises(TypeError, match=r"Invalid warmup: 100 \(.*None, InverseGammaWarmup"):
            get(0.9, warmup=100)  # type: ignore[arg-type]
