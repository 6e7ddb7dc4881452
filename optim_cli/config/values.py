"""Checks values in a config against the annotations of the constructors that get them.

Types and ranges are declared beside the parameters they check.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import UnionType
from typing import Any, Union, get_origin

from pydantic import ConfigDict, ValidationError, create_model

from optim_cli.config.describe import describe, element
from optim_cli.config.durations import is_counted, is_total, stand_in
from optim_cli.config.mistakes import Mistake, unknown_key
from optim_cli.config.targets import (
    functions,
    given_to,
    hints_of,
    kind_of,
    locate,
    nested_kinds,
    takes_function,
)
from optim_cli.errors import user_frames

# Parameters that are not for a config: the program supplies them, or they make no sense in a run
# (`implementation` says what `foreach` and `fused` say).
SUPPLIED = {
    "model": ("input_shape", "vocabulary", "num_classes"),
    "dataset": (),
    "optimizer": ("params", "foreach", "fused", "capturable", "differentiable"),
    "scheduler": ("optimizer", "last_epoch"),
    "averaging": ("model",),
    "trainer": (),
}
# What torchvision's constructors take on top of their signature: an older name of `weights`.
FETCHING = ("pretrained",)


def mistakes_in(
    node: Mapping[str, Any],
    prefix: str,
    kinds: Collection[type],
    supplied: Collection[str],
    plugins: Collection[str],
    beside: Collection[str] = (),
) -> list[Mistake]:
    """What is wrong with a node that a `_target_` makes something of.

    Args:
        kinds: classes, one of which it must make.
        supplied: parameters that are not for the config.
        beside: what to suggest for an unknown key besides the parameters.
    """
    named = node.get("_target_")
    target, wrong = _tried(f"{prefix}_target_", named, lambda: locate(named, kinds, plugins), plugins)
    if wrong:
        return wrong
    found: list[Mistake] = []
    hints = hints_of(target)
    fields: dict[str, Any] = {}
    values = {key: value for key, value in node.items() if key != "_target_"}
    parameters = inspect.signature(target).parameters
    for name, parameter in parameters.items():
        if name in supplied or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        hint, value = hints.get(name, Any), values.get(name)
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        if isinstance(value, Mapping) and "_target_" in value:
            found += mistakes_in(value, f"{prefix}{name}.", nested_kinds(hint, plugins), (), plugins)
            hint = Any
        elif calls(value):
            found.append(Mistake(prefix + name, "nothing may be called inside a list or mapping here"))
            hint = Any
        elif takes_function(hint) and isinstance(value, str | list):
            _, wrong = _tried(prefix + name, value, partial(functions, value, plugins, hint), plugins)
            found += wrong
            hint = Any
        elif value is None and is_total(hint):
            hint, default = Any, None  # a length that is left open takes the run's length later
        elif isinstance(value, list) and get_origin(hint) is tuple:
            values[name] = tuple(value)  # YAML has no tuples, so lists stand for them
        fields[name] = (hint, default)
    if any(x.kind is x.VAR_KEYWORD for x in parameters.values()):
        # What goes on to another function is looked at there.
        passed_on = [key for key in values if key not in fields and key not in parameters]
        found += [
            Mistake(prefix + key, "nothing may be called here") for key in passed_on if calls(values[key])
        ]
        found += [Mistake(prefix + key, "weights are not fetched") for key in passed_on if key in FETCHING]
        fields |= dict.fromkeys(passed_on, (Any, ...))
    return found + unlike(fields, values, prefix, (*fields, *beside))


def options_of(optimizer: Mapping[str, Any], plugins: Collection[str]) -> dict[str, Any]:
    """The options of an algorithm: as its node gives them, else as its constructor has them."""
    target = locate(optimizer["_target_"], (kind_of("optimizer"),), plugins)
    parameters = inspect.signature(target).parameters
    own = {name: x.default for name, x in parameters.items() if x.default is not x.empty}
    given = {name: value for name, value in given_to("optimizer", optimizer).items() if name != "_target_"}
    # YAML has no tuples, so lists stand for them.
    return {name: list(x) if isinstance(x, tuple) else x for name, x in (own | given).items()}


def _tried(
    key: str, named: Any, find: Callable[[], Any], plugins: Collection[str]
) -> tuple[Any, list[Mistake]]:
    """What a name in a config means, or the mistake that it is."""
    try:
        return find(), []
    except ValueError as error:
        return None, [Mistake(key, str(error))]
    except (Exception, SystemExit) as error:  # whatever a plugin does when it is imported
        frames = "".join(f"\n{x}" for x in user_frames(error, plugins))
        return None, [Mistake(key, f"importing {named!r} failed: {type(error).__name__}: {error}{frames}")]


def calls(value: Any) -> bool:
    """Whether a value names something to call, at any depth."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(calls, value.values()))
    return isinstance(value, list) and any(map(calls, value))


def unlike(
    fields: Mapping[str, Any], values: Mapping[str, Any], prefix: str, known: Collection[str] = ()
) -> list[Mistake]:
    """Values that do not fit `fields` (name -> type, default), missing and unknown keys.

    Args:
        known: what to suggest for an unknown key, where it is more than the fields.
    """
    # Strict, because the constructors get the values as they are: '5' and 5.0 are no numbers of epochs.
    options = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,  # a run with such a number has no result
        arbitrary_types_allowed=True,
        protected_namespaces=(),
    )
    # Fields are numbered: pydantic refuses some names that parameters may have.
    numbered = {f"field_{i}": name for i, name in enumerate(fields)}
    model = create_model("Checked", __config__=options, **{x: fields[y] for x, y in numbered.items()})
    positions = {name: number for number, name in numbered.items()}
    found = [unknown_key(f"{prefix}{key}", known or positions) for key in values if key not in positions]
    try:
        model(
            **{
                positions[key]: stand_in(value) if is_counted(fields[key][0]) else value
                for key, value in values.items()
                if key in positions
            }
        )
    except ValidationError as error:
        told: dict[str, Mistake] = {}
        for problem in error.errors(include_url=False):
            field, *path = problem["loc"]
            name = numbered[str(field)]
            told_at = prefix + name + "".join(f"[{x}]" for x in path if isinstance(x, int))
            told.setdefault(told_at, _refusal(told_at, fields[name][0], values, name, path))
        # A list is wrong as a number, too, where either may stand.
        either = [
            prefix + name for name, (hint, _) in fields.items() if get_origin(hint) in (Union, UnionType)
        ]
        found += [
            mistake
            for at, mistake in told.items()
            if at not in either or not any(x.startswith(f"{at}[") for x in told)
        ]
    return found


def _refusal(key: str, hint: Any, values: Mapping[str, Any], name: str, path: list[int | str]) -> Mistake:
    """The value at a place where pydantic found it wrong, and what is allowed there."""
    if name not in values:
        return Mistake(key, f"missing; allowed: {describe(hint)}")
    value = values[name]
    for index in (x for x in path if isinstance(x, int)):
        if index >= len(value):  # a list that is too short is wrong as a whole
            return Mistake(
                key.rpartition("[")[0], f"{shown(value)} is not allowed; allowed: {describe(hint)}"
            )
        value, hint = value[index], element(hint, index)
    return Mistake(key, f"{shown(value)} is not allowed; allowed: {describe(hint)}")


def shown(value: Any) -> str:
    """A value as YAML has it: a tuple stands for a list here, None for null, True for true."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return repr(list(value)) if isinstance(value, tuple) else repr(value)
