"""Optimizers, schedulers and averaging: a drop-in replacement for torch.optim.

Every optimizer class found in `algorithms/` is an attribute of this package; there is no list to keep.
"""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from typing import Any

from optim_cli.optim import algorithms
from optim_cli.optim.optimizer import Optimizer


def _discover() -> dict[str, type[Optimizer]]:
    found = {}
    for module in pkgutil.iter_modules(algorithms.__path__):
        namespace = vars(import_module(f"{algorithms.__name__}.{module.name}"))
        for name, value in namespace.items():
            own = inspect.isclass(value) and value.__module__ == namespace["__name__"]
            if own and issubclass(value, Optimizer):
                found[name] = value
    return found


ALGORITHMS = _discover()
globals().update(ALGORITHMS)


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}; optimizers: {', '.join(sorted(ALGORITHMS))}"
    )
