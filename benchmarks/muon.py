"""Our Muon over torch's on the matrices of GPT-2: time and peak memory of a step, and its products' floor.

    python -m benchmarks.muon --device cuda

A CPU takes a smaller model: `--device cpu --width 128 --layers 2`. Blocks of steps alternate between the two.
Exit code 1 if our time over torch's is above LIMIT, which is for CUDA.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.foreach import compare
from benchmarks.measuring import Runner, describe, transformer_arguments
from optim_cli import optim

# Of time, ours over torch's, at the width and depth of GPT-2 124M.
LIMIT = 0.5
OPTIONS: dict[str, Any] = dict(lr=1e-3, adjust_lr_fn="match_rms_adamw")
NS_STEPS = 5


def matrices(width: int, layers: int) -> list[tuple[int, int]]:
    """Shapes of the matrices of transformer blocks: attention in and out, feed-forward up and down."""
    block = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    return block * layers


def floating_point_operations(shapes: Sequence[tuple[int, int]]) -> int:
    """Of the products of a step: A = X X^T, A A and (b A + c A A) X, NS_STEPS times each."""
    wide = [sorted(shape) for shape in shapes]
    return sum(NS_STEPS * (4 * m * m * n + 2 * m**3) for m, n in wide)


class Product:
    """A product of square matrices in bfloat16, timed as a step is."""

    def __init__(self, size: int, device: str) -> None:
        self.factors = torch.randn(2, size, size, device=device).bfloat16()

    def step(self) -> Tensor:
        """Multiply."""
        return self.factors[0] @ self.factors[1]


def operations_per_second(device: str) -> float:
    """The rate of a large product in bfloat16."""
    size = 8192 if device == "cuda" else 512
    runner = Runner(lambda params: Product(size, device), [torch.zeros(1, device=device)])
    return 2 * size**3 / statistics.median([runner.timed() for _ in range(10)][3:]) * 1e6


def main() -> int:
    """Print the comparison; the exit code says whether it is within the limit."""
    arguments = transformer_arguments(__doc__)

    print(f"{describe(arguments.device)}, float32")
    shapes = matrices(arguments.width, arguments.layers)
    pool = [[torch.randn(shape, device=arguments.device) for shape in shapes] for _ in range(3)]
    makers = partial(optim.Muon, **OPTIONS), partial(torch.optim.Muon, **OPTIONS)
    # Updates in bfloat16, summed over the steps.
    row = compare("Muon", makers, pool, arguments.blocks, (0.0, 0.02))
    ours, theirs = row.times
    (time, memory), operations = row.ratios, floating_point_operations(shapes)
    rate = operations_per_second(arguments.device)
    floor = operations / rate * 1e6
    print(f"{len(shapes)} matrices, {sum(m * n for m, n in shapes) / 1e6:.1f} M parameters")
    print(f"time:   ours {ours:.0f} us, torch {theirs:.0f} us, ratio {time:.2f}")
    print(f"memory: ours {row.peaks[0] / 1e6:.1f} MB, torch {row.peaks[1] / 1e6:.1f} MB, ratio {memory:.3f}")
    print(f"floor:  {operations / 1e12:.3f} T operations at {rate / 1e12:.1f} T/s: {floor:.0f} us, ", end="")
    print(f"of which ours takes {ours / floor:.2f} times as long, torch {theirs / floor:.2f}")
    if arguments.device == "cuda" and time > LIMIT:
        print(f"over the limit: time {time:.2f} (limit {LIMIT})")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
