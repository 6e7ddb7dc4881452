"""Learning-rate schedules; every scheduler class found in this folder is an attribute of the package."""

from __future__ import annotations

from typing import Any

from optim_cli.optim.discovery import discover
from optim_cli.optim.lr_scheduler.schedule import LRScheduler

SCHEDULERS = discover(__name__, __path__, LRScheduler)
globals().update(SCHEDULERS)

__all__ = ["SCHEDULERS", "LRScheduler", *SCHEDULERS]


def __getattr__(name: str) -> Any:
    known = ", ".join(sorted(SCHEDULERS))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; schedulers: {known}")
