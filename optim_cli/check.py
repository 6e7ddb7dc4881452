"""Checks a config against the constructors that it names, and tells every mistake at once.

Types and ranges are declared beside the parameters they check, as annotations of those constructors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Annotated, Any, Literal, get_origin, get_type_hints

from annotated_types import Ge, Lt
from pydantic import ConfigDict, ValidationError, create_model

# What the program adds to each group's parameters when it instantiates the group.
SUPPLIED = {
    "model": ("input_shape", "num_classes"),
    "dataset": (),
    "optimizer": ("params",),
    "scheduler": ("optimizer",),
    "averaging": ("model",),
    "trainer": (),
}
MAY_BE_NONE = ("scheduler", "averaging")
VALUES: dict[str, Any] = {
    "seed": Annotated[int, Ge(0), Lt(2**63)],
    "device": Literal["auto", "cpu", "cuda"],
}
TRUSTED = ("optim_cli", "torch", "torchvision")


def mistakes(config: Mapping[str, Any]) -> list[str]:
    """Everything wrong with a resolved config, a line each; empty where nothing is."""
    found = _unlike(VALUES, {key: config[key] for key in config if key not in SUPPLIED}, "")
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
        ValueError: it is none, or of a package that configs may not call.
    """
    if not isinstance(target, str) or target.partition(".")[0] not in TRUSTED:
        raise ValueError(f"{key}: {target!r} may not be called; allowed: {', '.join(TRUSTED)}")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{key}: {target!r} is not to be found ({error})") from None
    if not callable(found):
        raise ValueError(f"{key}: {target!r} is no class or function")
    called: Callable[..., Any] = found
    return called


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
    for name, parameter in inspect.signature(target).parameters.items():
        if name in supplied:
            continue
        inner = node.get(name)
        if isinstance(inner, Mapping) and "_target_" in inner:
            found += _mistakes_in(inner, f"{prefix}{name}.", ())
            fields[name] = (Any, ...)
        else:
            required = parameter.default is inspect.Parameter.empty
            fields[name] = (hints.get(name, Any), ... if required else parameter.default)
    # Lengths that are left open take the run's length later. YAML has no tuples, so lists stand for them.
    given = {
        key: tuple(value) if isinstance(value, list) and get_origin(hints.get(key)) is tuple else value
        for key, value in node.items()
        if key != "_target_" and not (value is None and is_duration(hints.get(key)))
    }
    optional = {key for key in node if key not in given}
    fields = {x: (Any, None) if x in optional else y for x, y in fields.items()}
    return found + _unlike({x: y[0] for x, y in fields.items()}, given, prefix, fields)


def is_duration(hint: Any) -> bool:
    """Whether a parameter counts steps, so that the run's length is its natural value."""
    from optim_cli.optim.lr_scheduler.schedule import Duration

    return Duration() in getattr(hint, "__metadata__", ()) or any(
        is_duration(part) for part in getattr(hint, "__args__", ()) if part is not hint
    )


def _unlike(
    types: Mapping[str, Any],
    values: Mapping[str, Any],
    prefix: str,
    fields: Mapping[str, Any] | None = None,
) -> list[str]:
    """Lines for the values that do not fit the types, and for missing and unknown keys."""
    fields = fields or {name: (hint, ...) for name, hint in types.items()}
    # Strict, because the constructors get the values as they are: '5' and 5.0 are no numbers of epochs.
    options = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, protected_namespaces=())
    # Fields are numbered: pydantic refuses some names that parameters may have.
    numbered = {f"field_{i}": name for i, name in enumerate(fields)}
    model = create_model("Checked", __config__=options, **{x: fields[y] for x, y in numbered.items()})
    positions = {name: number for number, name in numbered.items()}
    found = []
    for key in values:
        if key not in positions:
            near = get_close_matches(key, positions, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            found.append(f"{prefix}{key}: unknown key{hint} (known: {', '.join(positions)})")
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
