"""What the options of a parameter group make of an algorithm's texts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from types import FunctionType
from typing import Any, cast, get_type_hints

from optim_cli.optim.execution.scalars import Values
from optim_cli.optim.execution.stages import SUPPLIED
from optim_cli.optim.execution.translate import Stage, check_names
from optim_cli.optim.execution.variant import Variant


@cache
def flags_of(cls: type[Any]) -> tuple[str, ...]:
    """Options that are resolved when the rule is translated."""
    hints = get_type_hints(cls.rule)
    return tuple(name for name, hint in hints.items() if hint is bool)


@cache
def variant_for(
    cls: type[Any],
    before: tuple[Stage, ...],
    states: tuple[str, ...],
    flags: tuple[tuple[str, bool], ...],
) -> Variant:
    """An algorithm with pieces before its rule, the states that are kept, and its flags."""
    parameters = inspect.signature(cls.rule).parameters.values()
    outputs = [x.name for x in parameters if x.kind is not x.KEYWORD_ONLY and x.name != "g"]
    stages = (*before, Stage(cls.rule, tuple(outputs)))
    return Variant(cls.__name__.lower(), cast(FunctionType, cls.scalars), stages, states, dict(flags))


def hyperparameters_of(group: Mapping[str, Any], variant: Variant) -> Values:
    """Options by the names that rules use: an option that is a tuple by its singular and position."""
    return {
        name: group[option] if index is None else group[option][index]
        for name, option, index in _places(variant, tuple(group))
    }


@cache
def _places(variant: Variant, options: tuple[str, ...]) -> list[tuple[str, str, int | None]]:
    """Where in a group the hyperparameters of a variant stand: (name, option, index in it).

    Raises:
        RuleError: a text takes something that is neither an option, nor supplied, nor derived.
    """
    places: list[tuple[str, str, int | None]] = []
    for name in variant.keywords:
        if name in options:
            places.append((name, name, None))
        elif f"{name[:-1]}s" in options and name[-1].isdigit():
            places.append((name, f"{name[:-1]}s", int(name[-1]) - 1))
    known = {name for name, _, _ in places} | {*options, *SUPPLIED} - {"params"}
    scalars, *rules = variant.texts
    check_names(scalars, known)
    for rule in rules:
        check_names(rule, known | {*variant.derived})
    return places
