"""Finds the classes of a folder, so that adding one is adding its file: there is no list to keep."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterable
from importlib import import_module
from typing import Any


def discover(package: str, path: Iterable[str], base: type[Any]) -> dict[str, type[Any]]:
    """Public subclasses of `base` defined in the modules of a package, by name."""
    found = {}
    for module in pkgutil.iter_modules(path):
        namespace = vars(import_module(f"{package}.{module.name}"))
        for name, value in namespace.items():
            own = inspect.isclass(value) and value.__module__ == namespace["__name__"]
            if own and issubclass(value, base) and value is not base and not name.startswith("_"):
                found[name] = value
    return found
