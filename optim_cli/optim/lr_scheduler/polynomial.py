"""Polynomial decay."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler.schedule import Affine, LRScheduler, Total


class PolynomialLR(LRScheduler):
    r"""The initial rate times :math:`(1 - t / total\_iters)^{power}`, nothing from `total_iters` on.

    Args:
        optimizer: the optimizer whose values are set.
        total_iters: steps down to nothing.
        power: of the polynomial; 1 is a straight line.
        last_epoch: the step to resume after, -1 for a fresh start.
        hyperparameter: what is scheduled.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_iters: Total = 5,
        power: Annotated[float, Gt(0)] = 1.0,
        last_epoch: int = -1,
        *,
        hyperparameter: str = "lr",
    ) -> None:
        self.total_iters = total_iters
        self.power = power
        super().__init__(optimizer, last_epoch, hyperparameter=hyperparameter)

    def affine(self, t: int) -> Affine:
        """The ratio of two neighbouring values."""
        if not 0 < t <= self.total_iters:
            return 1.0, 0.0
        return ((1 - t / self.total_iters) / (1 - (t - 1) / self.total_iters)) ** self.power, 0.0
