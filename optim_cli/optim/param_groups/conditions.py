"""Conditions on a parameter: its names, the modules it is in, its dimensions, its kind."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import translate
from functools import cache
from typing import Any

from torch import nn

# One or several; any of them may fit.
Patterns = str | Sequence[str]

REGEX = "regex:"
KINDS = ("bias", "norm", "embedding", "head")
# What a condition says, in the order in which it is told.
TAKING = ("params", "modules", "ndim", "kind", "any", "all", "not")

_NORM = re.compile(r"Norm(\dd)?$")
_EMBEDDINGS = {"embed", "embedding", "embeddings"}


@dataclass(frozen=True)
class Place:
    """Where in a model a parameter is.

    Attributes:
        name: qualified, as `named_parameters` has it.
        modules: those that it lies in, from the model to its own.
    """

    name: str
    modules: tuple[nn.Module, ...]


@dataclass(frozen=True)
class Subject:
    """A parameter with all its places, which are several where modules share it."""

    parameter: nn.Parameter
    places: tuple[Place, ...]

    @property
    def name(self) -> str:
        """The first qualified name, under which `named_parameters` has it."""
        return self.places[0].name


def subjects_of(model: nn.Module) -> list[Subject]:
    """The parameters of a model, in its order."""
    places: dict[nn.Parameter, list[Place]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        modules = [model]
        for part in name.split(".")[:-1]:
            modules.append(modules[-1].get_submodule(part))
        places.setdefault(parameter, []).append(Place(name, tuple(modules)))
    return [Subject(parameter, tuple(found)) for parameter, found in places.items()]


def holds(condition: Mapping[str, Any], subject: Subject, head: Patterns) -> bool:
    """Whether everything that a condition says is so; of a shared parameter, in any of its places.

    Args:
        condition: without mistakes; keys that are not in TAKING, and null, say nothing.
        head: what the head of the model is called.
    """
    return all(_is_so(key, condition[key], subject, head) for key in TAKING if condition.get(key) is not None)


def fits(patterns: Patterns, name: str) -> bool:
    """Whether a name is one that patterns mean."""
    return any(compiled(x).fullmatch(name) for x in listed(patterns))


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern that a whole name must match: a glob whose `*` crosses dots, or after `regex:` an expression.

    Raises:
        ValueError: the expression is none; the message says why.
    """
    try:
        return re.compile(pattern[len(REGEX) :] if pattern.startswith(REGEX) else translate(pattern))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None


def listed(value: Any) -> Sequence[Any]:
    """Several values, where one may stand for itself."""
    return value if isinstance(value, list | tuple) else (value,)


def words_of(condition: Mapping[str, Any]) -> str:
    """A condition for people to read: `kind bias or norm, not params head.*`."""
    said = ((key, condition[key]) for key in TAKING if condition.get(key) is not None)
    return ", ".join(_in_words(key, value) for key, value in said)


def kinds_in(condition: Mapping[str, Any]) -> set[str]:
    """The kinds that a condition asks about, at any depth."""
    own = {x for x in listed(condition.get("kind") or ()) if isinstance(x, str)}
    within = [*listed(condition.get("any") or ()), *listed(condition.get("all") or ()), condition.get("not")]
    return own.union(*(kinds_in(x) for x in within if isinstance(x, Mapping)))


def mistakes_in(condition: Mapping[str, Any], key: str) -> Iterator[tuple[str, str]]:
    """What is wrong with a condition, whatever the model is: (key, what).

    Args:
        condition: keys that are not in TAKING are left to others.
        key: where it stands.
    """
    said = {name: condition[name] for name in TAKING if condition.get(name) is not None}
    if not said:
        everything = 'params: "*" takes everything'
        yield key, f"does not say what it takes; give one or more of {', '.join(TAKING)} ({everything})"
    for name, value in said.items():
        at = f"{key}.{name}"
        if name == "not":
            yield from _mistakes_in_nested(value, at)
        elif name in ("any", "all"):
            if not isinstance(value, list | tuple) or not value:
                yield at, f"{value!r} is not allowed; allowed: a list of conditions"
                continue
            for index, one in enumerate(value):
                yield from _mistakes_in_nested(one, f"{at}[{index}]")
        else:
            yield from _mistakes_in_values(name, value, at)


