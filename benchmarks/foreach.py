"""Our foreach execution over torch's: time and peak memory of a step, in float32.

    python benchmarks/foreach.py --device cpu --models mlp resnet18

Blocks of steps alternate between the two (A B A B), so that a machine that slows down slows both. Exit code 1
names the rows over LIMITS.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import Make, Runner, alternate, describe
from benchmarks.shapes import MODELS
from optim_cli import optim

# Of time and memory, ours over torch's.
LIMITS = (1.15, 1.0)
# torch saves a temporary here by overwriting the caller's gradient with g + momentum * buffer; ours leaves
# gradients alone, and at worst holds one more tensor for each of parameter, gradient and buffer.
LIMITS_WHERE_TORCH_OVERWRITES = {"SGD nesterov": (1.5, 4 / 3 + 0.01)}
# torch's foreach forms of these loop over tensors. On a CPU, ours of ASGD waits for the memory alone: it
# reads gradient, parameter and average once each, and writes the last two.
LIMITS_WHERE_TORCH_LOOPS = {"ASGD": (0.6, 1.0), "Rprop": (0.5, 1.0)}

OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD momentum": ("SGD", dict(lr=1e-3, momentum=0.9)),
    "SGD nesterov": ("SGD", dict(lr=1e-3, momentum=0.9, nesterov=True)),
    "Adam": ("Adam", {}),
    "AdamW": ("AdamW", {}),
    "AdamW amsgrad": ("AdamW", dict(amsgrad=True)),
    "Adadelta": ("Adadelta", {}),
    "Adagrad": ("Adagrad", {}),
    "Adamax": ("Adamax", {}),
    "ASGD": ("ASGD", {}),
    "NAdam": ("NAdam", {}),
    "RAdam": ("RAdam", {}),
    "RMSprop": ("RMSprop", {}),
    "RMSprop whole": ("RMSprop", dict(momentum=0.9, centered=True)),
    "Rprop": ("Rprop", {}),
    "Adafactor": ("Adafactor", {}),
}


@dataclass
class Row:
    """What one optimizer on one model took: microseconds and bytes, ours and torch's."""

    name: str
    times: tuple[float, float]
    peaks: tuple[int, int]

    @property
    def ratios(self) -> tuple[float, float]:
        """Ours over torch's: time, memory."""
        return self.times[0] / self.times[1], self.peaks[0] / self.peaks[1]

    @property
    def limits(self) -> tuple[float, float]:
        """What the ratios may be."""
        return (LIMITS_WHERE_TORCH_OVERWRITES | LIMITS_WHERE_TORCH_LOOPS).get(self.name, LIMITS)


def both(name: str) -> tuple[Make, Make]:
    """What makes our optimizer and torch's, as OPTIMIZERS has it."""
    cls, options = OPTIMIZERS[name]
    ours, theirs = (
        partial(getattr(package, cls), foreach=True, **options) for package in (optim, torch.optim)
    )
    return ours, theirs


def compare(
    name: str,
    makers: tuple[Make, Make],
    pool: Sequence[list[Tensor]],
    blocks: int,
    tolerance: tuple[float, float] = (1e-3, 1e-4),
) -> Row:
    """Alternate blocks of steps; medians over all steps.

    Args:
        makers: of our optimizer and of torch's.
        pool: initial values, then gradients.
        tolerance: how far the parameters may differ in the end (rtol, atol).
    """
    initial, *gradients = pool
    runners = [Runner(make, initial) for make in makers]
    size = sum(x.numel() for x in initial)
    steps = 20 if size < 1e6 or runners[0].device == "cuda" else 4
    medians = alternate(runners, gradients, blocks, steps)
    ours, theirs = runners
    assert set(ours.optimizer.executions) == {"foreach"}, ours.optimizer.executions
    for x, y in zip(ours.params, theirs.params, strict=True):
        assert torch.allclose(x, y, *tolerance), "the two optimizers did not do the same"
    return Row(name, (medians[0], medians[1]), (ours.peak(), theirs.peak()))


def main() -> int:
    """Print the table; the exit code says whether all rows are within the limits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["mlp", "resnet18", "resnet50"])
    parser.add_argument("--blocks", type=int, default=5, help="blocks of steps of each side")
    parser.add_argument(
        "--threads", type=int, default=1, help="on a CPU; on a shared one, threads wait for each other"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    print(f"{describe(arguments.device)}, float32")
    head = ("optimizer", "ours us", "torch us", "time", "ours MB", "torch MB", "memory")
    print(f"{'model':10} {head[0]:14} {head[1]:>10} {head[2]:>10} {head[3]:>6} ", end="")
    print(f"{head[4]:>9} {head[5]:>9} {head[6]:>7}")
    offending = []
    for model in arguments.models:
        shapes = MODELS[model]()
        pool = [[torch.randn(shape, device=arguments.device) for shape in shapes] for _ in range(3)]
        for name in OPTIMIZERS:
            row = compare(name, both(name), pool, arguments.blocks)
            gc.collect()
            slower, larger = row.ratios
            print(f"{model:10} {name:14} {row.times[0]:10.0f} {row.times[1]:10.0f} {slower:6.2f} ", end="")
            print(f"{row.peaks[0] / 1e6:9.2f} {row.peaks[1] / 1e6:9.2f} {larger:7.3f}", flush=True)
            if slower > row.limits[0] or larger > row.limits[1]:
                limits = "{:.2f} and {:.3f}".format(*row.limits)
                offending.append(f"{model} {name}: time {slower:.2f}, memory {larger:.3f} (limits {limits})")
    if offending:
        print("over the limits:", *offending, sep="\n  ")
    return 1 if offending else 0


if __name__ == "__main__":
    sys.exit(main())
