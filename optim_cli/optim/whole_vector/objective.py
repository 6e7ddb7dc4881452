"""A loss as a function of all parameters as one vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Objective:
    """The loss that a closure computes, as a function of a vector [n]; a complex number is two real ones.

    Args:
        params: any shapes and memory layouts, on one device.
        closure: computes loss and gradients, and returns the loss.
    """

    def __init__(self, params: Sequence[Tensor], closure: Callable[[], Any]) -> None:
        self._params = [_real(p) for p in params]
        self._sources = params
        self._closure = closure

    def compute(self) -> Any:
        """What the closure returns."""
        with torch.enable_grad():
            return self._closure()

    def evaluate(self) -> tuple[float, Tensor]:
        """Loss and gradient where the parameters are."""
        return float(self.compute()), self.gradient()

    def gradient(self) -> Tensor:
        """A new vector [n] of gradients; zeros where a parameter has none."""
        return torch.cat([_gradient(p) for p in self._sources])

    def copies(self) -> list[Tensor]:
        """Copies to `restore` from."""
        return [p.clone(memory_format=torch.contiguous_format) for p in self._params]

    def restore(self, copies: Sequence[Tensor]) -> None:
        """Set the parameters to what they were."""
        torch._foreach_copy_(self._params, list(copies))

    def move(self, direction: Tensor, length: float) -> None:
        """Add `length * direction`, a vector [n]."""
        pieces = direction.split([p.numel() for p in self._params])
        for p, piece in zip(self._params, pieces, strict=True):
            p.add_(piece.view_as(p), alpha=length)


def _gradient(p: Tensor) -> Tensor:
    if p.grad is None:
        return _real(torch.zeros_like(p)).reshape(-1)
    return _real(p.grad.to_dense() if p.grad.is_sparse else p.grad).reshape(-1)


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
