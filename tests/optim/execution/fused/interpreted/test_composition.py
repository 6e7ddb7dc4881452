"""Unscaling, clipping, skipping and averaging in the one pass, against the for-loop and what is around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS
from optim_cli.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tests.optim.execution.fused.interpreted.side_by_side import SOME, assert_same, both, values_of
from tests.optim.oracle import give, like, params_of, ran

STEPS = 4
PLANTED = {0: torch.inf, 2: torch.nan}
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)


class Model(nn.Module):
    """What is trained, what is frozen, what is no parameter."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        super().__init__()
        self.trained = nn.ParameterList([nn.Parameter(x.clone()) for x in values])
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.counted: Tensor
        self.register_buffer("counted", torch.zeros(2))


class Side:
    """A model under an optimizer, with an average and a scaler where they are wanted."""

    def __init__(
        self,
        name: str,
        values: Sequence[Tensor],
        implementation: str,
        averaged: bool,
        scaled: bool,
        **options: Any,
    ) -> None:
        self.model = Model(values)
        self.optimizer: Any = ALGORITHMS[name](
            self.model.trained.parameters(), implementation=implementation, **options
        )
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.7)) if averaged else None
        self.optimizer.average_into(self.average, self.model)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**5, growth_interval=2, enabled=scaled)
        self.scaler.scale(torch.ones(()))  # which makes the scale

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        with torch.no_grad():
            self.model.frozen.add_(1)
            self.model.counted.add_(1)
        scale = self.scaler.get_scale()
        give(params_of(self.optimizer), [None if g is None else g * scale for g in gradients])
        self.scaler.step(self.optimizer)
        self.scaler.update()


def assert_same_sides(fused: Side, loop: Side, context: str) -> None:
    assert_same(fused.optimizer, loop.optimizer, context)
    assert fused.scaler.get_scale() == loop.scaler.get_scale()
    ours, theirs = fused.optimizer.grad_norm, loop.optimizer.grad_norm
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert (ours.dtype, ours.shape) == (torch.float32, ())
        torch.testing.assert_close(ours, theirs, equal_nan=True)
    assert_same_averages(fused, loop, context)


def step_with_planted(fused: Side, loop: Side, values: Sequence[Tensor], generator: torch.Generator) -> None:
    for step in range(STEPS):
        gradients = like(values, generator)
        if step in PLANTED:
            gradients[1][1] = PLANTED[step]
        for side in (fused, loop):
            side.step(gradients)
        assert_same_sides(fused, loop, f"step {step}:")


def assert_same_averages(fused: Side, loop: Side, context: str) -> None:
    if fused.average is not None and loop.average is not None:
        expected = loop.average.state_dict()
        for key, x in fused.average.state_dict().items():
            torch.testing.assert_close(x, expected[key], rtol=2e-6, atol=1e-5, msg=f"{context} {key}")


@pytest.mark.parametrize("averaged", [False, True], ids=["", "averaged"])
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled"])
@pytest.mark.parametrize("limits", [(None, None), (0.5, None), (None, 0.3), (0.5, 0.05)], ids=str)
def test_every_combination(
    limits: tuple[float | None, float | None], scaled: bool, averaged: bool, generator: torch.Generator
) -> None:
    values = values_of(generator, [(), (5,), (2, 3)])
    fused, loop = (Side("AdamW", values, x, averaged, scaled, maximize=True) for x in ("fused", "for_loop"))
    for side in (fused, loop):
        side.optimizer.clip_gradients(*limits)
    for step in range(STEPS):
        gradients: list[Tensor | None] = [*like(values, generator)]
        if scaled and step in PLANTED:
            gradients[2] = torch.full((2, 3), PLANTED[step]).double()
        elif step == 3:
            gradients[1] = None
        for side in (fused, loop):
            side.step(gradients)
        assert_same_sides(fused, loop, f"step {step}:")
    assert set(ran(fused.optimizer)) == {"fused"}
    assert bool(fused.optimizer._plans[0].averages) == averaged, "in the kernels"
    # The first step that a scaler skips creates no state, and launches nothing.
    assert fused.optimizer.launches["update"] == STEPS - scaled
    if limits[0] is None:
        assert fused.optimizer.launches["norm"] == 0
    else:
        # Once too often, where another gradient is missing than the last time.
        assert STEPS - scaled <= fused.optimizer.launches["norm"] <= STEPS - scaled + 1


@pytest.mark.parametrize("name", SOME)
def test_all_at_once(name: str, generator: torch.Generator) -> None:
    values = values_of(generator, [(3,), (5,)])
    fused, loop = (Side(name, values, x, averaged=True, scaled=True) for x in ("fused", "for_loop"))
    for side in (fused, loop):
        side.optimizer.clip_gradients(0.9, 0.02)
    step_with_planted(fused, loop, values, generator)
    assert set(ran(fused.optimizer)) == {"fused"}
    assert len(fused.optimizer._plans[0].averages) == len(values)


@dtypes
def test_the_norm_of_several_launches(dtype: torch.dtype, generator: torch.Generator) -> None:
    """Of two dtypes, on aligned memory and not: all of them are one norm."""
    values = [*values_of(generator, [(1030,), (5,), ()], dtype), *values_of(generator, [(7,)], torch.float16)]
    fused, loop = both("SGD", values, {"lr": 0.1})
    for optimizer in (fused, loop):
        optimizer.clip_gradients(max_norm=1.5)
    p = params_of(fused)[1]
    p.data = torch.empty(6, dtype=dtype)[1:].copy_(p.data)
    for _ in range(3):
        for optimizer, gradients in zip((fused, loop), [like(values, generator)] * 2, strict=True):
            give(params_of(optimizer), gradients)
            optimizer.step()
        torch.testing.assert_close(fused.grad_norm, loop.grad_norm)
        for x, y in zip(params_of(fused), params_of(loop), strict=True):
            torch.testing.assert_close(x, y)
    assert fused.launches["norm"] == fused.launches["prologue"] == fused.launches["update"] == 9


