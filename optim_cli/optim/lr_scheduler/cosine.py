"""Cosine annealing."""

from __future__ import annotations

from math import cos, pi
from typing import Annotated

from annotated_types import Ge
from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler.schedule import LRScheduler, Total


class CosineAnnealingLR(LRScheduler):
    r"""Half a cosine from the initial rate to `eta_min` (SGDR without restarts, arXiv 1608.03983).

    .. math::
        \eta_t = \eta_{min} + \tfrac12 (\eta_0 - \eta_{min}) (1 + \cos(\pi t / T_{max}))

    Applied as torch does, relative to the rate of the step before; past `T_max` it rises again.

    Args:
        optimizer: the optimizer whose rates are set.
        T_max: steps from the highest rate to the lowest.
        eta_min: the lowest rate.
        last_epoch: the step to resume after, -1 for a fresh start.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: Total,
        eta_min: Annotated[float, Ge(0)] = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def affine(self, t: int, index: int) -> tuple[float, float]:
        """The ratio of two neighbouring values of the cosine."""
        if (t - 1 - self.T_max) % (2 * self.T_max) == 0:
            # The step before stood at the minimum: there is nothing to scale.
            return 1.0, (float(self.base_lrs[index]) - self.eta_min) * (1 - cos(pi / self.T_max)) / 2
        a = (1 + cos(pi * t / self.T_max)) / (1 + cos(pi * (t - 1) / self.T_max))
        return a, self.eta_min * (1 - a)
