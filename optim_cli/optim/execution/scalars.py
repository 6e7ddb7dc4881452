"""The scalar phase: what depends on step counts and hyperparameters, once per tensor, in float64.

On the host everything is a Python float. Where step counts or hyperparameters live in tensors
(`capturable`, learning rates held in tensors, gradients through them) the same text runs in float64
torch operations and never waits for the device.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from optim_cli.optim.execution.translate import Program, compile_source
from optim_cli.optim.execution.vocabulary import Scalars

Values = dict[str, float | Tensor]


def derive(function: FunctionType) -> Callable[[Values], Values]:
    """Make an algorithm's `scalars` callable on floats and tensors alike.

    Returns:
        A function from the values known (hyperparameters, `step`, `first`) to these and the derived.
    """
    needed = list(inspect.signature(function).parameters)
    bound: Callable[..., Values] = FunctionType(
        function.__code__, {**function.__globals__, "torch": Scalars}, function.__name__
    )
    bound.__kwdefaults__ = function.__kwdefaults__
    parameters = inspect.signature(function).parameters.values()
    positional = [x.name for x in parameters if x.kind is not x.KEYWORD_ONLY]
    keyword = [x for x in needed if x not in positional]

    def derived(values: Values) -> Values:
        return values | bound(*(values[x] for x in positional), **{x: values[x] for x in keyword})

    return derived


def hoisted(program: Program) -> Callable[[Mapping[str, Any]], tuple[float | Tensor, ...]]:
    """The program's scalars as one generated function of the values known, in program order."""
    name = f"{program.name}_scalars"
    if not program.scalars:
        return lambda values: ()
    used = sorted({x for source in program.scalars.values() for x in _names(source)})
    lines = [
        f"def {name}({', '.join(used)}):",
        f"    return ({', '.join(program.scalars.values())},)",
    ]
    function = compile_source("\n".join(lines) + "\n", name, {"torch": Scalars})
    return lambda values: function(*[values[x] for x in used])


def _names(source: str) -> set[str]:
    return set(compile(source, "<scalar>", "eval").co_names) - {"torch", *vars(Scalars)}


def as_float64(value: float | Tensor, device: torch.device) -> float | Tensor:
    """A hyperparameter for the tensor form of the phase: 0-d float64 on `device`, or the number."""
    if not isinstance(value, Tensor):
        return value
    return value.reshape(()).to(device=device, dtype=torch.float64, non_blocking=True)
