"""What tests on a CUDA device share: tensors there, and a reference on the host, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS
from tests.optim.oracle import (
    NAMES,
    TOLERANCES,
    Entries,
    Options,
    align,
    difference,
    drift,
    entries,
    params_of,
)

DEVICE = "cuda"
# What the fused execution is asked for by; nothing, since it is the default here.
FUSED: Options = {}

ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# Of more and of fewer elements than a block has, and without any.
SHAPES: Sequence[tuple[int, ...]] = [(3, 4), (5,), (), (0,), (57, 29)]

names = pytest.mark.parametrize("name", NAMES)


def drawn(
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
) -> list[Tensor]:
    """Random values of size 2 to 5 on the device."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    values = [torch.randn(shape, generator=generator, dtype=wide) for shape in shapes]
    return [(x + 2 * x.sgn()).to(DEVICE, dtype) for x in values]


def made(name: str, values: Sequence[Tensor], **options: Any) -> Any:
    """Our optimizer on parameters that begin with copies of some values."""
    return ALGORITHMS[name]([nn.Parameter(x.clone()) for x in values], **FUSED | options)


def reference(name: str, values: Sequence[Tensor], **options: Any) -> Any:
    """The for-loop on the host in float64."""
    return made(name, [on_host(x) for x in values], **options, implementation="for_loop")


def on_host(x: Tensor) -> Tensor:
    """The same values in float64 or complex128."""
    return x.detach().to("cpu", torch.complex128 if x.is_complex() else torch.float64)


def step(optimizers: Sequence[Any], gradients: Sequence[Tensor | None]) -> None:
    """One step each on copies of the same gradients, in the dtype and place of its parameters."""
    for optimizer in optimizers:
        for p, g in zip(params_of(optimizer), gradients, strict=True):
            p.grad = None if g is None else g.to(p.device, p.dtype, copy=True)
        optimizer.step()


def held(optimizer: Any) -> Entries:
    """Copies of parameters and states on the host, as `entries` names them."""
    return {name: [x.cpu() for x in found] for name, found in entries(optimizer).items()}


def follow(leader: Any, follower: Any) -> None:
    """Give the follower the parameters and states of the leader."""
    align(follower, held(leader))


def assert_close(ours: Any, expected: Any, tolerance: tuple[float, float], context: object = "") -> None:
    """Parameters and every state agree."""
    found = difference(held(ours), held(expected), tolerance)
    assert found is None, f"{context} {found[:500]}"


def some_steps(name: str, dtype: torch.dtype) -> tuple[float, float]:
    """(rtol, atol) of a few steps that start alike."""
    rtol, atol = TOLERANCES[dtype]
    least = drift(name)
    return max(20 * rtol, least[0]), max(20 * atol, least[1])


def assert_equal(found: Entries, expected: Entries) -> None:
    """Bit for bit, but for NaNs, which are all alike."""
    assert found.keys() == expected.keys()
    for name, values in found.items():
        for x, y in zip(values, expected[name], strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True, msg=name)
