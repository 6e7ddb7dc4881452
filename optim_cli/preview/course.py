"""The way of every scheduled hyperparameter over a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from optim_cli.optim.lr_scheduler import place
from optim_cli.optim.lr_scheduler.schedule import LRScheduler
from optim_cli.training.loop import Training
from optim_cli.training.scheduling import takes_metric


@dataclass(frozen=True)
class Course:
    """One hyperparameter over a run.

    Attributes:
        hyperparameter: its name in the groups, such as lr or betas.0.
        groups: the parameter groups that have these values, by name, or by index where they have none.
        values: at every step of the optimizer.
    """

    hyperparameter: str
    groups: tuple[str | int, ...]
    values: tuple[float, ...]

    @property
    def name(self) -> str:
        """The groups in words."""
        words = ", ".join(map(str, self.groups))
        return words if isinstance(self.groups[0], str) else f"group{'s' * (len(self.groups) > 1)} {words}"


def courses(training: Training) -> list[Course]:
    """What the schedule of a training sets, which has one; groups with the same values together.

    Groups that lack a hyperparameter are left out.

    The values are those of a schedule left to itself: what follows a metric stays as it is. Those of other
    packages' schedules are found by stepping, so that the training cannot be used afterwards.
    """
    assert training.scheduler is not None
    steps = training.total_steps
    span = 1 if training.pace.interval == "step" else training.steps_per_epoch
    groups = training.scheduler.optimizer.param_groups
    found = []
    for name, table in _values(training.scheduler, -(-steps // span)):
        alike: dict[tuple[float, ...], list[str | int]] = {}
        for index, (group, column) in enumerate(zip(groups, zip(*table, strict=True), strict=True)):
            if place.has(group, name):
                alike.setdefault(column, []).append(group.get("name", index))
        for column, named in alike.items():
            found.append(Course(name, tuple(named), tuple(column[t // span] for t in range(steps))))
    return found


def follows_metric(scheduler: torch.optim.lr_scheduler.LRScheduler) -> bool:
    """Whether a schedule, or a part of it, acts on what is measured in the run."""
    return getattr(scheduler, "follows_metric", False) or takes_metric(type(scheduler).step)


def _values(
    scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int
) -> Iterator[tuple[str, list[list[float]]]]:
    """Hyperparameter -> values of all groups at each step."""
    if isinstance(scheduler, LRScheduler) and scheduler.is_known:
        for name, table in scheduler.table(steps).items():
            yield name, table.tolist()
        return
    optimizer = scheduler.optimizer
    names = place.known(optimizer)
    rows = []
    for _ in range(steps):
        rows.append([[float(place.read(group, x)) for group in optimizer.param_groups] for x in names])
        optimizer._opt_called = True  # type: ignore[attr-defined]  # what schedules look for in the first step
        if not takes_metric(type(scheduler).step):
            scheduler.step()
    for name, *column in zip(names, *rows, strict=True):
        if name == "lr" or any(row != column[0] for row in column):
            yield name, column
