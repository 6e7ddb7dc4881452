"""What only a CUDA device shows: the same results there, no waiting for it, and graphs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS
from tests.optim.oracle import (
    NAMES,
    TOLERANCES,
    Entries,
    Options,
    align,
    arithmetics,
    difference,
    drift,
    entries,
    give,
    params_of,
    ran,
    theirs_of,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SHAPES = [(3, 4), (5,), (), (0,), (257, 129)]
STEPS = 4

names = pytest.mark.parametrize("name", NAMES)


def random_tensors(generator: torch.Generator, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Values of size 2 to 5, far from zero, where bfloat16 would compare roundings with nothing."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    # Among many values some cancel to nothing but rounding.
    shapes = SHAPES[:-1] if dtype == torch.bfloat16 else SHAPES
    values = [torch.randn(shape, generator=generator, dtype=wide) for shape in shapes]
    return [(x + 2 * x.sgn()).to("cuda", dtype) for x in values]


def build(cls: Any, values: Sequence[Tensor], options: Options) -> Any:
    return cls([nn.Parameter(x.clone()) for x in values], **options)


def on_host(optimizer: torch.optim.Optimizer) -> Entries:
    return {name: [x.cpu() for x in found] for name, found in entries(optimizer).items()}


@pytest.mark.parametrize("implementation", ["for_loop", "foreach", "auto"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@names
def test_steps_are_those_of_torch(
    name: str, dtype: torch.dtype, implementation: str, generator: torch.Generator
) -> None:
    values = random_tensors(generator, dtype)
    tolerance = max(TOLERANCES[dtype], drift(name))
    if dtype == torch.bfloat16:
        # By default torch runs foreach here, which rounds before RMSprop's centered variance cancels.
        tolerance = (2 * tolerance[0], 2 * tolerance[1])
    for options in arithmetics(name):
        ours = build(ALGORITHMS[name], values, options | {"implementation": implementation})
        theirs = build(theirs_of(name), values, options)
        for _ in range(STEPS):
            gradients = random_tensors(generator, dtype)
            for optimizer in (ours, theirs):
                give(params_of(optimizer), gradients)
                optimizer.step()
            found = difference(on_host(ours), on_host(theirs), tolerance)
            assert found is None, f"{options}: {found}"
            align(ours, entries(theirs))
        assert ran(ours) == {"fused" if implementation == "auto" else implementation: STEPS}


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("implementation", ["for_loop", "auto"])
@names
def test_a_step_does_not_wait_for_the_device(
    name: str, implementation: str, generator: torch.Generator
) -> None:
    values = random_tensors(generator)
    for lr in (0.01, torch.tensor(0.01, device="cuda")):
        for options in arithmetics(name):
            ours = build(ALGORITHMS[name], values, options | {"lr": lr, "implementation": implementation})
            give(params_of(ours), random_tensors(generator))
            ours.step()
            try:
                torch.cuda.set_sync_debug_mode("error")
                ours.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
            assert sum(ran(ours).values()) == 2


def captured(optimizer: torch.optim.Optimizer) -> torch.cuda.CUDAGraph:
    """Two steps on a side stream, then the graph of one (which does not run)."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        optimizer.step()
        optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    return graph


@pytest.mark.parametrize("implementation", ["for_loop", "foreach", "auto"])
@names
def test_a_captured_step_replays_with_changing_rates(
    name: str, implementation: str, generator: torch.Generator
) -> None:
    values = random_tensors(generator, torch.float64)
    for options in arithmetics(name):
        rate = torch.tensor(0.01, device="cuda", dtype=torch.float64)
        modes: Options = {"lr": rate, "capturable": True, "implementation": implementation}
        ours = build(ALGORITHMS[name], values, options | modes)
        theirs = build(theirs_of(name), values, options | {"lr": 0.01})
        gradients = random_tensors(generator, torch.float64)
        give(params_of(ours), gradients)
        for _ in range(2):  # torch's nesterov overwrites them
            give(params_of(theirs), gradients)
            theirs.step()
        graph = captured(ours)
        for lr in (0.01, 0.02, 0.005):
            rate.fill_(lr)
            theirs.param_groups[0]["lr"] = lr
            for p, q, g in zip(
                params_of(ours), params_of(theirs), random_tensors(generator, torch.float64), strict=True
            ):
                assert p.grad is not None
                assert q.grad is not None
                p.grad.copy_(g)
                q.grad.copy_(g)
            graph.replay()
            theirs.step()
        # 0-d states are float32 in both, and torch computes others from them in float32.
        found = difference(on_host(ours), on_host(theirs), (1e-6, 1e-6))
        assert found is None, f"{options}: {found}"


@names
def test_capture_without_capturable_is_refused(name: str, generator: torch.Generator) -> None:
    ours = build(ALGORITHMS[name], random_tensors(generator), {})
    if "step" not in ALGORITHMS[name].zero_dim_state:
        assert name == "SGD", "only what counts nothing may do without"
        return
    give(params_of(ours), random_tensors(generator))
    ours.step()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        params_of(ours)[0] * 2  # torch warns of a graph in which nothing was captured
        with pytest.raises(RuntimeError, match="capturable is False"):
            ours.step()


@pytest.mark.parametrize(("name", "options"), [("Adam", {}), ("SGD", {"momentum": 0.9})])
def test_a_first_step_in_a_capture_is_refused(
    name: str, options: Options, generator: torch.Generator
) -> None:
    ours = build(ALGORITHMS[name], random_tensors(generator), options | {"capturable": True})
    give(params_of(ours), random_tensors(generator))
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        params_of(ours)[0] * 2
        with pytest.raises(RuntimeError, match="take one step before the capture"):
            ours.step()


@pytest.mark.parametrize("name", ["SparseAdam", "SGD", "Adagrad"])
def test_sparse_gradients(name: str, generator: torch.Generator) -> None:
    options: Options = {"momentum": 0.9} if name == "SGD" else {}
    table = torch.randn((50, 4), generator=generator, dtype=torch.float64).cuda()
    ours, theirs = (build(cls, [table], options | {"lr": 0.1}) for cls in (ALGORITHMS[name], theirs_of(name)))
    with torch.sparse.check_sparse_tensor_invariants():
        for _ in range(STEPS):
            where = torch.randint(50, (1, 9), generator=generator).cuda()
            found = torch.randn((9, 4), generator=generator, dtype=torch.float64).cuda()
            for optimizer in (ours, theirs):
                params_of(optimizer)[0].grad = torch.sparse_coo_tensor(where, found, (50, 4))
                optimizer.step()
    torch.testing.assert_close(params_of(ours)[0], params_of(theirs)[0], rtol=1e-12, atol=1e-12)
    assert ran(ours) == {"foreach": STEPS, "sparse": STEPS}


def test_every_elementwise_algorithm_can_be_captured() -> None:
    assert all("capturable" in inspect.signature(ALGORITHMS[name]).parameters for name in NAMES)
