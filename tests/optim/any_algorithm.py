"""Steps that every algorithm can take: on matrices, with a closure, on gradients of the kind it wants."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS
from tests.optim.oracle import params_of, theirs_of

# Those that torch has too, elementwise or not.
SHARED = sorted(name for name in ALGORITHMS if hasattr(torch.optim, name))

names = pytest.mark.parametrize("name", SHARED)
# torch's `__setstate__` adds an entry to the defaults that LBFGS then misses in its groups.
_MISSED = pytest.mark.xfail(
    strict=True, raises=KeyError, reason="LBFGS cannot step or save once it is loaded"
)
names_after_loading = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=_MISSED if name == "LBFGS" else ()) for name in SHARED]
)


@cache
def takes_dimension(name: str, dimension: int) -> bool:
    """Whether torch's algorithm accepts parameters of that dimension."""
    try:
        theirs_of(name)([nn.Parameter(torch.ones((2,) * dimension))])
    except ValueError:
        return False
    return True


@cache
def wants_sparse(name: str) -> bool:
    """Whether torch's algorithm refuses dense gradients."""
    optimizer = theirs_of(name)([nn.Parameter(torch.ones(2, 2))])
    try:
        optimizer.step(closure_of(optimizer))
    except RuntimeError:
        return True
    return False


def matrices() -> list[nn.Parameter]:
    """Two parameters that every algorithm takes."""
    return [nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]]) * (1 + i)) for i in range(2)]


def made(name: str, params: Any = None, **options: Any) -> torch.optim.Optimizer:
    """Our optimizer of that name, of two matrices where nothing else is said."""
    optimizer: torch.optim.Optimizer = ALGORITHMS[name](matrices() if params is None else params, **options)
    return optimizer


def closure_of(optimizer: torch.optim.Optimizer, sparse: bool = False) -> Callable[[], Any]:
    """A parabola around 1 in every parameter."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack([(p - 1).square().sum() for p in params_of(optimizer)]).sum()
        loss.backward()
        for p in params_of(optimizer):
            p.grad = p.grad.to_sparse() if sparse and p.grad is not None else p.grad
        return loss

    return closure


def step(optimizer: torch.optim.Optimizer, count: int = 1) -> None:
    """Steps down the parabola, on sparse gradients where the algorithm wants these."""
    closure = closure_of(optimizer, wants_sparse(type(optimizer).__name__))
    for _ in range(count):
        optimizer.step(closure)
