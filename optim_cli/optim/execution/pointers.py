"""Which tensors a kernel may reach by their address."""

from __future__ import annotations

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes of the widest access
REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}
DOUBLE = {torch.float64, torch.complex128}
FLOATING = {torch.float32, torch.float64, torch.bfloat16, torch.float16, *REAL}


def is_dense(x: Tensor) -> bool:
    """Whether its elements fill their memory, each a place of its own."""
    if x.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(_steps(x)):
        if stride != expected:
            return False
        expected *= size
    return True


def is_readable(x: Tensor, device: torch.device) -> bool:
    """Whether kernels on a device can read a number that a tensor holds."""
    return x.device == device and x.dtype in (torch.float32, torch.float64) and x.numel() == 1


def ordered_like(x: Tensor, like: Tensor) -> bool:
    """Whether a tensor has the shape of another, which is dense, and its elements in the same order."""
    return x.shape == like.shape and (x.stride() == like.stride() or _steps(x) == _steps(like))


def mixes(average: Tensor, p: Tensor) -> bool:
    """Whether a kernel that updates a parameter can take it into an average."""
    # Its arithmetic is float64 for float64 parameters only.
    loses = average.dtype in DOUBLE and p.dtype not in DOUBLE
    return (
        average.device == p.device
        and average.dtype in FLOATING
        and not loses
        and average.is_complex() == p.is_complex()
        and ordered_like(average, p)
    )


def in_order_of(x: Tensor, like: Tensor) -> Tensor:
    """A copy of `x` with its elements in another tensor's order."""
    return torch.empty_like(like, dtype=x.dtype, memory_format=torch.preserve_format).copy_(x).detach()


def _steps(x: Tensor) -> list[tuple[int, int]]:
    # The stride of a dimension of one element says nothing.
    return [(stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size != 1]
