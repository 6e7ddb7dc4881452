"""The inverse Hessian of pairs: its product, what a product costs, and the memory that pairs take."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from optim_cli.optim.whole_vector.curvature import CurvaturePairs
from tests.optim.whole_vector.objectives import LBFGS


def dense(steps: list[Tensor], changes: list[Tensor], scale: float) -> Tensor:
    """The inverse Hessian by the update formula, a pair at a time; [n, n]."""
    identity = torch.eye(len(steps[0]), dtype=torch.float64)
    inverse = scale * identity
    for s, y in zip(steps, changes, strict=True):
        project = identity - torch.outer(y, s) / y.dot(s)
        inverse = project.T @ inverse @ project + torch.outer(s, s) / y.dot(s)
    return inverse


def way(generator: torch.Generator, size: int, count: int) -> tuple[list[Tensor], list[Tensor]]:
    """Steps, and gradients before and after them, of a quadratic."""
    factor = torch.randn(size, size, generator=generator, dtype=torch.float64)
    hessian = factor @ factor.T + torch.eye(size, dtype=torch.float64)
    steps = [torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(count)]
    where = torch.randn(size, generator=generator, dtype=torch.float64)
    gradients = [hessian @ where]
    for s in steps:
        where = where + s
        gradients.append(hessian @ where)
    return steps, gradients


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 17, 40])
def test_product_is_that_of_the_update_formula(size: int, generator: torch.Generator) -> None:
    """While the history fills, grows, and goes round more than twice."""
    count = 2 * size + 3
    steps, gradients = way(generator, 12, count)
    changes = [b - a for a, b in pairwise(gradients)]
    pairs = CurvaturePairs(size)
    assert torch.equal(pairs.descent(gradients[0]), -gradients[0])
    assert len(pairs.coefficients) == 0
    for number in range(count):
        pairs.append(steps[number], changes[number], steps[number].dot(changes[number]))
        direction = pairs.descent(gradients[number + 1])
        scale = steps[number].dot(changes[number]) / changes[number].square().sum()
        kept = slice(max(0, number + 1 - size), number + 1)
        exact = -dense(steps[kept], changes[kept], float(scale)) @ gradients[number + 1]
        torch.testing.assert_close(direction, exact, rtol=1e-6, atol=1e-6 * float(exact.abs().max()))
        assert len(pairs.coefficients) == min(size, number + 1)
        assert all(map(torch.equal, pairs.steps, steps[kept]))
        assert all(map(torch.equal, pairs.changes, changes[kept]))
        products = [1 / s.dot(y) for s, y in zip(steps[kept], changes[kept], strict=True)]
        torch.testing.assert_close(torch.stack(pairs.rho), torch.stack(products))


def test_small_steps_in_float32(generator: torch.Generator) -> None:
    """Where gradients change by a thousandth, products of the pairs keep about four digits."""
    size, count = 10, 25
    curvature = torch.linspace(1, 5, 200)
    where = torch.randn(200, generator=generator)
    pairs = CurvaturePairs(size)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    gradient = curvature * where
    for _ in range(count):
        before, s = gradient, 1e-3 * torch.randn(200, generator=generator)
        where = where + s
        gradient = curvature * where
        steps, changes = [*steps, s][-size:], [*changes, gradient - before][-size:]
        pairs.append(s, changes[-1], s.dot(changes[-1]))
        direction = pairs.descent(gradient)
        wide = [x.double() for x in steps], [x.double() for x in changes]
        exact = -dense(*wide, float(pairs.scale)) @ gradient.double()
        assert (direction - exact).norm() < 1e-2 * exact.norm()


def test_of_too_many_the_newest_are_loaded(generator: torch.Generator) -> None:
    steps, gradients = way(generator, 6, 9)
    changes = [b - a for a, b in pairwise(gradients)]
    rho = [1 / s.dot(y) for s, y in zip(steps, changes, strict=True)]
    whole, part = (
        CurvaturePairs.load(4, steps[skip:], changes[skip:], rho[skip:], gradients[-1], 1.0)
        for skip in (0, 5)
    )
    assert torch.equal(whole.descent(gradients[-1]), part.descent(gradients[-1]))


class Counting(TorchDispatchMode):
    """Counts operations, and those on matrices of so many columns."""

    def __init__(self, columns: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.columns, self.operations, self.products = columns, 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        views = (
            "slice",
            "select",
            "view",
            "alias",
            "t.",
            "transpose",
            "permute",
            "detach",
            "unbind",
            "diagonal",
        )
        name = str(function).removeprefix("aten.")
        if not name.startswith(views):
            self.operations += 1
            matrix = [x for x in args if isinstance(x, Tensor) and x.ndim == 2 and self.columns in x.shape]
            if matrix:
                assert name.startswith(("mv.", "addmv")), name
                self.products += 1
        return function(*args, **(kwargs or {}))


def test_a_direction_costs_four_products_whatever_the_history(generator: torch.Generator) -> None:
    operations = []
    for size in (2, 20, 100):
        pairs = CurvaturePairs(size)
        for _ in range(size + 3):
            s = torch.randn(500, generator=generator)
            pairs.append(s, s, s.dot(s))
            pairs.descent(s)
        with Counting(500) as counted:
            pairs.append(s, s, s.dot(s))
            pairs.descent(s)
        assert counted.products == 4
        operations.append(counted.operations)
    assert len(set(operations)) == 1
    assert operations[0] < 40


def held_at_once(cls: Any, size: int, iterations: int, history_size: int) -> tuple[int, int]:
    """Bytes at the peak of a run, and at its end; parameter and gradients are not counted."""
    p = torch.nn.Parameter(torch.ones(size))
    optimizer = cls([p], lr=1e-3, max_iter=1, history_size=history_size)
    p.grad = torch.zeros(size)
    gradients = torch.linspace(1, 2, size)

    def closure() -> float:
        assert p.grad is not None
        torch.mul(p.detach(), gradients, out=p.grad)
        return 0.0

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        for _ in range(iterations):
            optimizer.step(closure)
    assert watched.profiler is not None
    assert watched.profiler.kineto_results is not None
    events = [x for x in watched.profiler.kineto_results.events() if x.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most, held


def test_memory_is_that_of_torch() -> None:
    size, history_size = 20_000, 64
    (ours, left), (theirs, theirs_left) = (
        held_at_once(cls, size, 80, history_size) for cls in (LBFGS, torch.optim.LBFGS)
    )
    assert theirs_left > 2 * history_size * 4 * size, "the history never filled"
    assert left < 1.02 * theirs_left
    assert ours < 1.02 * theirs


def test_a_short_run_does_not_pay_for_a_long_history() -> None:
    ours, theirs = (held_at_once(cls, 20_000, 9, 64)[0] for cls in (LBFGS, torch.optim.LBFGS))
    assert ours < 1.2 * theirs
