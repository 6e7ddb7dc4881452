"""A constant share of the rate for a while."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le
from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler.schedule import Affine, Duration, LRScheduler


class ConstantLR(LRScheduler):
    """The initial rate times `factor` until step `total_iters`, then the initial rate.

    Args:
        optimizer: the optimizer whose values are set.
        factor: the share.
        total_iters: steps that it lasts.
        last_epoch: the step to resume after, -1 for a fresh start.
        hyperparameter: what is scheduled.

    Raises:
        ValueError: `factor` is outside [0, 1].
    """

    def __init__(
        self,
        optimizer: Optimizer,
        factor: Annotated[float, Ge(0), Le(1)] = 1.0 / 3,
        total_iters: Annotated[int, Ge(0), Duration(total=True)] = 5,
        last_epoch: int = -1,
        *,
        hyperparameter: str = "lr",
    ) -> None:
        if not 0 <= factor <= 1:
            raise ValueError("Constant multiplicative factor expected to be between 0 and 1.")
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch, hyperparameter=hyperparameter)

    def affine(self, t: int) -> Affine:
        """The factor at the start, its inverse at the end; from nothing, the initial rate itself."""
        if t == 0:
            return self.factor if self.total_iters > 0 else 1.0, 0.0
        if t != self.total_iters:
            return 1.0, 0.0
        return (1.0 / self.factor, 0.0) if self.factor else (0.0, self.base_lrs)
