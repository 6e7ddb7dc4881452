"""Functions that average, drawn at random with all they may be called with, against torch's."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import swa_utils as theirs

from optim_cli.optim import swa_utils as ours

DRAWN = 200
# Of one update of values of size 1: the order of operations differs.
CLOSE = {torch.float64: 1e-12, torch.complex128: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2**-7}


def values(shapes: list[tuple[int, ...]], dtype: torch.dtype, generator: torch.Generator) -> list[Tensor]:
    if dtype == torch.int64:
        return [torch.randint(100, shape, generator=generator) for shape in shapes]
    # Sums that cancel would leave roundings of bfloat16 to compare.
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return [(torch.rand(shape, generator=generator, dtype=wide) + 1).to(dtype) for shape in shapes]


def test_as_torch_s(seed: int) -> None:
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    for case in range(DRAWN):
        name = draw.choice(["ema_avg_fn", "ema_multi_avg_fn", "swa_avg_fn", "swa_multi_avg_fn"])
        options = {"decay": draw.choice([0.0, 1.0, draw.random()])} if "ema" in name else {}
        dtype = draw.choice([*CLOSE, *([torch.int64] if name != "swa_multi_avg_fn" else [])])
        shapes = [tuple(draw.choices([0, 1, 3], k=draw.randrange(3))) for _ in range(draw.randint(1, 4))]
        count = draw.choice([1, draw.randrange(1, 1000)])
        # torch's lists round the weight that comes of a tensor to float32.
        held = draw.random() < 0.5, name != "swa_multi_avg_fn" and draw.random() < 0.5
        old, new = (values(shapes, dtype, generator) for _ in range(2))
        kept = [x.clone() for x in new]
        results = []
        for package, is_held in zip((ours, theirs), held, strict=True):
            function: Any = getattr(package, f"get_{name}")(**options)
            averages, given = [x.clone() for x in old], torch.tensor(count) if is_held else count
            if "multi" in name:
                assert function(averages, new, given) is None
            else:
                averages = [x.copy_(function(x, y, given)) for x, y in zip(averages, new, strict=True)]
            results.append(averages)
        close = CLOSE.get(dtype, 0.0)
        for x, y in zip(*results, strict=True):
            context = f"case {case}: {name} {options} {dtype} {shapes} after {count}"
            torch.testing.assert_close(x, y, rtol=close, atol=close, msg=context)
        assert all(torch.equal(x, y) for x, y in zip(new, kept, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64], ids=str)
def test_a_decay_held_in_a_tensor(dtype: torch.dtype, generator: torch.Generator) -> None:
    """As counts on a device give it."""
    for function in (ours.get_ema_multi_avg_fn(0.8), ours.get_swa_multi_avg_fn()):
        old, new = (values([(5,), ()], dtype, generator) for _ in range(2))
        expected = [x.clone() for x in old]
        function(expected, new, 4)
        decay = function.decay_at(4)
        assert decay == pytest.approx(0.8)
        function.mix(old, new, torch.tensor(decay, dtype=torch.float64))
        close = 2 * CLOSE.get(dtype, 0.0)
        torch.testing.assert_close(old, expected, rtol=close, atol=close)
