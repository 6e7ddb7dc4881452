"""The elementwise optimizers that are compared on a CUDA device: ours, torch's default, torch's fused."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.measuring import Make
from optim_cli import optim
from optim_cli.optim.elementwise import Elementwise

MOMENTUM = "SGD momentum"
# Every elementwise algorithm that takes dense gradients, by class and options.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    name: (name, {})
    for name, cls in optim.ALGORITHMS.items()
    if issubclass(cls, Elementwise) and cls.sparse_gradients != "required"
} | {MOMENTUM: ("SGD", dict(momentum=0.9))}


def sides_of(name: str) -> dict[str, Make]:
    """What makes ours, torch's default (foreach) and, where this torch has one, torch's fused."""
    cls, options = OPTIMIZERS[name]
    theirs = partial(getattr(torch.optim, cls), **options)
    sides: dict[str, Make] = {"ours": partial(getattr(optim, cls), **options), "default": theirs}
    if fused_by_torch(cls):
        sides["fused"] = partial(theirs, fused=True)
    return sides


def fused_by_torch(cls: str) -> bool:
    """Whether this torch has a CUDA kernel for all of a step: of Adagrad, only newer ones have."""
    p = torch.nn.Parameter(torch.zeros(1, device="cuda"))
    p.grad = torch.zeros_like(p)
    try:
        getattr(torch.optim, cls)([p], fused=True).step()
    except (RuntimeError, TypeError):
        return False
    return True
