"""Several algorithms as one optimizer on a CUDA device: the host's results, no waiting, and in a graph."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS, MultiOptimizer
from optim_cli.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tests.optim.gpu.device import DEVICE, ON_GPU

pytestmark = [*ON_GPU, pytest.mark.filterwarnings("ignore:Synchronization debug mode")]

STEPS = 5
RATE = 0.01
# Muon's updates are in bfloat16, and products sum in another order on another device.
RTOL, ATOL = 2**-6, STEPS * RATE * 2**-5


class Side:
    """A model with its average, and Muon of its matrices beside two elementwise algorithms."""

    def __init__(self, model: nn.Module, device: str, capturable: bool = False) -> None:
        self.model = copy.deepcopy(model).to(device)
        self.params = [*self.model.parameters()]
        rest = [p for p in self.params if p.dim() != 2]
        self.optimizer = MultiOptimizer(
            [
                ALGORITHMS["SGD"](rest[:2], lr=RATE, momentum=0.9),
                ALGORITHMS["Muon"]([p for p in self.params if p.dim() == 2], lr=RATE),
                ALGORITHMS["AdamW"](rest[2:], lr=RATE, capturable=capturable),
            ]
        )
        self.averaged = AveragedModel(
            self.model, torch.device(device), multi_avg_fn=get_ema_multi_avg_fn(0.7)
        )

    def compose(self) -> None:
        self.optimizer.clip_gradients(max_norm=0.5, max_value=0.1)
        self.optimizer.average_into(self.averaged, self.model)

    def give(self, gradients: list[Tensor]) -> None:
        for p, g in zip(self.params, gradients, strict=True):
            p.grad = g.to(p.device, copy=True)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 32), nn.LayerNorm(32), nn.Linear(32, 17))


def drawn(model: nn.Module, generator: torch.Generator) -> list[Tensor]:
    return [torch.randn(p.shape, generator=generator) for p in model.parameters()]


def same(left: nn.Module, right: nn.Module) -> None:
    for (key, x), y in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        torch.testing.assert_close(x.cpu(), y.cpu(), rtol=RTOL, atol=ATOL, msg=key)


def test_as_on_the_host_without_waiting(generator: torch.Generator) -> None:
    model = network()
    there, here = Side(model, DEVICE), Side(model, "cpu")
    for side in (there, here):
        side.compose()
    for step in range(STEPS):
        gradients = drawn(model, generator)
        before = there.optimizer.launches
        for side in (there, here):
            side.give(gradients)
        here.optimizer.step()
        try:
            # In the first one states begin.
            torch.cuda.set_sync_debug_mode("error" if step else "default")
            there.optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert there.optimizer.grad_norm is not None
        assert there.optimizer.grad_norm.is_cuda
        torch.testing.assert_close(there.optimizer.grad_norm.cpu(), here.optimizer.grad_norm)
        same(there.model, here.model)
        same(there.averaged, here.averaged)
        # The norm is measured once for all, by none of them.
        now = there.optimizer.launches - before
        assert (now["norm"], now["update"]) == (0, 2), now
    assert there.optimizer.executions == {"fused": 2 * STEPS, "foreach": 2 * STEPS}
    parts: Any = there.optimizer.optimizers
    assert parts[2]._plans[0].averages, "in the kernel"
    assert int(there.averaged.n_averaged) == STEPS


def test_a_step_is_repeated(generator: torch.Generator) -> None:
    """Its factor lies where it lay."""
    side = Side(network(), DEVICE)
    side.compose()
    plans = []
    for _ in range(3):
        gradients = drawn(side.model, generator)
        side.give(gradients)
        side.optimizer.step()
        parts: Any = side.optimizer.optimizers
        plans.append([part._plans[0] for part in (parts[0], parts[2])])
    assert plans[0] == plans[1] == plans[2]


def test_under_a_scaler(generator: torch.Generator) -> None:
    model = network()
    sides = [Side(model, device) for device in (DEVICE, "cpu")]
    scalers = [torch.amp.GradScaler(device, init_scale=2.0**10) for device in (DEVICE, "cpu")]
    for step in range(STEPS):
        gradients = drawn(model, generator)
        if step in (0, 2):
            gradients[step][0] = torch.inf
        for side, scaler in zip(sides, scalers, strict=True):
            if step == 0:
                side.compose()
            scale = scaler.scale(torch.ones((), device=side.params[0].device)).item()
            side.give([g * scale for g in gradients])
            scaler.step(side.optimizer)
            scaler.update()
        there, here = sides
        same(there.model, here.model)
        same(there.averaged, here.averaged)
        assert int(there.averaged.n_averaged) == step + 1


@pytest.mark.parametrize("composed", [False, True])
def test_in_a_graph(composed: bool, generator: torch.Generator) -> None:
    """Replays take new gradients, measure them anew, and count."""
    model = network()
    ours, eager = Side(model, DEVICE, capturable=True), Side(model, DEVICE, capturable=True)
    first = drawn(model, generator)
    for side in (ours, eager):
        if composed:
            side.compose()
        side.give(first)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        ours.optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    eager.optimizer.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.optimizer.step()
    for _ in range(STEPS):
        gradients = drawn(model, generator)
        for p, g in zip(ours.params, gradients, strict=True):
            assert p.grad is not None
            p.grad.copy_(g)
        graph.replay()
        eager.give(gradients)
        eager.optimizer.step()
        same(ours.model, eager.model)
        if composed:
            same(ours.averaged, eager.averaged)
    counts = {int(state["step"]) for p in ours.params if "step" in (state := ours.optimizer.state[p])}
    assert counts == {STEPS + 1}
    # A step beside the graph, with gradients of its own.
    gradients = drawn(model, generator)
    for side in (ours, eager):
        side.give(gradients)
        side.optimizer.step()
    same(ours.model, eager.model)
