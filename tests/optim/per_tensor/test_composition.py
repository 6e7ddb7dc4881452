"""Clipping, scaling and averaging within the step of per-tensor algorithms, against the same around it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from optim_cli.optim import ALGORITHMS
from optim_cli.optim.clipping import limited
from optim_cli.optim.execution import foreach
from optim_cli.optim.per_tensor.base import PerTensor
from optim_cli.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tests.optim.oracle import entries, give, like, parameters, params_of, ran
from tests.results import same_bits

STEPS = 4
SHAPES = [(3, 4), (4, 3), (3, 4), (2, 2)]
names = pytest.mark.parametrize("name", [x for x, cls in ALGORITHMS.items() if issubclass(cls, PerTensor)])
implementations = pytest.mark.parametrize("implementation", ["for_loop", "foreach"])


def drawn(generator: torch.Generator, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


def pair(name: str, values: list[Tensor], **options: Any) -> tuple[Any, Any]:
    """Equal optimizers: one that does it within, and one around whose step it is done."""
    within, around = (ALGORITHMS[name](parameters(values), lr=0.1, **options) for _ in range(2))
    return within, around


@pytest.mark.parametrize("limits", [(0.5, None), (None, 0.3), (0.5, 0.05), (1e9, 1e9)], ids=str)
@implementations
@names
def test_clipping_is_torch_s(
    name: str,
    implementation: str,
    limits: tuple[float | None, float | None],
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gradients stay as they are, also where a call gets a portion of them."""
    monkeypatch.setitem(foreach.PORTION_BYTES, "cpu", 64)
    values = drawn(generator, torch.float64)
    within, around = pair(name, values, implementation=implementation)
    within.clip_gradients(*limits)
    for _ in range(STEPS):
        gradients = like(values, generator)
        for optimizer in (within, around):
            give(params_of(optimizer), gradients)
        if limits[0] is not None:
            norm = clip_grad_norm_(params_of(around), limits[0])
        if limits[1] is not None:
            clip_grad_value_(params_of(around), limits[1])
        within.step()
        around.step()
        for x, y in zip(params_of(within), params_of(around), strict=True):
            # Muon rounds directions to bfloat16, where a last bit may fall otherwise.
            torch.testing.assert_close(x, y, rtol=0, atol=1e-3 if name == "Muon" else 1e-9)
        if limits[0] is not None:
            torch.testing.assert_close(within.grad_norm, norm.float())
        now = [p.grad for p in params_of(within) if p.grad is not None]
        assert same_bits(now, gradients)
    assert set(ran(within)) == {implementation}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@implementations
@names
def test_a_scaler_scales_and_skips(
    name: str, implementation: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    """By powers of two, which round nothing."""
    values = drawn(generator, dtype)
    within, around = pair(name, values, implementation=implementation)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    scaler.scale(torch.ones(()))
    for step in range(STEPS):
        gradients = like(values, generator)
        if step in (0, 2):
            gradients[1][0] = torch.nan
        else:
            give(params_of(around), gradients)
            around.step()
        scaled = [g * scaler.get_scale() for g in gradients]
        give(params_of(within), scaled)
        scaler.step(within)
        scaler.update()
        for key, found in entries(around).items():
            assert all(map(torch.equal, entries(within)[key], found)), (step, key)
    assert entries(within).keys() == entries(around).keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_gradients_are_rounded_once(dtype: torch.dtype, generator: torch.Generator) -> None:
    gradients = drawn(generator, dtype)
    factor, limit = torch.tensor(0.3, dtype=torch.float64), 0.2501
    found = limited(gradients, {"gradient_factor": factor, "clip_value": limit})
    for x, g in zip(found, gradients, strict=True):
        assert torch.equal(x, (g.float() * 0.3).clamp(-limit, limit).to(dtype))


@names
def test_every_step_ends_with_an_average(name: str, generator: torch.Generator) -> None:
    """Those that are skipped, too."""
    model = nn.ParameterList(parameters(drawn(generator)))
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.6))
    expected = copy.deepcopy(averaged)
    optimizer: Any = ALGORITHMS[name](model.parameters(), lr=0.1)
    optimizer.average_into(averaged, model)
    for step in range(STEPS):
        give([*model], drawn(generator))
        if step == 2:
            optimizer.found_inf = torch.ones(())
        optimizer.step()
        vars(optimizer).pop("found_inf", None)
        expected.update_parameters(model)
        assert same_bits(averaged.state_dict(), expected.state_dict()), step
    assert int(averaged.n_averaged) == STEPS
