"""Fifty steps without re-alignment, against torch and between our own executions."""

from __future__ import annotations

import pytest
import torch

from optim_cli.optim import ALGORITHMS
from tests.optim.oracle import (
    NAMES,
    arithmetics,
    assert_close,
    drift,
    give,
    like,
    pair,
    parameters,
    params_of,
    ran,
    step_both,
    tensors,
)

STEPS = 50
# SGD, Adam and AdamW follow torch bit by bit on a CPU, since they do the same operations in the same order.
# An algorithm need not; what a rounding becomes in 50 steps is bounded here, and in float32 generously.
DRIFT = {torch.float64: (1e-11, 1e-12), torch.float32: (1e-3, 1e-4)}
LR = {"lr": 0.01}

dtypes = pytest.mark.parametrize("dtype", DRIFT, ids=lambda dtype: str(dtype).removeprefix("torch."))
names = pytest.mark.parametrize("name", NAMES)


@dtypes
@names
def test_trajectory_is_torchs(name: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    values = tensors(generator, dtype)
    gradients = [like(values, generator) for _ in range(STEPS)]
    moved = False
    for options in arithmetics(name):
        ours, theirs = pair(name, values, options | LR)
        for now in gradients:
            step_both(ours, theirs, now)
        assert_close(ours, theirs, max(DRIFT[dtype], drift(name)), str(options))
        assert ran(ours) == {"foreach": STEPS}
        moved |= not torch.equal(params_of(ours)[2], values[2])
    assert moved


@dtypes
@names
def test_for_loop_and_foreach_agree_bit_by_bit(
    name: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    """In float32 and float64 both do the same operations in the same order, in the same dtype."""
    values = tensors(generator, dtype)
    gradients = [like(values, generator) for _ in range(STEPS)]
    for options in arithmetics(name):
        loop, lists = (
            ALGORITHMS[name](parameters(values), **options | LR, implementation=implementation)
            for implementation in ("for_loop", "foreach")
        )
        for now in gradients:
            give(params_of(loop), now)
            give(params_of(lists), now)
            loop.step()
            lists.step()
        assert_close(loop, lists, (0, 0), str(options))
        assert (ran(loop), ran(lists)) == ({"for_loop": STEPS}, {"foreach": STEPS})
