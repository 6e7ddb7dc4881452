"""The line search on functions of one number: what it finds fulfils the strong Wolfe conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from optim_cli.optim.whole_vector.line_search import CURVATURE, DECREASE, Line, Point, strong_wolfe
from optim_cli.optim.whole_vector.objective import Objective

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "parabola": lambda x: (x - 3) ** 2,
    "steep wall": lambda x: (x - 3) ** 2 + torch.exp(4 * (x - 3)),
    "flat": lambda x: -torch.log1p(x**2) + 0.01 * x**2 - 0.1 * x,
    "wavy": lambda x: 0.1 * (x - 4) ** 2 - torch.sin(3 * x),
    "kinked": lambda x: (x - 2).abs() + 0.01 * x**2,
    "undefined beyond": lambda x: -torch.log(x + 1) - torch.sqrt(5 - x),
}


def line_of(function: Callable[[Any], Any]) -> tuple[Line, nn.Parameter]:
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def closure() -> Any:
        p.grad = None
        loss = function(p).sum()
        loss.backward()
        return loss

    objective = Objective([p], closure)
    loss, gradient = objective.evaluate()
    direction = -gradient.sign()
    return Line(objective, direction, Point(0.0, loss, gradient, float(gradient.dot(direction)))), p


@pytest.mark.parametrize("t", [1e-6, 0.01, 0.5, 1.0, 7.0, 300.0])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_point_fulfils_the_conditions(name: str, t: float) -> None:
    with torch.no_grad():
        line, p = line_of(FUNCTIONS[name])
        point, evaluations = strong_wolfe(line, t, 1e-9, 50)
        again = line.at(point.t)
    start = line.start
    assert 0 < evaluations <= 51
    assert (point.loss, point.slope) == (again.loss, again.slope)
    assert torch.equal(point.gradient, again.gradient)
    assert point.loss <= start.loss + DECREASE * point.t * start.slope
    if name != "kinked":  # where there is no flat point near the lowest one
        assert abs(point.slope) <= -CURVATURE * start.slope
    assert p == 0, "the parameters are where they were"


@pytest.mark.parametrize("trials", [0, 1, 2, 5])
def test_trials_run_out(trials: int) -> None:
    """The best point so far is taken, the start itself among them."""
    with torch.no_grad():
        line, _ = line_of(FUNCTIONS["steep wall"])
        point, evaluations = strong_wolfe(line, 40.0, 1e-9, trials)
    assert evaluations <= trials + 1
    assert point.loss <= line.start.loss


def test_a_narrow_interval_ends_the_search() -> None:
    with torch.no_grad():
        line, _ = line_of(FUNCTIONS["kinked"])
        few, many = (strong_wolfe(line, 1.0, tolerance, 100)[1] for tolerance in (0.1, 1e-12))
    assert few < many < 101


def test_no_number_counts_as_infinite() -> None:
    with torch.no_grad():
        line, _ = line_of(FUNCTIONS["undefined beyond"])
        assert line.at(6.0).loss == math.inf
