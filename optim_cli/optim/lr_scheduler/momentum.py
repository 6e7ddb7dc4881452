"""The momentum that some schedules cycle against the rate."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler import place
from optim_cli.optim.lr_scheduler.schedule import per_group


def momentum_of(optimizer: Optimizer) -> str | None:
    """The hyperparameter that is an optimizer's momentum, beta1 where it has betas; None if there is none."""
    if "betas" in optimizer.defaults:
        return "betas.0"
    return "momentum" if "momentum" in optimizer.defaults else None


def begin(optimizer: Optimizer, name: str, base_momentum: Any, max_momentum: Any) -> None:
    """Set the momentum to its highest, and note both ends in the groups, as torch does.

    Raises:
        ValueError: lists of another length than the optimizer has groups.
    """
    groups = optimizer.param_groups
    highest = per_group("max_momentum", max_momentum, len(groups))
    lowest = per_group("base_momentum", base_momentum, len(groups))
    for group, high, low in zip(groups, highest, lowest, strict=True):
        place.write(group, name, high)
        group["max_momentum"], group["base_momentum"] = high, low
