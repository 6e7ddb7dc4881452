"""Line search for the strong Wolfe conditions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from optim_cli.optim.whole_vector.objective import Objective

# How much of the decrease that the slope promises must be there, and how much of the slope may be left
# (Nocedal and Wright, Numerical Optimization, section 3.1: quasi-Newton methods).
DECREASE, CURVATURE = 1e-4, 0.9


@dataclass(frozen=True)
class Point:
    """A point of the line.

    Attributes:
        t: its distance from the start, in directions.
        loss, gradient: of the function there; the loss is infinite where it is no number, the gradient [n].
        slope: the gradient along the direction.
    """

    t: float
    loss: float
    gradient: Tensor
    slope: float


@dataclass(frozen=True)
class Line:
    """The objective along a direction from where the parameters are.

    Attributes:
        direction: [n].
        start: downhill along the direction.
    """

    objective: Objective
    direction: Tensor
    start: Point

    def at(self, t: float) -> Point:
        """Evaluate; afterwards the parameters are as they were, also if the closure raises."""
        copies = self.objective.copies()
        try:
            self.objective.move(self.direction, t)
            loss, gradient = self.objective.evaluate()
        finally:
            self.objective.restore(copies)
        slope = float(gradient.dot(self.direction))
        return Point(t, math.inf if math.isnan(loss) else loss, gradient, slope)


def strong_wolfe(line: Line, t: float, tolerance_change: float, max_trials: int) -> tuple[Point, int]:
    """Find a point that fulfils the strong Wolfe conditions, or the best one that there was time for.

    First the steps grow until they enclose such a point, then the interval shrinks around it (Nocedal and
    Wright, algorithms 3.5 and 3.6, with cubic interpolation).

    Args:
        line: what to search.
        t: the first distance to try.
        tolerance_change: an interval in which no parameter changes by more ends the search.
        max_trials: trials after the first one.

    Returns:
        The point, and how often the function was evaluated.
    """
    start, size = line.start, float(torch.linalg.vector_norm(line.direction, math.inf))

    def too_high(point: Point) -> bool:
        return point.loss > start.loss + DECREASE * point.t * start.slope

    def flat(point: Point) -> bool:
        return abs(point.slope) <= -CURVATURE * start.slope

    before, point, trials = start, line.at(t), 0
    while trials < max_trials:
        if too_high(point) or (trials > 1 and point.loss >= before.loss):
            ends = [before, point]
            break
        if flat(point):
            return point, trials + 1
        if point.slope >= 0:
            ends = [before, point]
            break
        bounds = point.t + 0.01 * (point.t - before.t), 10 * point.t
        before, point = point, line.at(_lowest(before, point, *bounds))
        trials += 1
    else:
        ends = [start, point]

    low = _lower(ends)
    hugs_an_end = False
    while trials < max_trials:
        left, right = sorted(end.t for end in ends)
        if (right - left) * size < tolerance_change:
            break
        t = _lowest(ends[0], ends[1], left, right)
        margin = 0.1 * (right - left)
        if min(right - t, t - left) >= margin:
            hugs_an_end = False
        elif hugs_an_end or not left < t < right:
            # The second time so close to an end, the interval would hardly shrink.
            t = right - margin if right - t < t - left else left + margin
            hugs_an_end = False
        else:
            hugs_an_end = True
        point = line.at(t)
        trials += 1
        if too_high(point) or point.loss >= ends[low].loss:
            ends[1 - low] = point
            low = _lower(ends)
        elif flat(point):
            return point, trials + 1
        else:
            if point.slope * (ends[1 - low].t - ends[low].t) >= 0:
                ends[1 - low] = ends[low]
            ends[low] = point
    return ends[low], trials + 1


def _lower(ends: list[Point]) -> int:
    return 0 if ends[0].loss <= ends[1].loss else 1


def _lowest(first: Point, second: Point, left: float, right: float) -> float:
    """Where, within bounds, the cubic through two points is lowest, or the middle of the bounds."""
    a, b = (first, second) if first.t <= second.t else (second, first)
    bend = a.slope + b.slope - 3 * _ratio(a.loss - b.loss, a.t - b.t)
    square = bend * bend - a.slope * b.slope
    root = math.sqrt(square) if square >= 0 else math.nan
    t = b.t - (b.t - a.t) * _ratio(b.slope + root - bend, b.slope - a.slope + 2 * root)
    return (left + right) / 2 if math.isnan(t) else min(max(t, left), right)


def _ratio(numerator: float, denominator: float) -> float:
    # A straight line has its lowest point at infinity.
    return numerator / denominator if denominator else math.copysign(math.inf, numerator)
