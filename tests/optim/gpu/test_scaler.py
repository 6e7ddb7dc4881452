"""Under torch.amp.GradScaler on a GPU: planted infinities, clipping and averaging, and nothing waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tests.optim.gpu.device import (
    DEVICE,
    ON_GPU,
    assert_close,
    assert_equal,
    drawn,
    held,
    made,
    names,
    on_host,
    reference,
    some_steps,
    step,
)
from tests.optim.oracle import Options, params_of, ran, theirs_of

pytestmark = ON_GPU

FLOAT32 = torch.float32
STEPS = 7
# Where an infinity or a NaN is planted: in the first step too, where states begin.
PLANTED = {0: torch.inf, 3: torch.nan, 4: -torch.inf}
OPTIONS: dict[str, Options] = {"SGD": {"momentum": 0.9, "dampening": 0.3}}


class Scaled:
    """An optimizer under a scaler of its own, on gradients as a backward pass would leave them."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        place = params_of(optimizer)[0].device
        self.scaler = torch.amp.GradScaler(place.type, init_scale=2.0**12, growth_interval=2)
        self.scaler.scale(torch.ones((), device=place))  # which makes the scale

    def step(self, gradients: Sequence[Tensor], unscale: bool = False) -> None:
        scale = self.scaler.get_scale()
        for p, g in zip(params_of(self.optimizer), gradients, strict=True):
            p.grad = g.to(p.device, p.dtype) * scale
        if unscale:
            self.scaler.unscale_(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def planted(generator: torch.Generator, count: int) -> list[Tensor]:
    gradients = drawn(generator)
    if count in PLANTED:
        gradients[1][2] = PLANTED[count]
    return gradients


@contextmanager
def without_waiting() -> Iterator[None]:
    """What waits for the device in here is an error."""
    try:
        torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def set_scaler(optimizer: Any, scale: float, found_inf: float) -> None:
    """What torch's scaler sets before a step."""
    optimizer.grad_scale = torch.tensor(scale, device=DEVICE)
    optimizer.found_inf = torch.tensor(found_inf, device=DEVICE)


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("unscale", [False, True], ids=["in the step", "before"])
@names
def test_as_the_for_loop(name: str, unscale: bool, clipped: bool, generator: torch.Generator) -> None:
    """Who unscales before the step is found out, too."""
    values, options = drawn(generator), OPTIONS.get(name, {})
    ours, expected = (Scaled(build(name, values, **options)) for build in (made, reference))
    for scaled in (ours, expected):
        scaled.optimizer.clip_gradients(*((0.5, 0.05) if clipped else ()))
    for count in range(STEPS):
        gradients = planted(generator, count)
        before = held(ours.optimizer)
        ours.step(gradients, unscale)
        expected.step(gradients, unscale)
        if count in PLANTED:
            assert_equal(held(ours.optimizer), before)
        assert_close(ours.optimizer, expected.optimizer, some_steps(name, FLOAT32), f"step {count}:")
        assert ours.scaler.get_scale() == expected.scaler.get_scale()
        if clipped and count not in PLANTED:
            torch.testing.assert_close(ours.optimizer.grad_norm.cpu(), expected.optimizer.grad_norm)
    assert not {"grad_scale", "found_inf"} & vars(ours.optimizer).keys()
    assert set(ran(ours.optimizer)) == {"fused"}


# Those that torch fuses on CUDA.
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_as_torchs_fused(name: str, generator: torch.Generator) -> None:
    values, options = drawn(generator), OPTIONS.get(name, {})
    ours = Scaled(made(name, values, **options))
    params = [nn.Parameter(x.clone()) for x in values]
    theirs = Scaled(theirs_of(name)(params, **options, fused=True))
    # torch's SGD leaves a momentum buffer as it found the memory, if the first step is skipped.
    planting = range(1, STEPS) if name == "SGD" else range(STEPS)
    for count in range(STEPS):
        gradients = planted(generator, count) if count in planting else drawn(generator)
        ours.step(gradients)
        theirs.step(gradients)
        for p, q in zip(params_of(ours.optimizer), params, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5, msg=f"step {count}")
        assert ours.scaler.get_scale() == theirs.scaler.get_scale()
    counts = {int(state["step"]) for state in ours.optimizer.state.values() if "step" in state}
    assert counts == ({STEPS - len(PLANTED)} if name != "SGD" else set())


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@names
def test_a_step_under_a_scaler_does_not_wait(name: str, generator: torch.Generator) -> None:
    """Whether it is skipped or not; a skipped one averages, and changes nothing besides."""
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2)).to(DEVICE)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    ours = made(name, [torch.ones(1)])
    ours.param_groups[0]["params"] = [*model.parameters()]
    shapes = [tuple(p.shape) for p in model.parameters()]
    values = [p.detach().clone() for p in model.parameters()]
    expected = reference(name, values)
    for optimizer in (ours, expected):
        optimizer.clip_gradients(max_norm=0.5)
    ours.average_into(averaged, model)
    wanted = [on_host(p) for p in model.parameters()]
    for count in range(5):
        gradients = drawn(generator, shapes=shapes)
        skipped = count in (1, 3)
        for p, g in zip(model.parameters(), gradients, strict=True):
            p.grad = g * 64
            p.grad[..., 0] += torch.inf if skipped else 0
        set_scaler(ours, 64.0, float(skipped))
        if count:
            with without_waiting():
                ours.step()
        else:
            ours.step()
        if not skipped:
            step([expected], gradients)
        assert_close(ours, expected, some_steps(name, FLOAT32), f"step {count}:")
        now = [on_host(p) for p in params_of(expected)]
        wanted = [x + 0.25 * (y - x) for x, y in zip(wanted, now, strict=True)] if count else now
        for x, y in zip(averaged.parameters(), wanted, strict=True):
            torch.testing.assert_close(on_host(x), y, rtol=1e-4, atol=1e-4, msg=f"step {count}")
        assert int(averaged.n_averaged) == count + 1
    assert ran(ours) == {"fused": 5}


def test_float16_gradients_that_vanish_unscaled(generator: torch.Generator) -> None:
    """They are divided in float32: 2^-20 over a thousand is nothing in float16."""
    (value,) = drawn(generator, torch.float16, [(1025,)])
    ours = made("SGD", [value / 8], lr=2.0**15)
    (p,) = params_of(ours)
    start = p.detach().float()
    small = drawn(generator, shapes=[(1025,)])[0] * 2**-20
    p.grad = (small * 2**12).half()
    set_scaler(ours, 2.0**12, 0.0)
    ours.step()
    torch.testing.assert_close(p.detach().float(), start - small * 2**15, rtol=0, atol=2**-10)
