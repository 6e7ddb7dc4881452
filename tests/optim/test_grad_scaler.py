"""Under torch.amp.GradScaler: unscaling and skipping within the step, against torch's optimizers under it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import swa_utils as theirs

from optim_cli.optim import ALGORITHMS
from optim_cli.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tests.optim.oracle import (
    NAMES,
    Options,
    assert_close,
    copied,
    drift,
    entries,
    give,
    like,
    parameters,
    params_of,
    ran,
    tensors,
    theirs_of,
)

STEPS = 6
# Where an infinity or a NaN is planted: in the first step too, where states begin.
PLANTED = {0: torch.inf, 3: torch.nan}
OPTIONS: dict[str, Options] = {"SGD": {"momentum": 0.9, "dampening": 0.3}}

names = pytest.mark.parametrize("name", NAMES)
implementations = pytest.mark.parametrize("implementation", ["for_loop", "foreach"])


class Scaled:
    """An optimizer under a scaler of its own, on gradients as a backward pass would leave them."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
        self.scaler.scale(torch.ones(()))  # which makes the scale

    def give(self, gradients: Sequence[Tensor]) -> None:
        give(params_of(self.optimizer), [g * self.scaler.get_scale() for g in gradients])

    def step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()


def drawn(values: Sequence[Tensor], generator: torch.Generator, step: int) -> list[Tensor]:
    gradients = like(values, generator)
    if step in PLANTED:
        gradients[2][1] = PLANTED[step]
    return gradients


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("unscaled", [False, True], ids=["in the step", "before"])
@implementations
@names
def test_as_torch_s(
    name: str, implementation: str, unscaled: bool, clipped: bool, generator: torch.Generator
) -> None:
    """Whether unscaled in the step or before it; torch's clips between unscaling and the step."""
    values, options = tensors(generator, torch.float64), OPTIONS.get(name, {})
    ours = Scaled(ALGORITHMS[name](parameters(values), **options, implementation=implementation))
    torchs = Scaled(theirs_of(name)(parameters(values), **options))
    mine: Any = ours.optimizer
    if clipped:
        mine.clip_gradients(max_norm=0.5)
    for step in range(STEPS):
        gradients = drawn(values, generator, step)
        for scaled in (ours, torchs):
            scaled.give(gradients)
        if unscaled:
            ours.scaler.unscale_(mine)
        held = [p.grad.clone() for p in params_of(mine) if p.grad is not None]
        torchs.scaler.unscale_(torchs.optimizer)
        norm = clip_grad_norm_(params_of(torchs.optimizer), 0.5) if clipped else None
        before = copied(entries(mine))
        ours.step()
        torchs.step()
        if step in PLANTED:
            after = entries(mine)
            assert before.keys() == after.keys(), "no state begins in a step that is skipped"
            assert all(
                torch.equal(x, y) for key in after for x, y in zip(before[key], after[key], strict=True)
            )
        assert_close(mine, torchs.optimizer, drift(name), f"step {step}:")
        assert ours.scaler.get_scale() == torchs.scaler.get_scale()
        now = [p.grad for p in params_of(mine) if p.grad is not None]
        assert all(torch.equal(x, y) or bool(y.isnan().any()) for x, y in zip(now, held, strict=True))
        if norm is not None:
            torch.testing.assert_close(mine.grad_norm, norm.float(), equal_nan=True)
    assert not {"grad_scale", "found_inf"} & vars(mine).keys()
    assert ran(mine) == {implementation: STEPS - len(PLANTED)}
    counts = {int(x["step"]) for x in mine.state.values() if "step" in x}
    assert counts <= {STEPS - len(PLANTED)}


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "SparseAdam"])
def test_sparse_gradients(name: str, generator: torch.Generator) -> None:
    values = torch.randn(6, 3, generator=generator)
    ours, torchs = (
        Scaled(cls([nn.Parameter(values.clone())])) for cls in (ALGORITHMS[name], theirs_of(name))
    )
    with torch.sparse.check_sparse_tensor_invariants():
        for step in range(STEPS):
            entered = torch.randn(4, 3, generator=generator)
            if step in PLANTED:
                entered[0, 1] = PLANTED[step]
            where = torch.randperm(6, generator=generator)[None, :4]
            for scaled in (ours, torchs):
                scaled.give([torch.sparse_coo_tensor(where, entered, (6, 3))])
                scaled.step()
            for p, q in zip(params_of(ours.optimizer), params_of(torchs.optimizer), strict=True):
                torch.testing.assert_close(p, q)
    assert ran(ours.optimizer)["sparse"] == STEPS - len(PLANTED)


@implementations
def test_float16(implementation: str, generator: torch.Generator) -> None:
    """Small gradients that the scale makes readable; torch's scaler would refuse to unscale them."""
    values = [x / 8 for x in tensors(generator, torch.float16)]
    small = [g.float() * 2**-20 for g in like(values, generator)]
    scaled = Scaled(ALGORITHMS["SGD"](parameters(values), lr=2.0**15, implementation=implementation))
    params = params_of(scaled.optimizer)
    give(params, [(g * scaled.scaler.get_scale()).half() for g in small])
    scaled.step()
    # Foreach unscales in float16, to multiples of 2^-24.
    error = 2**-8 if implementation == "foreach" else 2**-10
    for p, x, g in zip(params, values, small, strict=True):
        torch.testing.assert_close(p.float(), x.float() - g * 2**15, rtol=0, atol=error)


@implementations
def test_a_skipped_step_averages(implementation: str, generator: torch.Generator) -> None:
    """As torch's sequence does: step under the scaler, then update the average."""
    model, other = (nn.Linear(3, 2), nn.Linear(3, 2))
    other.load_state_dict(model.state_dict())
    ours = Scaled(ALGORITHMS["AdamW"](model.parameters(), implementation=implementation))
    torchs = Scaled(torch.optim.AdamW(other.parameters(), lr=1e-3))
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    expected = theirs.AveragedModel(other, multi_avg_fn=theirs.get_ema_multi_avg_fn(0.5))
    mine: Any = ours.optimizer
    mine.average_into(averaged, model)
    for step in range(STEPS):
        gradients = [torch.randn(p.shape, generator=generator) for p in model.parameters()]
        if step in (2, 3):
            gradients[0][1] = torch.inf
        for scaled in (ours, torchs):
            scaled.give(gradients)
            scaled.step()
        expected.update_parameters(other)
        assert int(averaged.n_averaged) == step + 1
        for x, y in zip(averaged.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(x, y)
    assert ran(mine) == {implementation: STEPS - 2}


def test_a_scaler_that_is_off(generator: torch.Generator) -> None:
    optimizer = ALGORITHMS["SGD"]([nn.Parameter(torch.ones(2))], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    give(params_of(optimizer), [torch.tensor([0.25, 0.5])])
    scaler.step(optimizer)
    assert params_of(optimizer)[0].tolist() == [0.75, 0.5]
