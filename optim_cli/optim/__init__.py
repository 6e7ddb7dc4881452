"""Optimizers, schedulers and averaging: a drop-in replacement for torch.optim.

Every optimizer class found in `algorithms/` is an attribute of this package.
"""

from __future__ import annotations

from typing import Any

from optim_cli.optim import algorithms, lr_scheduler, swa_utils
from optim_cli.optim.discovery import discover
from optim_cli.optim.multi import MultiOptimizer
from optim_cli.optim.optimizer import Optimizer

ALGORITHMS = discover(algorithms.__name__, algorithms.__path__, Optimizer)
globals().update(ALGORITHMS)

__all__ = ["ALGORITHMS", "MultiOptimizer", "Optimizer", "lr_scheduler", "swa_utils", *ALGORITHMS]


def __getattr__(name: str) -> Any:
    known = ", ".join(sorted(ALGORITHMS))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; optimizers: {known}")
