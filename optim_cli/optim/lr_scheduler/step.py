"""Decay at certain steps: StepLR and MultiStepLR."""

from __future__ import annotations

from collections import Counter

from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler.schedule import Affine, LRScheduler, Moment


class StepLR(LRScheduler):
    """Times `gamma` every `step_size` steps.

    Args:
        optimizer: the optimizer whose values are set.
        step_size: steps between decays.
        gamma: the factor of a decay.
        last_epoch: the step to resume after, -1 for a fresh start.
        hyperparameter: what is scheduled.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        step_size: Moment,
        gamma: float = 0.1,
        last_epoch: int = -1,
        *,
        hyperparameter: str = "lr",
    ) -> None:
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch, hyperparameter=hyperparameter)

    def affine(self, t: int) -> Affine:
        """`gamma` where a decay is due."""
        return (self.gamma, 0.0) if t and t % self.step_size == 0 else (1.0, 0.0)


class MultiStepLR(LRScheduler):
    """Times `gamma` at each of the `milestones`; twice at one that is given twice.

    Args:
        optimizer: the optimizer whose values are set.
        milestones: steps of decays.
        gamma: the factor of a decay.
        last_epoch: the step to resume after, -1 for a fresh start.
        hyperparameter: what is scheduled.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: list[Moment],
        gamma: float = 0.1,
        last_epoch: int = -1,
        *,
        hyperparameter: str = "lr",
    ) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch, hyperparameter=hyperparameter)

    def affine(self, t: int) -> Affine:
        """`gamma` where a decay is due."""
        return self.gamma ** self.milestones[t] if t in self.milestones else 1.0, 0.0
