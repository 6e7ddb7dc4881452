"""Where a scheduled hyperparameter lies in a parameter group: `lr`, or `betas.0` for an item of a tuple."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import nan
from numbers import Real
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

Group = dict[str, Any]
# Real would do for the first two, at ten times their cost.
NUMBERS = (float, int, Tensor, Real)


@cache
def parsed(name: str) -> tuple[str, int | None]:
    """The key in a group, and the place in the tuple that it holds, if it does.

    Raises:
        ValueError: the place is no number.
    """
    key, _, index = name.partition(".")
    return key, int(index) if index else None


def has(group: Group, name: str) -> bool:
    """Whether a group has a number there; groups of other algorithms need not."""
    return is_number(_held(group, name))


def read(group: Group, name: str) -> float | Tensor:
    """The value that a group holds; NaN where it has none."""
    held = _held(group, name)
    return held if is_number(held) else nan


def write(group: Group, name: str, value: float | Tensor) -> None:
    """Set the value, where the group has one.

    A tensor keeps its identity, so that a captured graph goes on reading it.
    """
    held = _held(group, name)
    key, at = parsed(name)
    if not is_number(held):
        return
    if isinstance(held, Tensor):
        held.fill_(value)
    elif at is None:
        group[key] = value
    else:
        items = group[key]
        group[key] = (*items[:at], value, *items[at + 1 :])


def note_initial(group: Group, name: str) -> None:
    """Keep the value that a group holds as what schedules start from, unless there is one already."""
    if has(group, name):
        group.setdefault(f"initial_{name}", copied(read(group, name)))


def highest(name: str) -> str:
    """Where a cycle keeps its highest value in a group: `max_lr`, as torch does.

    That of a momentum is not `max_momentum`, which is kept by a cycle of the rate that a momentum goes along
    with.
    """
    return "max_lr" if name == "lr" else f"highest_{name}"


def copied(value: float | Tensor) -> float | Tensor:
    """A number as it is, a tensor as one of its own."""
    return value.clone() if isinstance(value, Tensor) else value


def check(optimizer: Optimizer, name: str) -> None:
    """Find out whether some group has a number there.

    Raises:
        ValueError: none has; the message lists those that there are.
    """
    if not any(name in schedulable(group) for group in optimizer.param_groups):
        kind, names = type(getattr(optimizer, "whole", optimizer)).__name__, ", ".join(known(optimizer))
        raise ValueError(f"hyperparameter {name!r} is not one of {kind}'s; it has {names}")


def known(optimizer: Optimizer) -> list[str]:
    """Names of the numbers among the options of an optimizer's groups, without what schedules keep there."""
    options = [{x: group[x] for x in optimizer.defaults if x in group} for group in optimizer.param_groups]
    return list(dict.fromkeys(name for x in options for name in schedulable(x)))


def schedulable(options: Mapping[str, Any]) -> list[str]:
    """Names of the numbers among an optimizer's options."""
    names = []
    for key, value in options.items():
        if isinstance(value, tuple | list):
            names += [f"{key}.{index}" for index, item in enumerate(value) if is_number(item)]
        elif is_number(value):
            names.append(key)
    return names


def is_number(value: Any) -> bool:
    """Whether what a group holds is a number, be it in a tensor."""
    return isinstance(value, NUMBERS) and not isinstance(value, bool)


def _held(group: Group, name: str) -> Any:
    """What lies there, be it nothing."""
    key, at = parsed(name)
    held = group.get(key)
    if at is None:
        return held
    return held[at] if isinstance(held, tuple | list) and at < len(held) else None
