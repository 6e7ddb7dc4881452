"""Learning rates by parameter group."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from optim_cli.optim.param_groups import REST


def own_group(optimizer: Optimizer) -> dict[str, Any]:
    """The parameter group with the optimizer's own values, which is the first where none is known to be."""
    groups: list[dict[str, Any]] = optimizer.param_groups
    return next((x for x in groups if x.get("name") == REST), groups[0])


def rates_of(optimizer: Optimizer) -> dict[str, float]:
    """The learning rate as `lr`, and as `lr/<name>` that of each of several groups that have names."""
    rates = {"lr": float(own_group(optimizer)["lr"])}
    if len(optimizer.param_groups) > 1:
        rates |= {f"lr/{x['name']}": float(x["lr"]) for x in optimizer.param_groups if "name" in x}
    return rates
