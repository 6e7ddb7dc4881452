"""Clipping, unscaling and averaging on a CUDA device: the host's results, and no waiting for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from optim_cli.optim import ALGORITHMS
from optim_cli.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tests.optim.oracle import NAMES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
STEPS = 4

names = pytest.mark.parametrize("name", NAMES)
implementations = pytest.mark.parametrize("implementation", ["for_loop", "foreach", "auto"])


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever waits for the device fails."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()


def composed(name: str, device: str, implementation: str) -> tuple[nn.Module, AveragedModel, Any]:
    """A model, its average with the count beside it, and an optimizer that clips and averages."""
    model = network().to(device)
    averaged = AveragedModel(
        model, torch.device(device), multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=True
    )
    optimizer: Any = ALGORITHMS[name](model.parameters(), implementation=implementation)
    optimizer.clip_gradients(max_norm=0.5, max_value=0.1)
    optimizer.average_into(averaged, model)
    return model, averaged, optimizer


def same(left: nn.Module, right: nn.Module) -> None:
    for (key, x), y in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        torch.testing.assert_close(x.cpu(), y, rtol=1e-6, atol=1e-6, msg=key)


@implementations
@names
def test_as_on_the_host_without_waiting(name: str, implementation: str, generator: torch.Generator) -> None:
    there, average_there, optimizer_there = composed(name, "cuda", implementation)
    here, average_here, optimizer_here = composed(name, "cpu", "foreach")
    for step in range(STEPS):
        for p, q in zip(here.parameters(), there.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator).double()
            q.grad = p.grad.cuda()
        optimizer_here.step()
        if step == 0:
            optimizer_there.step()  # states begin
        else:
            with no_waiting():
                optimizer_there.step()
        assert optimizer_there.grad_norm.is_cuda
        torch.testing.assert_close(optimizer_there.grad_norm.cpu(), optimizer_here.grad_norm)
        same(there, here)
        same(average_there, average_here)


@implementations
@names
def test_under_a_scaler(name: str, implementation: str, generator: torch.Generator) -> None:
    """A planted infinity skips the step, and it is averaged all the same."""
    both = [composed(name, device, implementation) for device in ("cuda", "cpu")]
    scalers = [torch.amp.GradScaler(device, init_scale=2.0**10) for device in ("cuda", "cpu")]
    for step in range(STEPS):
        drawn = [torch.randn(p.shape, generator=generator).double() for p in both[0][0].parameters()]
        if step in (0, 2):
            drawn[1][0] = torch.inf
        for (model, _, optimizer), scaler in zip(both, scalers, strict=True):
            scale = scaler.scale(torch.ones((), device=next(model.parameters()).device)).item()
            for p, g in zip(model.parameters(), drawn, strict=True):
                p.grad = (g * scale).to(p.device)
            scaler.step(optimizer)
            scaler.update()
        (there, average_there, _), (here, average_here, _) = both
        same(there, here)
        same(average_there, average_here)
        assert int(average_there.n_averaged) == step + 1
