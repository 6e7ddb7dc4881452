"""The 1cycle policy."""

from __future__ import annotations

import warnings
from math import cos, pi
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler import place
from optim_cli.optim.lr_scheduler.momentum import begin, momenta_of
from optim_cli.optim.lr_scheduler.schedule import Affine, LRScheduler, Total, per_group

Rate = Annotated[float, Ge(0)]


class OneCycleLR(LRScheduler):
    """Up from a low rate to `max_lr`, then down far below it; momentum mirrored.

    Smith & Topin, "Super-Convergence", arXiv 1708.07120.

    Args:
        optimizer: the optimizer whose values (and momentum or beta1) are set.
        max_lr: the peak, one or one per parameter group; None: each group's own rate.
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
        hyperparameter: what is scheduled; momentum is mirrored against the learning rate only.

    Raises:
        ValueError: a value outside its range, or neither form of length given.
    """

    outright = True
    # Whether some groups have betas and others a momentum; an attribute of the object only where it is so.
    uses_both = False

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: Rate | list[Rate] | None = None,
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
        *,
        hyperparameter: str = "lr",
    ) -> None:
        self._attach(optimizer, hyperparameter)
        self.total_steps = _length(total_steps, epochs, steps_per_epoch)
        if not isinstance(pct_start, float | int) or not 0 <= pct_start <= 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        self._anneal_func_type = anneal_strategy
        self._schedule_phases = _phases(hyperparameter, self.total_steps, pct_start, three_phase)
        momenta = momenta_of(optimizer) if cycle_momentum and hyperparameter == "lr" else []
        self.cycle_momentum = bool(momenta)
        groups = optimizer.param_groups
        if last_epoch == -1:
            peaks = (
                self._initial(hyperparameter) if max_lr is None else per_group("max_lr", max_lr, len(groups))
            )
            for group, peak in zip(groups, peaks, strict=True):
                first = peak / div_factor
                group[f"initial_{hyperparameter}"] = first
                group[place.highest(hyperparameter)] = peak
                group[f"min_{hyperparameter}"] = first / final_div_factor
        if momenta:
            self.use_beta1 = "betas.0" in momenta
            if len(momenta) > 1:
                self.uses_both = True
            if last_epoch == -1:
                begin(optimizer, base_momentum, max_momentum)
        super().__init__(optimizer, last_epoch, hyperparameter=hyperparameter)

    def affine(self, t: int) -> Affine:
        """The value itself."""
        return self.coefficients(t)[self.hyperparameter]

    def coefficients(self, t: int) -> dict[str, Affine]:
        """With the momentum, which is lowest at the peak of the rate."""
        if t >= self.total_steps:
            t = self.total_steps - 1
        start = 0.0
        for phase in self._schedule_phases:
            end = phase["end_step"]
            if t <= end:
                break
            start = end
        # A phase of no length (a cycle of one step) is at its end.
        progress = (t - start) / (end - start) if end > start else 1.0
        left = 1 - progress if self._anneal_func_type == "linear" else (cos(pi * progress) + 1) / 2
        first, last = phase["start_lr"], phase["end_lr"]
        first_momentum, last_momentum = phase["start_momentum"], phase["end_momentum"]
        cycled = self.cycle_momentum
        rates, momenta = [], []
        for group in self.optimizer.param_groups:
            goal = group[last]
            rates.append(goal + (group[first] - goal) * left)
            if cycled:
                goal = group[last_momentum]
                momenta.append(goal + (group[first_momentum] - goal) * left)
        found: dict[str, Affine] = {self.hyperparameter: (0.0, rates)}
        if cycled:
            found["betas.0" if self.use_beta1 else "momentum"] = (0.0, momenta)
            if self.uses_both:
                found["momentum"] = (0.0, momenta)
        return found

    def _move_to(self, t: int) -> None:
        self.last_epoch = t
        if t == self.total_steps + 1:
            warnings.warn(
                f"OneCycleLR: step {t} is past the end of the cycle of {self.total_steps} steps; "
                "the last rate is held",
                stacklevel=4,
            )


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


def _phases(name: str, total_steps: int, pct_start: float, three_phase: bool) -> list[dict[str, Any]]:
    """The ramps, under torch's names, which its checkpoints hold: rate and momentum at both ends."""
    first, peak, least = f"initial_{name}", place.highest(name), f"min_{name}"
    rise = pct_start * total_steps - 1
    last = total_steps - 1
    up = (rise, first, peak, "max_momentum", "base_momentum")
    if three_phase:
        back = (2 * rise, peak, first, "base_momentum", "max_momentum")
        ramps = [up, back, (last, first, least, "max_momentum", "max_momentum")]
    else:
        ramps = [up, (last, peak, least, "base_momentum", "max_momentum")]
    keys = ("end_step", "start_lr", "end_lr", "start_momentum", "end_momentum")
    return [dict(zip(keys, ramp, strict=True)) for ramp in ramps]
