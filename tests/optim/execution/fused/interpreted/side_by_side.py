"""An optimizer that runs fused beside one that runs its for-loop, which is the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optim_cli.optim import ALGORITHMS
from tests.optim.oracle import (
    TOLERANCES,
    Options,
    difference,
    drift,
    entries,
    fresh,
    parameters,
    params_of,
)

# Blocks have 1024 elements.
SHAPES = [(0,), (), (1025,)]
SMALL = [(), (0,), (5,), (2, 3)]

# Without 0-d states, with counts, and with other 0-d states; and where one rule is all there is to try.
SOME = ["SGD", "AdamW", "NAdam"]

# (rtol, atol) of a step from equal values, in float32 arithmetic before one rounding, which the interpreter
# leaves at truncation for bfloat16.
ROUNDED = {torch.bfloat16: (2**-7, 1e-5), torch.float16: (2**-10, 1e-5)}


def values_of(
    generator: torch.Generator, shapes: Sequence[Sequence[int]] = SMALL, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Random values of size 2 to 5: around zero narrow dtypes would compare roundings with nothing."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    drawn = [torch.randn(tuple(x), generator=generator, dtype=wide) for x in shapes]
    return [(x + 2 * x.sgn()).to(dtype) for x in drawn]


def both(name: str, values: Sequence[Tensor], options: Options | None = None) -> tuple[Any, Any]:
    """Equal optimizers on parameters of their own: the fused one, and the reference."""
    cls, options = ALGORITHMS[name], options or {}
    return (
        cls(parameters(values), **fresh(options), implementation="fused"),
        cls(parameters(values), **fresh(options), implementation="for_loop"),
    )


def tolerance_of(name: str, dtype: torch.dtype = torch.float64) -> tuple[float, float]:
    """(rtol, atol) of some steps; of a single one in narrow dtypes."""
    return ROUNDED.get(dtype) or max(TOLERANCES[dtype], drift(name))


def assert_same(fused: Any, loop: Any, context: str = "") -> None:
    """Parameters and all states agree, in what they are of and what they hold."""
    name, [dtype] = type(fused).__name__, {p.dtype for p in params_of(fused)}
    ours, theirs = entries(fused), entries(loop)
    for key, found in ours.items():
        for x, y in zip(found, theirs[key], strict=True):
            assert (x.dtype, x.shape) == (y.dtype, y.shape), f"{context} {key}"
    different = difference(ours, theirs, tolerance_of(name, dtype))
    assert different is None, f"{context} {different}"
