"""Checks a config against the constructors that it names, and tells every mistake at once.

Types and ranges are declared beside the parameters they check, as annotations of those constructors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Annotated, Any, Literal, get_origin

from annotated_types import Ge, Lt
from pydantic import ConfigDict, ValidationError, create_model

from optim_cli.config.describe import PACKAGE, describe, element
from optim_cli.config.durations import is_counted, is_total, stand_in
from optim_cli.config.mistakes import Mistake, unknown_key
from optim_cli.config.schedules import AT_THE_TOP, FORMS, OF_A_STAGE, parts_of
from optim_cli.config.targets import (
    functions,
    hints_of,
    is_there,
    kind_of,
    locate,
    nested_kinds,
    plugins_of,
    takes_function,
)
from optim_cli.errors import user_frames
from optim_cli.optim.lr_scheduler.schedule import Steps

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
MAY_BE_NONE = ("scheduler", "averaging")
VALUES: dict[str, Any] = {
    "seed": (Annotated[int, Ge(0), Lt(2**63)], ...),
    "device": (Literal["auto", "cpu", "cuda"], ...),
    "plugins": (list[Annotated[str, PACKAGE]], []),
    "resume": (str | None, None),
    "rerun": (str | None, None),
}


def mistakes(config: Mapping[str, Any]) -> list[Mistake]:
    """Everything wrong with a resolved config; empty where nothing is."""
    rest = {key: value for key, value in config.items() if key not in SUPPLIED}
    found = _unlike(VALUES, rest, "", (*SUPPLIED, *VALUES))
    plugins = plugins_of(config)
    found += [
        Mistake("plugins", f"{x!r} is no module or package that Python finds from here")
        for x in plugins
        if not is_there(x)
    ]
    for group, supplied in SUPPLIED.items():
        node = config.get(group)
        if not isinstance(node, Mapping) or not (node or group in MAY_BE_NONE):
            given = "null" if node is None else repr(node)
            found.append(Mistake(group, f"{given} is no choice; choose one with {group}=CHOICE"))
        elif group == "scheduler" and node:
            found += _mistakes_in_schedule(node, group, AT_THE_TOP, plugins)
        elif group == "averaging":
            found += _mistakes_in_averages(node, plugins)
        elif node:
            found += _mistakes_in(node, f"{group}.", (kind_of(group),), supplied, plugins)
    return found


def _mistakes_in_schedule(
    node: Mapping[str, Any], key: str, beside: Mapping[str, Any], plugins: Collection[str]
) -> list[Mistake]:
    """What is wrong with a single schedule, a chain or a sequence.

    Args:
        beside: keys that are not the schedule's own -> type, default.
    """
    found = _unlike(beside, {x: y for x, y in node.items() if x in beside}, f"{key}.")
    own = {x: y for x, y in node.items() if x not in beside}
    if beside is AT_THE_TOP and not own:
        what = "there is no schedule that it could be of; choose one with scheduler=CHOICE"
        return [Mistake(f"{key}.{x}", what) for x in node]
    forms = [x for x in ("_target_", *FORMS) if x in own]
    if len(forms) > 1:
        return [*found, Mistake(key, f"has {' and '.join(forms)}; a schedule is one of them")]
    meant = [x for x in own if not forms and get_close_matches(x, FORMS, n=1)]
    if meant:
        return found + [unknown_key(f"{key}.{x}", ("_target_", *FORMS, *beside)) for x in meant]
    if forms in ([], ["_target_"]):
        return found + _mistakes_in(
            own, f"{key}.", (kind_of("scheduler"),), SUPPLIED["scheduler"], plugins, beside
        )
    [form] = forms
    found += [unknown_key(f"{key}.{x}", (form, *beside)) for x in own if x != form]
    if not isinstance(own[form], Mapping | list) or not own[form]:
        allowed = "schedules by name, or a list of schedules"
        return [*found, Mistake(f"{key}.{form}", f"{_shown(own[form])} is not allowed; allowed: {allowed}")]
    *before_the_last, _ = parts = parts_of(own, key)
    for at, part in parts.items():
        if not isinstance(part, Mapping):
            allowed = "a mapping with _target_, chain or sequence"
            found.append(Mistake(at, f"{_shown(part)} is not allowed; allowed: {allowed}"))
            continue
        found += _mistakes_in_schedule(part, at, OF_A_STAGE if form == "sequence" else {}, plugins)
        if form == "sequence" and at in before_the_last and part.get("length") is None:
            allowed = describe(Steps)
            found.append(
                Mistake(f"{at}.length", f"missing; allowed: {allowed}; the last part may go without")
            )
    return found


def _mistakes_in_averages(node: Mapping[str, Any], plugins: Collection[str]) -> list[Mistake]:
    """What is wrong with one average, or several by name."""
    found = []
    averages = averages_in(node)
    for key, part in averages.values():
        if isinstance(part, Mapping) and "_target_" in part:
            kinds = (kind_of("averaging"),)
            found += _mistakes_in(part, f"{key}.", kinds, SUPPLIED["averaging"], plugins)
        elif part is node:
            what = "there is no average that it could be of; choose one with averaging=CHOICE"
            found += [Mistake(f"{key}.{x}", what) for x in part]
        else:
            allowed = f"a mapping with _target_; ~{key} on the command line leaves it out"
            found.append(Mistake(key, f"{_shown(part)} is no average; allowed: {allowed}"))
    return found


def _mistakes_in(
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
            found += _mistakes_in(value, f"{prefix}{name}.", nested_kinds(hint, plugins), (), plugins)
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
    return found + _unlike(fields, values, prefix, (*fields, *beside))


def averages_in(node: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """The averages of the group `averaging`, which is one node or several by name.

    Returns:
        What metrics and files call each -> its key and its node.
    """
    if not node:
        return {}
    if "_target_" in node or not any(isinstance(x, Mapping) for x in node.values()):
        return {"averaged": ("averaging", node)}
    return {f"averaged_{name}": (f"averaging.{name}", part) for name, part in node.items()}


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


def _unlike(
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
        found += told.values()
    return found


def _refusal(key: str, hint: Any, values: Mapping[str, Any], name: str, path: list[int | str]) -> Mistake:
    """The value at a place where pydantic found it wrong, and what is allowed there."""
    if name not in values:
        return Mistake(key, f"missing; allowed: {describe(hint)}")
    value = values[name]
    for index in (x for x in path if isinstance(x, int)):
        if index >= len(value):  # a list that is too short is wrong as a whole
            return Mistake(
                key.rpartition("[")[0], f"{_shown(value)} is not allowed; allowed: {describe(hint)}"
            )
        value, hint = value[index], element(hint, index)
    return Mistake(key, f"{_shown(value)} is not allowed; allowed: {describe(hint)}")


def _shown(value: Any) -> str:
    """A value as YAML has it: a tuple stands for a list here, None for null."""
    if value is None:
        return "null"
    return repr(list(value)) if isinstance(value, tuple) else repr(value)
