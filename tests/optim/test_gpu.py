"""What only a CUDA device shows: the same results there, no waiting for it, and graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optim_cli.optim import ALGORITHMS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SHAPES = [(3, 4), (5,), (), (0,), (257, 129)]
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"momentum": 0.9, "dampening": 0.1},
    ],
    "Adam": [{}, {"amsgrad": True, "weight_decay": 0.1, "maximize": True}],
    "AdamW": [{}, {"amsgrad": True}],
}
CASES = [(name, options) for name, cases in OPTIONS.items() for options in cases]


def parameters(dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator).to("cuda", dtype).requires_grad_() for s in SHAPES]


def give_gradients(*lists: list[torch.Tensor]) -> None:
    for tensors in zip(*lists, strict=True):
        gradient = torch.randn_like(tensors[0])
        for p in tensors:
            p.grad = gradient.clone()


@pytest.mark.parametrize("implementation", ["for_loop", "foreach", "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_equals_torch(name: str, options: dict[str, Any], dtype: torch.dtype, implementation: str) -> None:
    mine, theirs = parameters(dtype), parameters(dtype)
    ours = ALGORITHMS[name](mine, lr=0.01, implementation=implementation, **options)
    reference = getattr(torch.optim, name)(theirs, lr=0.01, foreach=True, **options)
    for _ in range(5):
        give_gradients(mine, theirs)
        ours.step()
        reference.step()
    assert ours.executions == {"foreach" if implementation == "auto" else implementation: 5}
    # The for-loop rounds once a step, torch's foreach at every operation: low precision drifts apart.
    loose = 0.05 if dtype == torch.bfloat16 else None
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=loose, atol=loose)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_step_does_not_wait_for_the_device(name: str, options: dict[str, Any]) -> None:
    rate = torch.tensor(0.01, device="cuda")
    for lr in (0.01, rate):
        mine = parameters(torch.float32)
        ours = ALGORITHMS[name](mine, lr=lr, **options)
        give_gradients(mine)
        ours.step()
        try:
            torch.cuda.set_sync_debug_mode("error")
            ours.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert ours.executions == {"foreach": 2}


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("implementation", ["for_loop", "foreach"])
def test_a_captured_step_counts_on_the_device(name: str, implementation: str) -> None:
    mine, theirs = parameters(torch.float32), parameters(torch.float32)
    rate = torch.tensor(0.01, device="cuda")
    ours = ALGORITHMS[name](mine, lr=rate, capturable=True, implementation=implementation)
    reference = getattr(torch.optim, name)(theirs, lr=0.01, foreach=True)
    give_gradients(mine, theirs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            ours.step()
    torch.cuda.current_stream().wait_stream(stream)
    for _ in range(2):
        reference.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.step()
    for lr in (0.01, 0.02, 0.005):
        rate.fill_(lr)
        for group in reference.param_groups:
            group["lr"] = lr
        gradients = [torch.randn_like(p) for p in mine]
        for p, q, g in zip(mine, theirs, gradients, strict=True):
            assert p.grad is not None
            p.grad.copy_(g)
            q.grad = g
        graph.replay()
        reference.step()
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x, y)
    assert ours.state[mine[0]]["step"].item() == 5


def test_capture_without_capturable_is_refused() -> None:
    mine = parameters(torch.float32)
    give_gradients(mine)
    ours = ALGORITHMS["Adam"](mine)
    ours.step()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        mine[0] * 2  # torch warns of a graph in which nothing was captured
        with pytest.raises(RuntimeError, match="capturable is False"):
            ours.step()
