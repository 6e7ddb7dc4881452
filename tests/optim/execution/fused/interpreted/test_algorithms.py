"""Every algorithm, its options and dtypes, against the for-loop."""

from __future__ import annotations

import pytest
import torch

from tests.optim.execution.fused.interpreted.side_by_side import (
    ROUNDED,
    SHAPES,
    assert_same,
    both,
    values_of,
)
from tests.optim.oracle import NAMES, align, arithmetics, drawn, entries, ran, step_both

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.bfloat16, torch.float16]
STEPS = 2


@pytest.mark.parametrize("index", range(len(DTYPES)), ids=lambda i: str(DTYPES[i]).removeprefix("torch."))
@pytest.mark.parametrize("name", NAMES)
def test_as_the_for_loop(name: str, index: int, seed: int, pytestconfig: pytest.Config) -> None:
    """A set of options in each dtype, drawn anew each time; all of them with `--all-combinations`."""
    generator = torch.Generator().manual_seed(seed)
    dtype, grid = DTYPES[index], arithmetics(name)
    if not pytestconfig.getoption("--all-combinations"):
        grid = drawn(grid, generator, 1)
    for options in grid:
        values = values_of(generator, SHAPES, dtype)
        fused, loop = both(name, values, options)
        for step in range(STEPS):
            step_both(fused, loop, values_of(generator, SHAPES, dtype))
            assert_same(fused, loop, f"{options} step {step}:")
            if dtype in ROUNDED:
                align(fused, entries(loop))
        assert ran(fused) == {"fused": STEPS}
        assert fused.launches["update"] == STEPS, "one for all tensors"