@pytest.mark.parametrize("planted", [torch.inf, -torch.inf, torch.nan])
def test_a_norm_that_is_no_number(planted: float, generator: torch.Generator) -> None:
    for limits in ((1.0, None), (None, 0.5), (1.0, 0.5)):
        values = values_of(generator, [(5,), (3,)])
        fused, loop = both("SGD", values, {"lr": 0.1})
        gradients = like(values, generator)
        gradients[0][1] = planted
        for optimizer in (fused, loop):
            optimizer.clip_gradients(*limits)
            give(params_of(optimizer), gradients)
            optimizer.step()
        assert_same(fused, loop)
        assert repr(fused.grad_norm) == repr(loop.grad_norm)


def test_limits_that_change(generator: torch.Generator) -> None:
    values = values_of(generator)
    fused, loop = both("AdamW", values)
    for limits in ((1.0, None), (1e9, None), (0.5, 0.1), (None, 0.2), (None, None)):
        for _ in range(2):
            gradients = like(values, generator)
            for optimizer in (fused, loop):
                optimizer.clip_gradients(*limits)
                give(params_of(optimizer), gradients)
                optimizer.step()
            assert_same(fused, loop, f"{limits}:")
            assert (fused.grad_norm is None) == (limits[0] is None)
    assert set(ran(fused)) == {"fused"}


@pytest.mark.filterwarnings("ignore:AdamW. no fused execution for these tensors")
def test_beside_what_runs_otherwise(generator: torch.Generator) -> None:
    """Fused tensors and others share a norm, a verdict and an average."""
    values = values_of(generator, [(5,), (4, 6)])
    values.append(values[1][:, ::2])
    fused, loop = (Side("AdamW", values, x, averaged=True, scaled=True) for x in ("fused", "for_loop"))
    p, q = (params_of(side.optimizer)[2] for side in (fused, loop))
    for x in (p, q):
        x.data = torch.zeros(4, 6).double()[:, ::2].copy_(x.data)
    for side in (fused, loop):
        side.optimizer.average_into(side.average, side.model)
        side.optimizer.clip_gradients(0.5, 0.2)
    step_with_planted(fused, loop, values, generator)
    assert ran(fused.optimizer) == {"fused": STEPS - 2, "foreach": STEPS - 2}


def test_a_first_step_that_is_skipped_is_none(generator: torch.Generator) -> None:
    """Though somebody has looked at the state before, which creates an empty one."""
    values = values_of(generator, [(5,), (3,)])
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    fused, loop = (Side("SGD", values, x, False, scaled=True, **options) for x in ("fused", "for_loop"))
    for step in range(3):
        gradients = like(values, generator)
        if step == 0:
            gradients[0][1] = torch.inf
        for side in (fused, loop):
            assert all(side.optimizer.state[p] is not None for p in params_of(side.optimizer))
            side.step(gradients)
        assert_same_sides(fused, loop, f"step {step}:")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_averages_of_narrow_parameters(dtype: torch.dtype, generator: torch.Generator) -> None:
    values = values_of(generator, [(5,), (3, 2)], dtype)
    model = nn.ParameterList([nn.Parameter(x.clone()) for x in values])
    averaged = AveragedModel(model.float(), multi_avg_fn=get_ema_multi_avg_fn(0.999))
    model.to(dtype)
    optimizer: Any = ALGORITHMS["SGD"](model.parameters(), lr=0.5, implementation="fused")
    optimizer.average_into(averaged, model)
    expected = None
    for _ in range(STEPS):
        give(params_of(optimizer), like(values, generator))
        optimizer.step()
        now = model[0].detach().double()
        expected = now if expected is None else 0.999 * expected + 0.001 * now
    assert ran(optimizer) == {"fused": STEPS}
    [average, _] = averaged.module.parameters()
    torch.testing.assert_close(average.detach().double(), expected, rtol=1e-6, atol=1e-6)


def test_averages_that_come_to_lie_elsewhere(generator: torch.Generator) -> None:
    values = values_of(generator, [(5,), (3,)])
    fused, loop = (Side("AdamW", values, x, averaged=True, scaled=False) for x in ("fused", "for_loop"))
    for step in range(STEPS + 1):
        gradients = like(values, generator)
        for side in (fused, loop):
            side.step(gradients)
        assert_same_sides(fused, loop, f"step {step}:")
        for side in (fused, loop):
            assert side.average is not None
            if step == 1:
                for p in side.average.parameters():
                    p.data = p.data * 2
            if step == 2:
                side.average.load_state_dict(AveragedModel(side.model).state_dict())
            if step == 3:
                side.optimizer.average_into(None)


def test_a_parameter_that_steps_from_now_on_is_averaged_as_before(generator: torch.Generator) -> None:
    values = values_of(generator, [(5,), (3,)])
    fused, loop = (Side("AdamW", values, x, averaged=True, scaled=False) for x in ("fused", "for_loop"))
    for step in range(STEPS):
        gradients = like(values, generator)
        if step >= 2:
            gradients.append(torch.full((3,), 0.5 + step))
        for side in (fused, loop):
            if step == 2:
                side.optimizer.add_param_group({"params": [side.model.frozen.requires_grad_()], "lr": 0.1})
            side.step(gradients)
        assert_same_averages(fused, loop, f"step {step}:")
