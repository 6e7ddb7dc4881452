"""The momentum that some schedules cycle against the rate."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler import place
from optim_cli.optim.lr_scheduler.schedule import per_group


def momenta_of(optimizer: Optimizer) -> list[str]:
    """The hyperparameters that are momenta in an optimizer's groups: betas.0, momentum, both or none."""
    return sorted({name for group in optimizer.param_groups if (name := _momentum_in(group))})


def begin(optimizer: Optimizer, base_momentum: Any, max_momentum: Any) -> None:
    """Set the momentum of every group that has one to its highest, and note both ends, as torch does.

    Raises:
        ValueError: lists of another length than the optimizer has groups.
    """
    groups = optimizer.param_groups
    highest = per_group("max_momentum", max_momentum, len(groups))
    lowest = per_group("base_momentum", base_momentum, len(groups))
    for group, high, low in zip(groups, highest, lowest, strict=True):
        if name := _momentum_in(group):
            place.write(group, name, high)
        group["max_momentum"], group["base_momentum"] = high, low


def _momentum_in(group: place.Group) -> str | None:
    """Beta1 where a group has betas; None where it has neither these nor a momentum."""
    return next((name for name in ("betas.0", "momentum") if place.has(group, name)), None)
