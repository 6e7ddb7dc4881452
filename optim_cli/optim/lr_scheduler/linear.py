"""A straight line between two shares of the rate."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le
from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler.schedule import Affine, Duration, LRScheduler


class LinearLR(LRScheduler):
    """The initial rate times a factor that goes from `start_factor` to `end_factor`, and stays there.

    Args:
        optimizer: the optimizer whose values are set.
        start_factor: the first factor.
        end_factor: the last factor.
        total_iters: steps from one to the other; with 0, the last is there from the start.
        last_epoch: the step to resume after, -1 for a fresh start.
        hyperparameter: what is scheduled.

    Raises:
        ValueError: `start_factor` is outside (0, 1], or `end_factor` outside [0, 1].
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: Annotated[float, Gt(0), Le(1)] = 1.0 / 3,
        end_factor: Annotated[float, Ge(0), Le(1)] = 1.0,
        total_iters: Annotated[int, Ge(0), Duration(total=True)] = 5,
        last_epoch: int = -1,
        *,
        hyperparameter: str = "lr",
    ) -> None:
        if not 0 < start_factor <= 1:
            raise ValueError(
                "Starting multiplicative factor expected to be greater than 0 and less or equal to 1."
            )
        if not 0 <= end_factor <= 1:
            raise ValueError("Ending multiplicative factor expected to be between 0 and 1.")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch, hyperparameter=hyperparameter)

    def affine(self, t: int) -> Affine:
        """The ratio of two neighbouring points of the line."""
        if t == 0:
            return self.start_factor if self.total_iters > 0 else self.end_factor, 0.0
        if t > self.total_iters:
            return 1.0, 0.0
        rise = self.end_factor - self.start_factor
        return 1.0 + rise / (self.total_iters * self.start_factor + (t - 1) * rise), 0.0
