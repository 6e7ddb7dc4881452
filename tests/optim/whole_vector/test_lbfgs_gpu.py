"""L-BFGS on a CUDA device: the same way as on a CPU, whatever matrix products are allowed to round."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from optim_cli.optim.whole_vector.curvature import CurvaturePairs
from tests.optim.whole_vector.objectives import LBFGS, Run, assert_same_way, far_from_it, rosenbrock

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

OPTIONS: list[dict[str, Any]] = [
    {"lr": 1e-3, "history_size": 5},
    {"line_search_fn": "strong_wolfe", "history_size": 5},
    {"line_search_fn": "strong_wolfe", "history_size": 100},
]
options = pytest.mark.parametrize("options", OPTIONS, ids=str)


def moved(run: Run) -> Run:
    """With what it has met on the CPU."""
    run.evaluated = [x.cpu() for x in run.evaluated]
    where = run.where().cpu()
    run.where = lambda: where  # type: ignore[method-assign]
    return run


@options
def test_the_way_is_that_on_a_cpu_and_that_of_torch(options: dict[str, Any]) -> None:
    start = far_from_it(100)
    runs = [
        Run(LBFGS, rosenbrock, [start], **options),
        Run(LBFGS, rosenbrock, [start.cuda()], **options),
        Run(torch.optim.LBFGS, rosenbrock, [start.cuda()], **options),
    ]
    for run in runs:
        run.step(2)
    on_cpu, ours, theirs = map(moved, runs)
    assert_same_way(ours, on_cpu, 1e-6)
    assert_same_way(ours, theirs, 1e-6)
    assert ours.optimizer.executions == {"whole_vector": 2}
    assert {x.device.type for x in ours.state["old_dirs"]} == {"cuda"}


def test_a_checkpoint_goes_to_another_device() -> None:
    options = OPTIONS[1]
    run, other = (Run(LBFGS, rosenbrock, [far_from_it(10).to(x)], **options) for x in ("cuda", "cpu"))
    run.step(2)
    with torch.no_grad():
        other.params[0].copy_(run.params[0])
    other.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    for each in (run, other):
        each.evaluated.clear()
        each.step(2)
    assert_same_way(moved(run), other, 1e-6)


def test_tf32_changes_no_bit() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    vectors = [torch.randn(100_003, generator=generator, device="cuda") for _ in range(40)]

    def directions() -> list[Tensor]:
        pairs = CurvaturePairs(16)
        found = []
        for x, y in pairwise(vectors):
            change = x + 0.1 * y
            pairs.append(x, change, x.dot(change))
            found.append(pairs.descent(y))
        return found

    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = False
        exact = directions()
        torch.backends.cuda.matmul.allow_tf32 = True
        rounded = directions()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert all(map(torch.equal, exact, rounded))
