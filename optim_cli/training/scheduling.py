"""When a schedule goes on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch

from optim_cli.optim.lr_scheduler.groupwise import GroupwiseLR
from optim_cli.optim.lr_scheduler.parts import ChainedScheduler, SequentialLR
from optim_cli.optim.lr_scheduler.schedule import LRScheduler
from optim_cli.training.events import Metrics

AnyScheduler = torch.optim.lr_scheduler.LRScheduler


@dataclass(frozen=True)
class Pace:
    """What a run tells its scheduler, and when.

    Attributes:
        interval: whether it is stepped after every step of the optimizer, or after every whole epoch.
        metric: the metric that it is told after every evaluation; None for none.
    """

    interval: Literal["step", "epoch"] = "step"
    metric: str | None = None

    def after_step(self, scheduler: AnyScheduler, step: int, steps_per_epoch: int) -> None:
        """Step a scheduler, if it is time.

        Args:
            step: steps of the optimizer so far.
            steps_per_epoch: of the optimizer.
        """
        due = self.interval == "step" or step % steps_per_epoch == 0
        if due and not takes_metric(type(scheduler).step):
            scheduler.step()

    def after_evaluation(self, scheduler: AnyScheduler, metrics: Metrics) -> None:
        """Tell a scheduler the metric that it follows, if it follows one.

        Those of an average are not there before it has begun.
        """
        if self.metric not in metrics:
            return
        value = metrics[self.metric]
        if takes_metric(type(scheduler).step):
            scheduler.step(value)  # type: ignore[arg-type]
        elif isinstance(scheduler, LRScheduler):
            scheduler.observe(value)


def in_words(scheduler: AnyScheduler, own: Collection[str] = ()) -> str:
    """What a schedule is made of: `LinearLR, then CosineAnnealingLR`, or `StepLR and ReduceLROnPlateau`.

    Of groups with schedules of their own: `OneCycleLR; head: CosineAnnealingLR`.

    Args:
        own: names of the entries that have one of their own.
    """
    if isinstance(scheduler, GroupwiseLR):
        return "; ".join(_of_groups(scheduler, own))
    if not isinstance(scheduler, SequentialLR | ChainedScheduler):
        return type(scheduler).__name__
    parts = [
        f"({in_words(x, own)})" if isinstance(x, SequentialLR | ChainedScheduler) else in_words(x)
        for x in scheduler.parts
    ]
    return (", then " if isinstance(scheduler, SequentialLR) else " and ").join(parts)


def _of_groups(scheduler: GroupwiseLR, own: Collection[str]) -> Iterator[str]:
    """The run's schedule, if some group follows it, then those of entries."""

    def whose(group: dict[str, Any]) -> str:
        entry: str = group["name"].partition(".")[0]  # layers are called <entry>.<layer>
        return entry if entry in own else ""

    said = dict.fromkeys(map(whose, scheduler.optimizer.param_groups), "constant")
    for part in scheduler.parts:
        said |= dict.fromkeys(map(whose, part.optimizer.param_groups), in_words(part))
    if "" in said:
        yield said.pop("")
    yield from (f"{entry}: {words}" for entry, words in said.items())


@cache
def takes_metric(step: Callable[..., None]) -> bool:
    """Whether the `step` of a class of schedulers needs a metric, as that of ReduceLROnPlateau."""
    metrics = inspect.signature(step).parameters.get("metrics")
    return metrics is not None and metrics.default is metrics.empty
