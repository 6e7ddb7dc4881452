"""Checks a config against the constructors that it names, and tells every mistake at once.

Types and ranges are declared beside the parameters they check, as annotations of those constructors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Lt
from pydantic import ConfigDict, ValidationError, create_model

# Parameters that are not for a config: the program supplies them, or they make no sense in a run
# (`implementation` says what `foreach` and `fused` say).
SUPPLIED = {
    "model": ("input_shape", "num_classes"),
    "dataset": (),
    "optimizer": ("params", "foreach", "fused", "capturable", "differentiable"),
    "scheduler": ("optimizer", "last_epoch"),
    "averaging": ("model",),
    "trainer": (),
}
MAY_BE_NONE = ("scheduler", "averaging")
VALUES: dict[str, Any] = {
    "seed": (Annotated[int, Ge(0), Lt(2**63)], ...),
    "device": (Literal["auto", "cpu", "cuda"], ...),
}
# Whose classes a config may name besides what optim_cli itself defines.
LIBRARIES = ("torch", "torchvision")


def mistakes(config: Mapping[str, Any]) -> list[str]:
    """Everything wrong with a resolved config, a line each; empty where nothing is."""
    rest = {key: value for key, value in config.items() if key not in SUPPLIED}
    found = _unlike(VALUES, rest, "", (*VALUES, *SUPPLIED))
    for group, supplied in SUPPLIED.items():
        node = config.get(group)
        if not isinstance(node, Mapping) or not (node or group in MAY_BE_NONE):
            found.append(f"{group}: {node!r} is no choice; choose one with {group}=CHOICE")
        elif node:
            found += _mistakes_in(node, f"{group}.", supplied)
    return found


def locate(target: Any, key: str) -> Callable[..., Any]:
    """The class or function that a `_target_` names.

    Raises:
        ValueError: there is none, or it is none that a config may call.
    """
    module, _, name = str(target).rpartition(".")
    allowed = f"{key}: {target!r} may not be called; allowed: what optim_cli defines, and modules, datasets, "
    allowed += f"optimizers and schedulers of {' and '.join(LIBRARIES)}"
    if module.partition(".")[0] not in ("optim_cli", *LIBRARIES):
        raise ValueError(allowed)
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{key}: {target!r} is not to be found ({error})") from None
    if not _may_be_called(found):
        raise ValueError(allowed)
    called: Callable[..., Any] = found
    return called


def _may_be_called(found: Any) -> bool:
    # Where it is defined counts, not through which module it is reached: modules import much else.
    origin = str(getattr(found, "__module__", "")).partition(".")[0]
    if origin == "optim_cli":
        return callable(found)
    if origin not in LIBRARIES or not inspect.isclass(found):
        return False
    from torch import nn, optim, utils

    return issubclass(found, (nn.Module, utils.data.Dataset, optim.Optimizer, optim.lr_scheduler.LRScheduler))


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of a constructor's parameters, with their ranges."""
    function = target.__init__ if inspect.isclass(target) else target
    return get_type_hints(function, include_extras=True)


def _mistakes_in(node: Mapping[str, Any], prefix: str, supplied: Collection[str]) -> list[str]:
    try:
        target = locate(node.get("_target_"), f"{prefix}_target_")
    except ValueError as error:
        return [str(error)]
    found: list[str] = []
    hints = hints_of(target)
    fields: dict[str, Any] = {}
    values = {key: value for key, value in node.items() if key != "_target_"}
    for name, parameter in inspect.signature(target).parameters.items():
        if name in supplied:
            continue
        hint, value = hints.get(name, Any), values.get(name)
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        if isinstance(value, Mapping) and "_target_" in value:
            found += _mistakes_in(value, f"{prefix}{name}.", ()) or _wrong_kind(value, hint, prefix + name)
            hint = Any
        elif _calls(value):
            found.append(f"{prefix}{name}: nothing may be called inside a list or mapping here")
            hint = Any
        elif value is None and is_duration(hint):
            hint = Any  # a length that is left open takes the run's length later
        elif isinstance(value, list) and get_origin(hint) is tuple:
            values[name] = tuple(value)  # YAML has no tuples, so lists stand for them
        fields[name] = (hint, default)
    return found + _unlike(fields, values, prefix)


def _wrong_kind(node: Mapping[str, Any], hint: Any, key: str) -> list[str]:
    """A line if what a node makes is not what the parameter takes."""
    made = locate(node["_target_"], key)
    made = made if inspect.isclass(made) else get_type_hints(made).get("return", object)
    taken = [x for x in (get_args(hint) or (hint,)) if inspect.isclass(x) and x is not type(None)]
    if hint is Any or (inspect.isclass(made) and issubclass(made, tuple(taken))):
        return []
    allowed = " or ".join(x.__name__ for x in taken) or "plain values"
    return [f"{key}: {node['_target_']} makes nothing that is allowed here; allowed: {allowed}"]


def _calls(value: Any) -> bool:
    """Whether Hydra would call something in a value."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_calls, value.values()))
    return isinstance(value, list) and any(map(_calls, value))


def is_duration(hint: Any) -> bool:
    """Whether a parameter counts steps, so that the run's length is its natural value."""
    from optim_cli.optim.lr_scheduler.schedule import Duration

    return Duration() in getattr(hint, "__metadata__", ()) or any(
        is_duration(part) for part in getattr(hint, "__args__", ()) if part is not hint
    )


def _unlike(
    fields: Mapping[str, Any], values: Mapping[str, Any], prefix: str, known: Collection[str] = ()
) -> list[str]:
    """Lines for values that do not fit `fields` (name -> type, default), for missing and unknown keys.

    Args:
        known: what to suggest for an unknown key, where it is more than the fields.
    """
    # Strict, because the constructors get the values as they are: '5' and 5.0 are no numbers of epochs.
    options = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, protected_namespaces=())
    # Fields are numbered: pydantic refuses some names that parameters may have.
    numbered = {f"field_{i}": name for i, name in enumerate(fields)}
    model = create_model("Checked", __config__=options, **{x: fields[y] for x, y in numbered.items()})
    positions = {name: number for number, name in numbered.items()}
    found = []
    for key in values:
        if key not in positions:
            near = get_close_matches(key, known or positions, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            found.append(f"{prefix}{key}: unknown key{hint} (known: {', '.join(known or positions)})")
    try:
        model(**{positions[key]: value for key, value in values.items() if key in positions})
    except ValidationError as error:
        for problem in _by_place(error):
            name, *path = problem[0]
            key = prefix + numbered[str(name)] + "".join(f"[{x}]" for x in path if isinstance(x, int))
            found.append(f"{key}: {problem[1]}")
    return found


def _by_place(error: ValidationError) -> list[tuple[tuple[int | str, ...], str]]:
    """One line a value: alternatives of a union are told together."""
    told: dict[tuple[Any, ...], tuple[tuple[int | str, ...], list[str]]] = {}
    for problem in error.errors(include_url=False):
        place = problem["loc"]
        key = (place[0], *(x for x in place[1:] if isinstance(x, int)))
        what = "missing" if problem["type"] == "missing" else problem["msg"]
        given = "" if problem["type"] == "missing" else f"{problem['input']!r} is not allowed: "
        _, lines = told.setdefault(key, (place, []))
        if "instance of Tensor" not in what and given + what not in lines:
            lines.append(given + what)
    return [(place, "; or ".join(lines)) for place, lines in told.values()]
