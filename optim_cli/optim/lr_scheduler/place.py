"""Where a scheduled hyperparameter lies in a parameter group: `lr`, or `betas.0` for an item of a tuple."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

Group = dict[str, Any]


@cache
def parsed(name: str) -> tuple[str, int | None]:
    """The key in a group, and the place in the tuple that it holds, if it does.

    Raises:
        ValueError: the place is no number.
    """
    key, _, index = name.partition(".")
    return key, int(index) if index else None


def read(group: Group, name: str) -> float | Tensor:
    """The value that a group holds."""
    key, at = parsed(name)
    value: float | Tensor = group[key] if at is None else group[key][at]
    return value


def write(group: Group, name: str, value: float | Tensor) -> None:
    """Set the value; a tensor keeps its identity, so that a captured graph goes on reading it."""
    held = read(group, name)
    key, at = parsed(name)
    if isinstance(held, Tensor):
        held.fill_(value)
    elif at is None:
        group[key] = value
    else:
        items = group[key]
        group[key] = (*items[:at], value, *items[at + 1 :])


def copied(value: float | Tensor) -> float | Tensor:
    """A number as it is, a tensor as one of its own."""
    return value.clone() if isinstance(value, Tensor) else value


def check(optimizer: Optimizer, name: str) -> None:
    """Find out whether every group has a number there.

    Raises:
        ValueError: one has none; the message lists those that there are.
    """
    for group in optimizer.param_groups:
        if name not in schedulable(group):
            raise ValueError(
                f"hyperparameter {name!r} is not one of {type(optimizer).__name__}'s; "
                f"it has {', '.join(schedulable(optimizer.defaults))}"
            )


def schedulable(options: Mapping[str, Any]) -> list[str]:
    """Names of the numbers among an optimizer's options."""
    names = []
    for key, value in options.items():
        if isinstance(value, tuple | list):
            names += [f"{key}.{index}" for index, item in enumerate(value) if _is_number(item)]
        elif _is_number(value):
            names.append(key)
    return names


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Tensor) and not isinstance(value, bool)
