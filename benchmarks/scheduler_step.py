"""Host time of a scheduler's step, ours over torch's, for one parameter group and for a hundred.

    python -m benchmarks.scheduler_step

Blocks of steps alternate between the two (A B A B), so that a machine that slows down slows both; each figure
is the fastest of them. Exit code 1 names the rows over LIMIT.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.optim import lr_scheduler as theirs
from torch.optim.swa_utils import SWALR

from benchmarks.measuring import describe
from optim_cli.optim import lr_scheduler as ours

LIMIT = 1.0
LONG = 10**9
Build = Callable[[Any, Any], Any]

SCHEDULES: dict[str, Build] = {
    "LambdaLR": lambda package, x: package.LambdaLR(x, lambda t: 0.9),
    "MultiplicativeLR": lambda package, x: package.MultiplicativeLR(x, lambda t: 0.999999),
    "StepLR": lambda package, x: package.StepLR(x, 30, gamma=0.999),
    "MultiStepLR": lambda package, x: package.MultiStepLR(x, [10, 20]),
    "ConstantLR": lambda package, x: package.ConstantLR(x),
    "LinearLR": lambda package, x: package.LinearLR(x, total_iters=LONG),
    "ExponentialLR": lambda package, x: package.ExponentialLR(x, 0.999999),
    "PolynomialLR": lambda package, x: package.PolynomialLR(x, total_iters=LONG),
    "CosineAnnealingLR": lambda package, x: package.CosineAnnealingLR(x, LONG),
    "CosineAnnealingWarmRestarts": lambda package, x: package.CosineAnnealingWarmRestarts(x, 1000),
    "CyclicLR": lambda package, x: package.CyclicLR(x, 0.1, 1.0),
    "OneCycleLR": lambda package, x: package.OneCycleLR(x, 1.0, total_steps=LONG),
    "SWALR": lambda package, x: (SWALR if package is theirs else ours.SWALR)(x, 0.05, LONG),
    "ReduceLROnPlateau": lambda package, x: _Fed(package.ReduceLROnPlateau(x, patience=LONG)),
    "ChainedScheduler": lambda package, x: package.ChainedScheduler(
        [package.StepLR(x, 30), package.ConstantLR(x)], x
    ),
    "SequentialLR": lambda package, x: package.SequentialLR(
        x, [package.LinearLR(x), package.CosineAnnealingLR(x, LONG)], [5]
    ),
}


class _Fed:
    """A schedule whose step takes a metric."""

    def __init__(self, schedule: Any) -> None:
        self.schedule = schedule

    def step(self) -> None:
        self.schedule.step(1.0)


def compare(build: Build, algorithm: str, groups: int, steps: int, rounds: int) -> list[float]:
    """Microseconds of a step of ours and of torch's."""
    schedules, fastest = [], [float("inf")] * 2
    for package in (ours, theirs):
        optimizer = getattr(torch.optim, algorithm)(
            [{"params": [nn.Parameter(torch.ones(1))]} for _ in range(groups)], lr=0.1
        )
        schedules.append(build(package, optimizer))
        optimizer.step()
        schedules[-1].step()
    for _ in range(rounds):
        for index, schedule in enumerate(schedules):
            start = time.perf_counter()
            for _ in range(steps):
                schedule.step()
            fastest[index] = min(fastest[index], (time.perf_counter() - start) / steps * 1e6)
    return fastest


def main() -> int:
    """Print the table; 1 if a row is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="blocks of each")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    table = Table("schedule", "optimizer", "groups", "ours [us]", "torch [us]", "ratio")
    over = []
    for name, build in SCHEDULES.items():
        for algorithm in ("SGD", "AdamW"):
            for groups, steps in ((1, 1000), (100, 50)):
                mine, yours = compare(build, algorithm, groups, steps, arguments.rounds)
                cells = (f"{mine:.2f}", f"{yours:.2f}", f"{mine / yours:.2f}")
                table.add_row(name, algorithm, str(groups), *cells)
                if mine / yours > LIMIT:
                    over.append(f"{name} {algorithm} {groups}: {mine / yours:.2f} (at most {LIMIT:g})")
    console = Console()
    console.print(table)
    console.print(describe("cpu"))
    for line in over:
        console.print(f"over the limit: {line}")
    return int(bool(over))


if __name__ == "__main__":
    sys.exit(main())
