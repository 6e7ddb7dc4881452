"""Cycles between two rates."""

from __future__ import annotations

from collections.abc import Callable
from math import floor
from types import FunctionType
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler import place
from optim_cli.optim.lr_scheduler.momentum import begin, momenta_of
from optim_cli.optim.lr_scheduler.schedule import Affine, LRScheduler, Steps, per_group

Rate = Annotated[float, Ge(0)]


class CyclicLR(LRScheduler):
    """Up and down between `base_lr` and `max_lr` in straight lines; momentum mirrored.

    Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186.

    Args:
        optimizer: the optimizer whose values (and momentum or beta1) are set.
        base_lr: the lowest rate, one or one per parameter group.
        max_lr: the highest rate of the first cycle, likewise; None: each group's own rate.
        step_size_up: steps on the way up.
        step_size_down: steps on the way down; None for as many.
        mode: how the height changes: not at all, halved at every cycle, or times `gamma` at every step.
        gamma: of the mode exp_range.
        scale_fn: the height as a function of the cycle or the step, instead of a mode.
        scale_mode: what `scale_fn` is of: cycle (from 1) or iterations.
        cycle_momentum: mirror momentum (SGD) or beta1 (Adam) against the rate, where the optimizer has one.
        base_momentum: momentum at the highest rate.
        max_momentum: momentum at the lowest rate.
        last_epoch: the step to resume after, -1 for a fresh start.
        hyperparameter: what is scheduled; momentum is mirrored against the learning rate only.

    Raises:
        ValueError: an unknown mode, or lists of another length than the optimizer has groups.
    """

    outright = True
    # Whether some groups have betas and others a momentum; an attribute of the object only where it is so.
    uses_both = False

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: Rate | list[Rate],
        max_lr: Rate | list[Rate] | None = None,
        step_size_up: Steps = 2000,
        step_size_down: Steps | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: Annotated[float, Gt(0)] = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
        *,
        hyperparameter: str = "lr",
    ) -> None:
        self._attach(optimizer, hyperparameter)
        groups = optimizer.param_groups
        lowest = per_group("base_lr", base_lr, len(groups))
        if max_lr is None:
            max_lr = self._initial(hyperparameter)
            highest = place.highest(hyperparameter)
            if last_epoch == -1:
                # For those who resume: what the groups start from is the lowest rate from now on.
                for group, rate in zip(groups, max_lr, strict=True):
                    group[highest] = rate
            max_lr = [group.get(highest, rate) for group, rate in zip(groups, max_lr, strict=True)]
        if last_epoch == -1:
            for group, rate in zip(groups, lowest, strict=True):
                place.write(group, hyperparameter, rate)
        self.max_lrs = per_group("max_lr", max_lr, len(groups))
        up = float(step_size_up)
        self.total_size = up + (up if step_size_down is None else float(step_size_down))
        self.step_ratio = up / self.total_size
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError("mode is invalid and scale_fn is None")
        self.mode = mode
        self.gamma = gamma
        self._scale_fn_custom = scale_fn
        self.scale_mode = scale_mode if scale_fn else "iterations" if mode == "exp_range" else "cycle"
        momenta = momenta_of(optimizer) if cycle_momentum and hyperparameter == "lr" else []
        self.cycle_momentum = bool(momenta)
        if momenta:
            self.use_beta1 = "betas.0" in momenta
            if len(momenta) > 1:
                self.uses_both = True
            self.base_momentums = per_group("base_momentum", base_momentum, len(groups))
            self.max_momentums = per_group("max_momentum", max_momentum, len(groups))
            if last_epoch == -1:
                begin(optimizer, base_momentum, max_momentum)
        super().__init__(optimizer, last_epoch, hyperparameter=hyperparameter)
        # Anew from the lowest rate: a schedule made before this one has left another initial rate.
        self.base_lrs = lowest
        self.last_epoch = last_epoch
        self._initial_step()

    def affine(self, t: int) -> Affine:
        """The value itself."""
        return self.coefficients(t)[self.hyperparameter]

    def coefficients(self, t: int) -> dict[str, Affine]:
        """With the momentum, which is highest where the rate is lowest."""
        height = self._height(t)
        rates, momenta = [], []
        for low, high in zip(self.base_lrs, self.max_lrs):  # noqa: B905
            rates.append(low + (high - low) * height)
        found: dict[str, Affine] = {self.hyperparameter: (0.0, rates)}
        if self.cycle_momentum:
            for low, high in zip(self.base_momentums, self.max_momentums):  # noqa: B905
                momenta.append(high - (high - low) * height)
            found["betas.0" if self.use_beta1 else "momentum"] = (0.0, momenta)
            if self.uses_both:
                found["momentum"] = (0.0, momenta)
        return found

    def scale_fn(self, x: float) -> float:
        """The height of a cycle, or at a step, as a share of the first one's."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "triangular":
            return 1.0
        return float(self.gamma**x if self.mode == "exp_range" else 0.5 ** (x - 1))

    def state_dict(self) -> dict[str, Any]:
        """The state; of a callable object as `scale_fn` its attributes, of a function nothing."""
        state = super().state_dict()
        own = self._scale_fn_custom
        kept = own is not None and not isinstance(own, FunctionType)
        return state | {"_scale_fn_custom": own.__dict__.copy() if kept else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state; a function stays as it is."""
        own = self._scale_fn_custom
        super().load_state_dict(state_dict)
        self._scale_fn_custom = own
        if state_dict["_scale_fn_custom"] is not None:
            own.__dict__.update(state_dict["_scale_fn_custom"])

    def _height(self, t: int) -> float:
        cycles = t / self.total_size
        cycle = floor(1 + cycles)
        x = 1.0 + cycles - cycle
        height = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        return height * self.scale_fn(cycle if self.scale_mode == "cycle" else t)
