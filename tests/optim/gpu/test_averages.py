"""Averages whose decay depends on a count on the device: as on the host, in eager steps and in replays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS
from optim_cli.optim.swa_utils import (
    AveragedModel,
    EqualAverage,
    ExponentialAverage,
    InverseGammaWarmup,
    PowerWarmup,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_multi_avg_fn,
    update_bn,
)
from tests.optim.gpu.device import DEVICE, FUSED, ON_GPU, drawn, step
from tests.optim.oracle import params_of, ran

pytestmark = ON_GPU

FLOAT64 = torch.float64
WARM: list[ExponentialAverage | EqualAverage] = [
    get_ema_multi_avg_fn(0.9, warmup=InverseGammaWarmup(2.0, 0.75)),
    get_ema_multi_avg_fn(0.999, warmup=PowerWarmup()),
]
averages = pytest.mark.parametrize("average", WARM, ids=str)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).to(FLOAT64)


def sides(average: ExponentialAverage | EqualAverage, **options: Any) -> list[tuple[AveragedModel, Any]]:
    """A model, its average and its optimizer on the device; the same on the host."""
    found: list[tuple[AveragedModel, Any]] = []
    here = network()
    there = network().to(DEVICE)
    there.load_state_dict(here.state_dict())
    for model, chosen in ((there, options), (here, {"implementation": "for_loop"})):
        averaged = AveragedModel(model, multi_avg_fn=average)
        optimizer: Any = ALGORITHMS["AdamW"](model.parameters(), lr=0.1, **chosen)
        optimizer.average_into(averaged, model)
        found.append((averaged, optimizer))
    return found


def assert_same(pair: list[tuple[AveragedModel, Any]], context: str) -> None:
    found, expected = (averaged.state_dict() for averaged, _ in pair)
    for key, x in expected.items():
        torch.testing.assert_close(found[key].cpu(), x, rtol=1e-6, atol=1e-6, msg=f"{context} {key}")


@averages
def test_eager_steps_and_replays(average: ExponentialAverage, generator: torch.Generator) -> None:
    """A replay reads the count where the ones before have left it."""
    pair = sides(average, **FUSED, capturable=True)
    optimizers = [optimizer for _, optimizer in pair]
    shapes = [tuple(p.shape) for p in params_of(optimizers[0])]
    for number in range(3):
        step(optimizers, drawn(generator, FLOAT64, shapes))
        assert_same(pair, f"step {number}:")
    alive: list[Tensor] = [torch.empty_like(p) for p in params_of(optimizers[0])]
    for p, g in zip(params_of(optimizers[0]), alive, strict=True):
        p.grad = g
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizers[0].step()
    for number in range(5):
        gradients = drawn(generator, FLOAT64, shapes)
        for g, new in zip(alive, gradients, strict=True):
            g.copy_(new)
        graph.replay()
        step(optimizers[1:], gradients)
        assert_same(pair, f"replay {number}:")
    assert set(ran(optimizers[0])) == {"fused"}
    assert len(optimizers[0]._plans[0].averages) == len(shapes)


@pytest.mark.parametrize("average", [*WARM, get_swa_multi_avg_fn()], ids=str)
def test_counts_on_the_device_without_kernels(
    average: ExponentialAverage | EqualAverage, generator: torch.Generator
) -> None:
    pair = sides(average, implementation="foreach")
    pair[0][0].n_averaged = pair[0][0].n_averaged.to(DEVICE)
    shapes = [tuple(p.shape) for p in params_of(pair[0][1])]
    for number in range(5):
        step([optimizer for _, optimizer in pair], drawn(generator, FLOAT64, shapes))
        assert_same(pair, f"step {number}:")


@averages
def test_one_tensor_at_a_time(average: ExponentialAverage) -> None:
    """With a count on the device, whatever takes it."""
    function = get_ema_avg_fn(average.decay, warmup=average.warmup)
    old, new = torch.randn(2, 5, dtype=FLOAT64, device=DEVICE)
    for count in (0, 3, 10**6):
        found = function(old, new, torch.tensor(count, device=DEVICE))
        torch.testing.assert_close(found.cpu(), function(old.cpu(), new.cpu(), count))


@averages
def test_float32_averages_of_bfloat16(average: ExponentialAverage, generator: torch.Generator) -> None:
    model = nn.Linear(65, 17).to(DEVICE, torch.bfloat16)
    averaged = AveragedModel(model, multi_avg_fn=average, dtype=torch.float32)
    optimizer: Any = ALGORITHMS["AdamW"](model.parameters(), lr=0.1, **FUSED)
    optimizer.average_into(averaged, model)
    expected = model.weight.detach().double()
    for count in range(6):
        step([optimizer], drawn(generator, torch.bfloat16, [tuple(p.shape) for p in model.parameters()]))
        decay = 0.0 if count == 0 else float(average.decay_at(count))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    assert len(optimizer._plans[0].averages) == 2
    found = dict(averaged.module.named_parameters())["weight"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_update_bn_moves_batches(generator: torch.Generator) -> None:
    here = network()
    there = network().to(DEVICE)
    there.load_state_dict(here.state_dict())
    batches = [torch.randn(8, 7, generator=generator, dtype=FLOAT64) for _ in range(3)]
    update_bn([{"input": x} for x in batches], there, torch.device(DEVICE))
    update_bn(batches, here)
    for x, y in zip(there.buffers(), here.buffers(), strict=True):
        torch.testing.assert_close(x.cpu(), y)
