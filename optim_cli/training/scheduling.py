"""When a schedule goes on."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Literal

from torch.optim.lr_scheduler import LRScheduler

from optim_cli.training.events import Metrics


@dataclass(frozen=True)
class Pace:
    """What a run tells its scheduler, and when.

    Attributes:
        interval: whether it is stepped after every step of the optimizer, or after every whole epoch.
        metric: the metric that it is told after every evaluation; None for none.
    """

    interval: Literal["step", "epoch"] = "step"
    metric: str | None = None

    def after_step(self, scheduler: LRScheduler, step: int, steps_per_epoch: int) -> None:
        """Step a scheduler, if it is time.

        Args:
            step: steps of the optimizer so far.
            steps_per_epoch: of the optimizer.
        """
        due = self.interval == "step" or step % steps_per_epoch == 0
        if due and not steps_by_metric(type(scheduler)):
            scheduler.step()

    def after_evaluation(self, scheduler: LRScheduler, metrics: Metrics) -> None:
        """Tell a scheduler the metric that it follows, if it follows one."""
        if self.metric is None:
            return
        value = metrics[self.metric]
        if steps_by_metric(type(scheduler)):
            scheduler.step(value)  # type: ignore[arg-type]
        else:
            scheduler.observe(value)  # type: ignore[attr-defined]


@cache
def steps_by_metric(scheduler: type[LRScheduler]) -> bool:
    """Whether `step` takes a metric in place of time, as that of torch's ReduceLROnPlateau."""
    return "metrics" in inspect.signature(scheduler.step).parameters
