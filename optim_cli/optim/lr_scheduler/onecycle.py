"""The 1cycle policy."""

from __future__ import annotations

import warnings
from math import cos, pi
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler.schedule import LRScheduler, Total, per_group

Rate = Annotated[float, Ge(0)]


class OneCycleLR(LRScheduler):
    """Up from a low rate to `max_lr`, then down far below it; momentum mirrored.

    Smith & Topin, "Super-Convergence", arXiv 1708.07120.

    Args:
        optimizer: the optimizer whose rates (and momentum or beta1) are set.
        max_lr: the peak, one or one per parameter group.
        total_steps: length of the cycle; or give `epochs` and `steps_per_epoch`.
        epochs: epochs to train.
        steps_per_epoch: steps in an epoch.
        pct_start: fraction of the cycle spent rising.
        anneal_strategy: shape of the ramps, cos or linear.
        cycle_momentum: mirror momentum (SGD) or beta1 (Adam) against the rate, where the optimizer has one.
        base_momentum: momentum at the peak of the rate.
        max_momentum: momentum at both ends.
        div_factor: the first rate is `max_lr / div_factor`.
        final_div_factor: the last rate is the first one over `final_div_factor`.
        three_phase: come down to the first rate as fast as it rose, then go on to the last.
        last_epoch: the step to resume after, -1 for a fresh start.

    Raises:
        ValueError: a value outside its range, or neither form of length given.
    """

    outright = True

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: Rate | list[Rate],
        total_steps: Total | None = None,
        epochs: Annotated[int, Ge(1)] | None = None,
        steps_per_epoch: Annotated[int, Ge(1)] | None = None,
        pct_start: Annotated[float, Ge(0), Le(1)] = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: Annotated[float, Gt(0)] = 25.0,
        final_div_factor: Annotated[float, Gt(0)] = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        self.total_steps = _length(total_steps, epochs, steps_per_epoch)
        if not isinstance(pct_start, float | int) or not 0 <= pct_start <= 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        self._anneal_func_type = anneal_strategy
        self._schedule_phases = _phases(self.total_steps, pct_start, three_phase)
        self.cycle_momentum = cycle_momentum and bool({"momentum", "betas"} & optimizer.defaults.keys())
        groups = optimizer.param_groups
        if last_epoch == -1:
            for group, peak in zip(groups, per_group("max_lr", max_lr, len(groups)), strict=True):
                group["initial_lr"] = peak / div_factor
                group["max_lr"] = peak
                group["min_lr"] = group["initial_lr"] / final_div_factor
        if self.cycle_momentum:
            self.use_beta1 = "betas" in optimizer.defaults
            if last_epoch == -1:
                highest = per_group("max_momentum", max_momentum, len(groups))
                lowest = per_group("base_momentum", base_momentum, len(groups))
                for group, high, low in zip(groups, highest, lowest, strict=True):
                    group["max_momentum"], group["base_momentum"] = high, low
        super().__init__(optimizer, last_epoch)

    def affine(self, t: int, index: int) -> tuple[float, float]:
        """The rate itself: nothing of the rate before enters."""
        return 0.0, self._at(t, self.optimizer.param_groups[index], "lr")

    def step(self, epoch: int | None = None) -> None:
        """Set rate and momentum of the next step; past the end, hold the last and warn once."""
        super().step(epoch)
        if self.last_epoch == self.total_steps + 1:
            warnings.warn(
                f"OneCycleLR: step {self.last_epoch} is past the end of the cycle of "
                f"{self.total_steps} steps; the last rate is held",
                stacklevel=2,
            )
        if self.cycle_momentum:
            for group in self.optimizer.param_groups:
                momentum = self._at(self.last_epoch, group, "momentum")
                if self.use_beta1:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum

    def _at(self, t: int, group: dict[str, Any], what: str) -> float:
        t = min(t, self.total_steps - 1)
        start = 0.0
        for phase in self._schedule_phases:
            end = phase["end_step"]
            if t <= end or phase is self._schedule_phases[-1]:
                # A phase of no length (a cycle of one step) is at its end.
                progress = (t - start) / (end - start) if end > start else 1.0
                return self._anneal(group[phase[f"start_{what}"]], group[phase[f"end_{what}"]], progress)
            start = end
        raise AssertionError("a cycle without phases")

    def _anneal(self, start: float, end: float, progress: float) -> float:
        if self._anneal_func_type == "linear":
            return (end - start) * progress + start
        return end + (start - end) / 2.0 * (cos(pi * progress) + 1)


def _length(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is not None:
        if not isinstance(total_steps, int) or total_steps <= 0:
            raise ValueError(f"Expected positive integer total_steps, but got {total_steps}")
        return total_steps
    if epochs is None or steps_per_epoch is None:
        raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
    for name, value in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
        if not isinstance(value, int) or value <= 0:
            raise ValueError(f"Expected positive integer {name}, but got {value}")
    return epochs * steps_per_epoch


def _phases(total_steps: int, pct_start: float, three_phase: bool) -> list[dict[str, Any]]:
    """The ramps, under torch's names, which its checkpoints hold: rate and momentum at both ends."""
    rise = pct_start * total_steps - 1
    last = total_steps - 1
    up = (rise, "initial_lr", "max_lr", "max_momentum", "base_momentum")
    if three_phase:
        back = (2 * rise, "max_lr", "initial_lr", "base_momentum", "max_momentum")
        ramps = [up, back, (last, "initial_lr", "min_lr", "max_momentum", "max_momentum")]
    else:
        ramps = [up, (last, "max_lr", "min_lr", "base_momentum", "max_momentum")]
    keys = ("end_step", "start_lr", "end_lr", "start_momentum", "end_momentum")
    return [dict(zip(keys, ramp, strict=True)) for ramp in ramps]
