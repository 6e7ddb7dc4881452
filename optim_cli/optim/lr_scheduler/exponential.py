"""Exponential decay."""

from __future__ import annotations

from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler.schedule import Affine, LRScheduler


class ExponentialLR(LRScheduler):
    """Times `gamma` at every step.

    Args:
        optimizer: the optimizer whose values are set.
        gamma: the factor of a step.
        last_epoch: the step to resume after, -1 for a fresh start.
        hyperparameter: what is scheduled.
    """

    def __init__(
        self, optimizer: Optimizer, gamma: float, last_epoch: int = -1, *, hyperparameter: str = "lr"
    ) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch, hyperparameter=hyperparameter)

    def affine(self, t: int) -> Affine:
        """The factor; the first rate is the optimizer's."""
        return self.gamma if t else 1.0, 0.0
