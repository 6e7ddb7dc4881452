"""Schedules as tables on the device against their steps on the host."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

from optim_cli import optim
from optim_cli.optim import lr_scheduler
from optim_cli.optim.lr_scheduler.device_table import DeviceTable
from tests.optim.lr_scheduler.sampling import LONGEST, SIMPLE, close, make, rates_of


def adamw(rates: list[float]) -> Any:
    """Every hyperparameter that a schedule may set is a tensor."""
    groups = [
        {
            "params": [nn.Parameter(torch.ones(1))],
            "lr": torch.tensor(x, dtype=torch.float64),
            "betas": (torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.999, dtype=torch.float64)),
        }
        for x in rates
    ]
    return optim.AdamW(groups)


def values_of(optimizer: Any) -> list[float]:
    return [float(x) for group in optimizer.param_groups for x in (group["lr"], group["betas"][0])]


@pytest.mark.parametrize("name", SIMPLE)
def test_a_table_steps_as_the_schedule_does(name: str, seed: int) -> None:
    g = random.Random(seed)
    for _ in range(10):
        rates = rates_of(g)
        options = SIMPLE[name](g, len(rates))
        steps = LONGEST if name != "OneCycleLR" or "total_steps" not in options else options["total_steps"]
        left, right = adamw(rates), adamw(rates)
        one, other = (make(lr_scheduler, name, x, **options) for x in (left, right))
        for x in (left, right):
            x.step()
        for _ in range(first := g.randrange(steps)):
            one.step()
            other.step()
        held = [group["lr"] for group in left.param_groups]
        table = DeviceTable(one, steps)
        assert table.last_epoch == first
        for _ in range(steps - first - 1):
            assert close(values_of(left), values_of(right))
            table.step()
            other.step()
        assert close(values_of(left), values_of(right))
        table.step()
        assert table.last_epoch == steps - 1, "past the end, the last values stay"
        assert close(values_of(left), values_of(right))
        assert all(x is group["lr"] for x, group in zip(held, left.param_groups, strict=True))


def test_numbers_are_refused() -> None:
    optimizer = optim.AdamW([nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(
        TypeError, match=r"lr of parameter group 0 is the number 0.1, .*torch.tensor\(0.1, device"
    ):
        DeviceTable(lr_scheduler.ExponentialLR(optimizer, 0.5), 3)


def test_what_follows_a_metric_is_refused() -> None:
    optimizer = adamw([0.1])
    chain = lr_scheduler.ChainedScheduler([lr_scheduler.ReduceLROnPlateau(optimizer)])
    with pytest.raises(TypeError, match="what follows a metric has no values beforehand"):
        DeviceTable(chain, 3)
