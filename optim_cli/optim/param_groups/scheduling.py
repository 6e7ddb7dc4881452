"""Schedules of groups: those of entries beside that of all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from optim_cli.optim.lr_scheduler.groupwise import GroupwiseLR, SomeGroups
from optim_cli.optim.param_groups.entries import Group, WrongGroups

# What makes a schedule of an optimizer: a function, or `functools.partial(CosineAnnealingLR, T_max=100)`.
MakeSchedule = Callable[[Optimizer], LRScheduler]


def make_scheduler(
    groups: Sequence[Group], optimizer: Optimizer, scheduler: MakeSchedule | None = None
) -> GroupwiseLR | None:
    """Make the schedule of an optimizer whose groups may have schedules of their own.

    Args:
        groups: what the optimizer was made of. `settings["scheduler"]` makes the schedule of an entry's
            groups, `{}` leaves their values as they are.
        optimizer: as of `make_optimizer`.
        scheduler: makes the schedule of the others; None leaves their values as they are.

    Returns:
        All of them in one; None where every value stays.

    Raises:
        WrongGroups: a setting that makes no schedule.
        ValueError: the optimizer was not made of these groups.
    """
    makes = {x.entry: x.settings["scheduler"] for x in groups if "scheduler" in x.settings}
    wrong = {entry: make for entry, make in makes.items() if make != {} and not callable(make)}
    if wrong:
        allowed = "allowed: a function of the optimizer that makes a schedule, or {} for none"
        raise WrongGroups(
            [(f"{x}.scheduler", f"{make!r} is not allowed; {allowed}") for x, make in wrong.items()]
        )
    found = [
        make(scope)
        for entry, scope in scopes(groups, optimizer).items()
        if (make := makes.get(entry) if entry in makes else scheduler)
    ]
    return GroupwiseLR(optimizer, found) if found else None


def scopes(groups: Sequence[Group], optimizer: Optimizer) -> dict[str | None, SomeGroups]:
    """The parameter groups of each entry that has a schedule of its own; under None those of all others.

    Raises:
        ValueError: the optimizer was not made of these groups.
    """
    entries = {x.name: x.entry if "scheduler" in x.settings else None for x in groups}
    indices: dict[str | None, list[int]] = {}
    for index, group in enumerate(optimizer.param_groups):
        name = group.get("name")
        if name not in entries:
            raise ValueError(
                f"param_groups[{index}] is called {name!r}, and the groups are {', '.join(entries)}; "
                "take the optimizer that make_optimizer made of them"
            )
        indices.setdefault(entries[name], []).append(index)
    return {entry: SomeGroups(optimizer, some) for entry, some in indices.items()}
