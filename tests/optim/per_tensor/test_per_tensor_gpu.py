"""What only a CUDA device shows of per-tensor algorithms: torch's results there, and no waiting for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from optim_cli.optim import ALGORITHMS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MATRICES = [(48, 32), (32, 48), (32, 32), (32, 32), (257, 129)]
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "Adafactor": [*MATRICES, (5,), (), (16, 8, 3, 3)],
    "Muon": [*MATRICES, (48, 32)],
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("Adafactor", {}),
    ("Adafactor", {"weight_decay": 0.1, "maximize": True, "d": 2.0}),
    ("Muon", {}),
    ("Muon", {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"}),
]
# Adafactor drifts apart by the roundings of the dtype; Muon's updates are in bfloat16 whatever the dtype, and
# products of many matrices sum in another order there than those of one.
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 2**-4}
OF_MUON = 2**-6

cases = pytest.mark.parametrize(("name", "options"), CASES)


def parameters(name: str, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in SHAPES[name]]
    return [x.to("cuda", dtype).requires_grad_() for x in values]


def give_gradients(*lists: list[Tensor]) -> None:
    for alike in zip(*lists, strict=True):
        gradient = torch.randn_like(alike[0])
        for p in alike:
            p.grad = gradient.clone()


@pytest.mark.parametrize("implementation", ["for_loop", "foreach", "auto"])
@pytest.mark.parametrize("dtype", TOLERANCES)
@cases
def test_equals_torch(name: str, options: dict[str, Any], dtype: torch.dtype, implementation: str) -> None:
    if name == "Muon" and dtype == torch.bfloat16 and not options.get("nesterov", True):
        pytest.skip("torch overwrites its momentum there")
    mine, theirs = parameters(name, dtype), parameters(name, dtype)
    ours = ALGORITHMS[name](mine, lr=0.01, implementation=implementation, **options)
    reference = getattr(torch.optim, name)(theirs, lr=0.01, **options)
    for _ in range(5):
        give_gradients(mine, theirs)
        ours.step()
        reference.step()
    assert set(ours.executions) == {"foreach" if implementation == "auto" else implementation}
    tolerance = max(TOLERANCES[dtype], OF_MUON) if name == "Muon" else TOLERANCES[dtype]
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("implementation", ["for_loop", "foreach"])
@cases
def test_a_step_does_not_wait_for_the_device(name: str, options: dict[str, Any], implementation: str) -> None:
    mine = parameters(name, torch.float32)
    ours = ALGORITHMS[name](mine, lr=0.01, implementation=implementation, **options)
    give_gradients(mine)
    ours.step()
    try:
        torch.cuda.set_sync_debug_mode("error")
        ours.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert set(ours.executions) == {implementation}


@cases
def test_a_learning_rate_on_the_device_is_read(name: str, options: dict[str, Any]) -> None:
    mine, theirs = parameters(name, torch.float64), parameters(name, torch.float64)
    ours = ALGORITHMS[name](mine, lr=torch.tensor(0.01, device="cuda"), **options)
    plain = ALGORITHMS[name](theirs, lr=float(torch.tensor(0.01)), **options)
    give_gradients(mine, theirs)
    ours.step()
    plain.step()
    assert all(map(torch.equal, mine, theirs))


@cases
def test_parameters_may_be_on_two_devices(name: str, options: dict[str, Any]) -> None:
    here = parameters(name, torch.float32)
    there = [p.detach().cpu().requires_grad_() for p in here]
    ours = ALGORITHMS[name]([*here, *there], lr=0.01, **options)
    give_gradients(here)
    for p, q in zip(there, here, strict=True):
        assert q.grad is not None
        p.grad = q.grad.cpu()
    ours.step()
    for p, q in zip(there, here, strict=True):
        torch.testing.assert_close(p, q.cpu(), rtol=OF_MUON, atol=1e-3)


def test_adafactor_is_not_captured() -> None:
    """Its counts are on the host: a graph would repeat the step of the capture for ever."""
    mine = parameters("Adafactor", torch.float32)
    give_gradients(mine)
    ours = ALGORITHMS["Adafactor"](mine)
    ours.step()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        mine[0] * 2  # torch warns of a graph in which nothing was captured
        with pytest.raises(RuntimeError, match="Adafactor cannot be captured"):
            ours.step()


def test_muon_may_be_captured() -> None:
    mine, theirs = parameters("Muon", torch.float32), parameters("Muon", torch.float32)
    ours, eager = ALGORITHMS["Muon"](mine, lr=0.01), ALGORITHMS["Muon"](theirs, lr=0.01)
    give_gradients(mine, theirs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        ours.step()
    torch.cuda.current_stream().wait_stream(stream)
    eager.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.step()
    for _ in range(3):
        gradients = [torch.randn_like(p) for p in mine]
        for p, q, g in zip(mine, theirs, gradients, strict=True):
            assert p.grad is not None
            p.grad.copy_(g)
            q.grad = g
        graph.replay()
        eager.step()
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=OF_MUON, atol=1e-3)
