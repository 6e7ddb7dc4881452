"""Schedules beside CUDA graphs: a table on the device, and rates that the host sets between replays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from optim_cli import optim
from optim_cli.optim import lr_scheduler
from optim_cli.optim.lr_scheduler.device_table import DeviceTable
from tests.optim.gpu.device import DEVICE, ON_GPU

pytestmark = ON_GPU

STEPS, WARM = 12, 3


def adamw() -> tuple[list[nn.Parameter], Any]:
    params = [nn.Parameter(torch.linspace(-1, 1, n, device=DEVICE)) for n in (5, 33)]
    groups = [
        {"params": [p], "lr": torch.tensor(lr, device=DEVICE, dtype=torch.float64)}
        for p, lr in zip(params, (0.1, 0.02), strict=True)
    ]
    betas = tuple(torch.tensor(x, device=DEVICE, dtype=torch.float64) for x in (0.9, 0.999))
    return params, optim.AdamW(groups, betas=betas, capturable=True)


def schedule_of(optimizer: Any) -> Any:
    return lr_scheduler.OneCycleLR(optimizer, [0.1, 0.02], total_steps=STEPS)


def give(params: list[nn.Parameter]) -> None:
    for p in params:
        p.grad = torch.cos(torch.arange(p.numel(), device=DEVICE, dtype=p.dtype))


@pytest.mark.parametrize("on_the_device", [True, False])
def test_replays_follow_the_schedule(on_the_device: bool) -> None:
    """As many replays as eager steps come to the same weights, whoever sets the rates."""
    left, eager = adamw()
    schedule = schedule_of(eager)
    give(left)
    for _ in range(STEPS):
        eager.step()
        schedule.step()
    right, captured = adamw()
    schedule = schedule_of(captured)
    give(right)
    for _ in range(WARM):
        captured.step()
        schedule.step()
    table = DeviceTable(schedule, STEPS) if on_the_device else None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.step()
        if table is not None:
            table.step()
    for _ in range(STEPS - WARM):
        graph.replay()
        if table is None:
            schedule.step()
    torch.cuda.synchronize()
    for x, y in zip(left, right, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)
    if table is not None:
        assert table.last_epoch == STEPS - 1
