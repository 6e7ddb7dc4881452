"""Variances of gradients: those of an m by n matrix from m + n numbers (Adafactor)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optim_cli.optim.per_tensor.base import State


def no_average(p: Tensor) -> State:
    """Averages before the first step: over rows and columns, or for a vector or number of each element."""
    if p.dim() < 2:
        return {"variance": torch.zeros_like(p, memory_format=torch.preserve_format).detach()}
    *batch, rows, columns = p.shape
    return {"row_var": p.new_zeros(*batch, rows, 1), "col_var": p.new_zeros(*batch, 1, columns)}


def factored(
    grads: Sequence[Tensor], states: Sequence[State], weights: Sequence[float], eps1: float
) -> list[Tensor]:
    """Reciprocal roots of the variances of matrices, from averages over rows and columns.

    Args:
        grads: gradients [..., m, n].
        states: `row_var` [..., m, 1] and `col_var` [..., 1, n] of each, which are updated.
        weights: of these gradients in the averages.
        eps1: least mean of an average.

    Returns:
        Of the size of the gradients, in memory of their own.
    """
    _average_rows_and_columns(grads, states, weights)
    rows = [state["row_var"] for state in states]
    means = [x.mean(dim=-2, keepdim=True) for x in rows]
    torch._foreach_clamp_min_(means, eps1)
    # Roots before the product: three passes less over what is as large as the parameter.
    roots = torch._foreach_div(rows, means)
    torch._foreach_rsqrt_(roots)
    return list(torch._foreach_mul(roots, torch._foreach_rsqrt([state["col_var"] for state in states])))


def whole(grads: Sequence[Tensor], states: Sequence[State], weights: Sequence[float]) -> list[Tensor]:
    """Reciprocal roots of the variances of vectors and numbers.

    Args:
        grads: gradients.
        states: `variance` of each, of the same shape, which is updated.
        weights: of these gradients in the averages.

    Returns:
        Of the size of the gradients, in memory of their own.
    """
    variances = [state["variance"] for state in states]
    wide = [g.to(v.dtype) for g, v in zip(grads, variances, strict=True)]
    torch._foreach_lerp_(variances, torch._foreach_mul(wide, wide), weights)
    return list(torch._foreach_rsqrt(variances))


def _average_rows_and_columns(
    grads: Sequence[Tensor], states: Sequence[State], weights: Sequence[float]
) -> None:
    rows, columns = [], []
    for g, state in zip(grads, states, strict=True):
        # Norms along a dimension need no copy of the gradient, but take ten times as long on a CPU.
        squares = g.to(state["row_var"].dtype).square()
        rows.append(squares.mean(dim=-1, keepdim=True))
        columns.append(squares.mean(dim=-2, keepdim=True))
    torch._foreach_lerp_([state["row_var"] for state in states], rows, weights)
    torch._foreach_lerp_([state["col_var"] for state in states], columns, weights)
