"""Matrices made orthogonal by products alone, all of one shape at once (Muon)."""

from __future__ import annotations

import torch
from torch import Tensor


def orthogonal(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Matrices with the singular vectors of others and singular values near 1, by Newton-Schulz iteration.

    Args:
        x: matrices [B, m, n], which are overwritten.
        coefficients: a, b, c of x <- a x + (b A + c A A) x with A = x x^T.
        steps: how often.
        eps: least norm that a matrix is divided by.

    Returns:
        [B, m, n].
    """
    a, b, c = coefficients
    x /= torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp_(min=eps)
    # The smaller of the two products: of columns, from the right, where there are fewer of them.
    tall = x.size(-2) > x.size(-1)
    for _ in range(steps):
        gram = x.mT @ x if tall else x @ x.mT
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, factor, beta=a) if tall else torch.baddbmm(x, factor, x, beta=a)
    return x
