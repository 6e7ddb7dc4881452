"""The rate while weights are averaged."""

from __future__ import annotations

from math import cos, pi
from typing import Annotated, Literal

from annotated_types import Ge
from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler.schedule import Affine, Duration, LRScheduler, per_group

Rate = Annotated[float, Ge(0)]


class SWALR(LRScheduler):
    """From the rate that is found to `swa_lr`, which is then held (SWA, arXiv 1803.05407).

    Args:
        optimizer: the optimizer whose values are set.
        swa_lr: the rate to come to, one or one per parameter group.
        anneal_epochs: steps on the way.
        anneal_strategy: half a cosine or a straight line.
        last_epoch: the step to resume after, -1 for a fresh start.
        hyperparameter: what is scheduled.

    Raises:
        ValueError: a value outside its range, or a list of another length than the optimizer has groups.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: Rate | list[Rate],
        anneal_epochs: Annotated[int, Ge(0), Duration()] = 10,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        last_epoch: int = -1,
        *,
        hyperparameter: str = "lr",
    ) -> None:
        self._attach(optimizer, hyperparameter)
        groups = optimizer.param_groups
        for group, rate in zip(groups, per_group("swa_lr", swa_lr, len(groups)), strict=True):
            group[f"swa_{hyperparameter}"] = rate
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        self._anneal_strategy = anneal_strategy
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        self.anneal_epochs = anneal_epochs
        super().__init__(optimizer, last_epoch, hyperparameter=hyperparameter)

    def affine(self, t: int) -> Affine:
        """So much of what is left as the way from one step to the next takes."""
        ends = [group[f"swa_{self.hyperparameter}"] for group in self.optimizer.param_groups]
        left, before = 1 - self._progress(t), 1 - self._progress(t - 1)
        a = left / before if before else 0.0
        return a, [end * (1 - a) for end in ends]

    def jump(self, t: int) -> dict[str, Affine]:
        """As in torch: from the value that is found."""
        return self.coefficients(t)

    def _progress(self, t: int) -> float:
        if self.anneal_epochs == 0:
            return 1.0 if t >= 0 else 0.0
        way = max(0.0, min(1.0, t / self.anneal_epochs))
        return way if self._anneal_strategy == "linear" else (1 - cos(pi * way)) / 2
