"""Cosine annealing, once and with restarts."""

from __future__ import annotations

from math import cos, floor, pi
from typing import Annotated

from annotated_types import Ge
from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler.schedule import Affine, LRScheduler, Steps, Total


class CosineAnnealingLR(LRScheduler):
    r"""Half a cosine from the initial rate to `eta_min` (SGDR without restarts, arXiv 1608.03983).

    .. math::
        \eta_t = \eta_{min} + \tfrac12 (\eta_0 - \eta_{min}) (1 + \cos(\pi t / T_{max}))

    Applied as torch does, relative to the rate of the step before; past `T_max` it rises again.

    Args:
        optimizer: the optimizer whose values are set.
        T_max: steps from the highest rate to the lowest.
        eta_min: the lowest rate.
        last_epoch: the step to resume after, -1 for a fresh start.
        hyperparameter: what is scheduled.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: Total,
        eta_min: Annotated[float, Ge(0)] = 0.0,
        last_epoch: int = -1,
        *,
        hyperparameter: str = "lr",
    ) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch, hyperparameter=hyperparameter)

    def affine(self, t: int) -> Affine:
        """The ratio of two neighbouring values of the cosine."""
        if t == 0:
            return 1.0, 0.0
        if (t - 1 - self.T_max) % (2 * self.T_max) == 0:
            # The step before stood at the minimum: there is nothing to scale.
            rise = (1 - cos(pi / self.T_max)) / 2
            return 1.0, [(base - self.eta_min) * rise for base in self.base_lrs]
        a = (1 + cos(pi * t / self.T_max)) / (1 + cos(pi * (t - 1) / self.T_max))
        return a, self.eta_min * (1 - a)


class CosineAnnealingWarmRestarts(LRScheduler):
    r"""Cosine annealing that starts anew every `T_0` steps, or after ever longer times (arXiv 1608.03983).

    .. math::
        \eta_t = \eta_{min} + \tfrac12 (\eta_0 - \eta_{min}) (1 + \cos(\pi T_{cur} / T_i))

    Args:
        optimizer: the optimizer whose values are set.
        T_0: steps until the first restart.
        T_mult: how many times longer each cycle is than the one before.
        eta_min: the lowest rate.
        last_epoch: the step to resume after, -1 for a fresh start.
        hyperparameter: what is scheduled.

    Raises:
        ValueError: a value outside its range.
    """

    outright = True

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: Steps,
        T_mult: Annotated[int, Ge(1)] = 1,
        eta_min: Annotated[float, Ge(0)] = 0.0,
        last_epoch: int = -1,
        *,
        hyperparameter: str = "lr",
    ) -> None:
        if not isinstance(T_0, int) or T_0 <= 0:
            raise ValueError(f"Expected positive integer T_0, but got {T_0}")
        if not isinstance(T_mult, int) or T_mult < 1:
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}")
        if not isinstance(eta_min, float | int):
            raise ValueError(f"Expected float or int eta_min, but got {eta_min} of type {type(eta_min)}")
        self.T_0 = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self.T_cur: float
        self.T_i: int
        super().__init__(optimizer, last_epoch, hyperparameter=hyperparameter)

    def affine(self, t: float) -> Affine:
        """The value itself; `t` may lie between steps."""
        return self._value(*self._cycle(t))

    def step(self, epoch: float | None = None) -> None:
        """Go on to the next step, or be at `epoch`, which may lie between steps: `epoch + batch / batches`.

        Raises:
            ValueError: `epoch` is below 0.
        """
        if epoch is not None and epoch < 0:
            raise ValueError(f"Expected non-negative epoch, but got {epoch}")
        self._move_to(self.last_epoch + 1 if epoch is None else epoch)
        self._apply(self.hyperparameter, self._value(self.T_cur, self.T_i))
        self._note_values()

    def _move_to(self, t: float) -> None:
        self.last_epoch = floor(t)
        self.T_cur, self.T_i = self._cycle(max(t, 0))

    def _value(self, passed: float, length: int) -> Affine:
        share = (1 + cos(pi * passed / length)) / 2
        return 0.0, [self.eta_min + (base - self.eta_min) * share for base in self.base_lrs]

    def _cycle(self, t: float) -> tuple[float, int]:
        """How far the cycle of step t is, and how long it is."""
        if self.T_mult == 1:
            return t % self.T_0, self.T_0
        length = self.T_0
        while t >= length:
            t -= length
            length *= self.T_mult
        return t, length
