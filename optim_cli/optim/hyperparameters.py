"""Types and ranges of hyperparameters, declared once, in the constructor's annotations.

`lr: Annotated[float | Tensor, Ge(0)]` is what the constructor checks, what the command line checks
before a run, and what tests draw their options from.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

NonNegative = Annotated[float | Tensor, Ge(0)]
Coefficient = Annotated[float | Tensor, Ge(0), Lt(1)]

_COMPARISONS: tuple[tuple[type, str, Callable[[Any, Any], bool]], ...] = (
    (Ge, ">=", lambda x, bound: x >= bound.ge),
    (Gt, ">", lambda x, bound: x > bound.gt),
    (Le, "<=", lambda x, bound: x <= bound.le),
    (Lt, "<", lambda x, bound: x < bound.lt),
)
# torch's wording, which test suites written for it look for.
_WORDING = {"lr": "learning rate", "eps": "epsilon value", "betas": "beta parameter", "etas": "eta value"}


def check_ranges(constructor: type, options: dict[str, Any]) -> None:
    """Check options against the annotations of a class's constructor.

    Raises:
        ValueError: a value is outside its range (NaN always is), a tuple has not the right length, or a
            tensor has more than one element; the message starts with torch's wording and adds what is
            allowed.
    """
    for name, hint in _hints(constructor).items():
        if name in options:
            for index, value, bounds in _scalars_of(name, options[name], hint):
                _check(name, index, value, bounds)


@cache
def _hints(constructor: type) -> dict[str, Any]:
    # Each class of the hierarchy declares its own parameters; the most derived one wins.
    hints: dict[str, Any] = {}
    for cls in reversed(constructor.__mro__):
        init = cls.__dict__.get("__init__")
        if inspect.isfunction(init) and cls.__module__.startswith("optim_cli."):
            hints |= get_type_hints(init, include_extras=True)
    return hints


def _scalars_of(name: str, value: Any, hint: Any) -> Iterator[tuple[int | None, Any, tuple[Any, ...]]]:
    """Numbers in a value with their bounds: the value itself, or the items of a tuple."""
    if get_origin(hint) is Annotated:
        yield None, value, get_args(hint)[1:]
    elif get_origin(hint) is tuple:
        if not isinstance(value, tuple) or len(value) != len(get_args(hint)):
            raise ValueError(f"Invalid {name}: {value} ({name} must be {len(get_args(hint))} numbers)")
        for index, (item, item_hint) in enumerate(zip(value, get_args(hint), strict=True)):
            for _, number, bounds in _scalars_of(name, item, item_hint):
                yield index, number, bounds


def _check(name: str, index: int | None, value: Any, bounds: tuple[Any, ...]) -> None:
    position = "" if index is None else f"[{index}]"
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"Tensor {name}{position} must be 1-element, got {value.numel()} elements")
    broken = not all(
        compare(value, bound)
        for bound in bounds
        for kind, _, compare in _COMPARISONS
        if isinstance(bound, kind)
    )
    if broken:
        allowed = " and ".join(
            f"{sign} {getattr(bound, kind.__name__.lower())}"
            for bound in bounds
            for kind, sign, _ in _COMPARISONS
            if isinstance(bound, kind)
        )
        wording = _WORDING.get(name, f"{name} value") + ("" if index is None else f" at index {index}")
        raise ValueError(f"Invalid {wording}: {value} ({name}{position} must be {allowed})")
