"""Types and ranges of parameters in words, for the reports of mistakes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, Predicate

from optim_cli.config import durations

NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
PACKAGE = Predicate(str.isidentifier)
BOUNDS = {
    Ge: ("ge", "greater than or equal to"),
    Gt: ("gt", "greater than"),
    Le: ("le", "less than or equal to"),
    Lt: ("lt", "less than"),
}


def describe(hint: Any) -> str:
    """What a parameter with this annotation takes, such as "a number greater than or equal to 0"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated and PACKAGE in hint.__metadata__:
        return "the name of a package"
    if origin is Annotated:
        bounds = [
            f"{words} {getattr(mark, name)}"
            for mark in hint.__metadata__
            for kind, (name, words) in BOUNDS.items()
            if isinstance(mark, kind)
        ]
        counted = durations.is_counted(hint)
        named = "a whole number" if counted else describe(arguments[0])
        words = " ".join([named, " and ".join(bounds)]).strip()
        return f"{words}, or {durations.WORDS}" if counted else words
    if origin is Literal:
        return " or ".join(repr(x) for x in arguments)
    if origin is tuple and Ellipsis not in arguments:
        parts = list(dict.fromkeys(map(describe, arguments)))
        each = f"each {parts[0]}" if len(parts) == 1 else "; ".join(parts)
        return f"a list of {len(arguments)}, {each}"
    if origin is Callable:
        return "the dotted name of a function"
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return "a mapping"
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return f"a list, each {describe(arguments[0])}"
    if arguments and (origin is Union or type(hint).__name__ == "UnionType"):
        # A config cannot hold a tensor, so it is left out where there is something else.
        plain = [x for x in arguments if getattr(x, "__name__", "") != "Tensor"] or arguments
        return " or ".join(dict.fromkeys(map(describe, plain)))
    if _is_made(hint):
        return f"a mapping whose _target_ makes {_article(hint.__name__)} {hint.__name__}"
    return NAMES.get(hint, "another value")


def element(hint: Any, index: int) -> Any:
    """The annotation of an entry of what `hint` describes; `hint` itself where it has no entries."""
    for part in (hint, *get_args(hint)):
        origin, arguments = get_origin(part), get_args(part)
        if origin is Annotated:
            found = element(arguments[0], index)
            if found is not arguments[0]:
                return found
        if origin is tuple and Ellipsis not in arguments:
            return arguments[min(index, len(arguments) - 1)]
        if inspect.isclass(origin) and issubclass(origin, Sequence):
            return arguments[0]
    return hint


def _is_made(hint: Any) -> bool:
    return inspect.isclass(hint) and hint not in (*NAMES, Any) and get_origin(hint) is None


def _article(name: str) -> str:
    return "an" if name[:1] in "AEIOU" else "a"