def _is_so(key: str, value: Any, subject: Subject, head: Patterns) -> bool:
    if key == "not":
        return not holds(value, subject, head)
    if key == "any":
        return any(holds(x, subject, head) for x in value)
    if key == "all":
        return all(holds(x, subject, head) for x in value)
    if key == "ndim":
        return subject.parameter.ndim in listed(value)
    if key == "params":
        return any(fits(value, place.name) for place in subject.places)
    if key == "modules":
        modules = (module for place in subject.places for module in place.modules)
        return any(_is_a(module, name) for module in modules for name in listed(value))
    return any(_is_of_kind(kind, place, head) for place in subject.places for kind in listed(value))


def _is_a(module: nn.Module, name: str) -> bool:
    """Whether a module is of a class, or of a subclass, that is called so or has this import path."""
    path, _, called = name.rpartition(".")
    ancestors = type(module).__mro__
    if not path:
        return any(x.__name__ == called for x in ancestors)
    # A class that a module of the model is of has been imported; a name in a config runs nothing.
    return path in sys.modules and vars(sys.modules[path]).get(called) in ancestors


def _is_of_kind(kind: str, place: Place, head: Patterns) -> bool:
    if kind == "head":
        return fits(head, place.name)
    words = place.name.rpartition(".")[2].split("_")
    owner = place.modules[-1]
    if kind == "bias":
        return "bias" in words
    if kind == "embedding":
        return isinstance(owner, nn.Embedding | nn.EmbeddingBag) or not _EMBEDDINGS.isdisjoint(words)
    return any(_NORM.search(x.__name__) for x in type(owner).__mro__)


def _in_words(key: str, value: Any) -> str:
    if key == "not":
        return f"not ({words_of(value)})" if len(value) > 1 else f"not {words_of(value)}"
    if key in ("any", "all"):
        joint = " or " if key == "any" else " and "
        return joint.join(f"({words_of(x)})" for x in value)
    return f"{key} {' or '.join(map(str, listed(value)))}"


def _mistakes_in_nested(condition: Any, key: str) -> Iterator[tuple[str, str]]:
    if not isinstance(condition, Mapping):
        yield key, f"{condition!r} is not allowed; allowed: a condition, with {', '.join(TAKING)}"
        return
    for name in condition:
        if name not in TAKING:
            yield f"{key}.{name}", f"unknown key{did_you_mean(name, TAKING)} (known: {', '.join(TAKING)})"
    yield from mistakes_in(condition, key)


def _mistakes_in_values(name: str, value: Any, key: str) -> Iterator[tuple[str, str]]:
    allowed = {
        "params": "a glob over qualified names, `regex:` and an expression, or a list of them",
        "modules": "the name or import path of a class of modules, or a list of them",
        "ndim": "a number of dimensions, or a list of them",
        "kind": f"{', '.join(KINDS)}, or a list of them",
    }[name]
    if not listed(value):
        yield key, f"{value!r} is not allowed; allowed: {allowed}"
    for one in listed(value):
        if not _is_right(name, one):
            yield key, f"{one!r} is not allowed; allowed: {allowed}"
        elif name == "params":
            yield from wrong_patterns(one, key)


def did_you_mean(name: object, known: Sequence[str]) -> str:
    """The nearest right name for a wrong one, as a part of a message; nothing where none is near."""
    near = get_close_matches(str(name), known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def wrong_patterns(patterns: Iterable[str] | str, key: str) -> Iterator[tuple[str, str]]:
    """Those of some patterns that cannot be compiled: (key, what)."""
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            compiled(pattern)
        except ValueError as error:
            yield key, str(error)


def _is_right(name: str, value: Any) -> bool:
    if name == "ndim":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if name == "kind":
        return value in KINDS
    return isinstance(value, str) and value != ""
