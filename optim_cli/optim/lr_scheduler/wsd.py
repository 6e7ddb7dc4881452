"""Warmup, stable, decay."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sqrt
from typing import Annotated, Literal

from annotated_types import Ge, Le
from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler.schedule import Affine, Duration, LRScheduler, Total

Share = Annotated[float, Ge(0), Le(1)]
MaybeNoSteps = Annotated[int, Ge(0), Duration()]


class WarmupStableDecayLR(LRScheduler):
    """Up in a straight line, constant for most of the run, then down (WSD; MiniCPM, arXiv 2404.06395).

    How long to train need not be known until the decay begins, from any checkpoint of the stable phase.

    Args:
        optimizer: the optimizer whose values are set.
        total_iters: steps of all three phases; the last value is held from there.
        warmup_iters: steps of the first phase.
        decay_iters: steps of the last phase.
        start_factor: the first share of the initial rate.
        end_factor: the last share.
        decay: shape of the way down: a straight line, half a cosine, `1 - sqrt(s)` (Haegele et al.,
            arXiv 2405.18392), or exponential as in MiniCPM, whose `end_factor` must be above 0.
        last_epoch: the step to resume after, -1 for a fresh start.
        hyperparameter: what is scheduled.

    Raises:
        ValueError: a value outside its range, or phases that are longer than the whole.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_iters: Total,
        warmup_iters: MaybeNoSteps = 0,
        decay_iters: MaybeNoSteps = 0,
        start_factor: Share = 0.0,
        end_factor: Share = 0.0,
        decay: Literal["linear", "cos", "sqrt", "exponential"] = "linear",
        last_epoch: int = -1,
        *,
        hyperparameter: str = "lr",
    ) -> None:
        for name, value in (("start_factor", start_factor), ("end_factor", end_factor)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, but got {value}")
        for name, value in (("warmup_iters", warmup_iters), ("decay_iters", decay_iters)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0, but got {value}")
        if warmup_iters + decay_iters > total_iters:
            raise ValueError(
                f"warmup_iters={warmup_iters} and decay_iters={decay_iters} are more than "
                f"total_iters={total_iters}"
            )
        if decay not in (*_SHAPES, "exponential"):
            raise ValueError(f"decay must be one of {', '.join(_SHAPES)}, exponential, but got {decay!r}")
        if decay == "exponential" and end_factor == 0:
            raise ValueError("an exponential decay never gets to 0: end_factor must be above 0")
        self.total_iters = total_iters
        self.warmup_iters = warmup_iters
        self.decay_iters = decay_iters
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.decay = decay
        super().__init__(optimizer, last_epoch, hyperparameter=hyperparameter)

    def affine(self, t: int) -> Affine:
        """The ratio of two neighbouring shares; from nothing, the value itself."""
        share, before = self._share(t), self._share(t - 1) if t else 1.0
        if before == 0:
            return 0.0, [base * share for base in self.base_lrs]
        return share / before, 0.0

    def _share(self, t: int) -> float:
        if t < self.warmup_iters:
            return self.start_factor + (1 - self.start_factor) * t / self.warmup_iters
        gone = t - (self.total_iters - self.decay_iters)
        if gone <= 0 or self.decay_iters == 0:
            return 1.0
        progress = min(gone / self.decay_iters, 1.0)
        if self.decay == "exponential":
            return float(self.end_factor**progress)
        return self.end_factor + (1 - self.end_factor) * _SHAPES[self.decay](progress)


# What is left at a share of the way down, from 1 to 0.
_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    "cos": lambda x: (1 + cos(pi * x)) / 2,
    "sqrt": lambda x: 1 - sqrt(x),
}
