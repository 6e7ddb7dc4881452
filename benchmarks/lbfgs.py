"""Our L-BFGS over torch's: seconds of a direction with a full history, in float32.

    python benchmarks/lbfgs.py --device cuda

A step is one iteration of fixed length; gradients lie ready, so that its closure has nothing to do. A
direction, with the pair that goes into it, is what such a step takes more than one from the start, where the
direction is minus the gradient: the flat gradient, its norms, moving parameters are in both. Steps alternate
between ours and torch's. Exit code 1 names the rows over LIMITS.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import describe, seconds
from optim_cli import optim

# Size of the vector -> ours over torch's on CUDA; on a CPU, where nothing is launched, no limit is set.
LIMITS = {1_000_000: 0.10, 10_000_000: 0.40}


class Runner:
    """One optimizer on a vector, with gradients as those of a quadratic with curvatures from 1 to 2."""

    def __init__(self, package: Any, size: int, history_size: int, device: str) -> None:
        self.device = device
        self.curvature = torch.linspace(1, 2, size, device=device)
        self.p = nn.Parameter(torch.ones(size, device=device))
        self.gradient = torch.empty_like(self.p)
        self.p.grad = self.gradient
        self.optimizer = package.LBFGS(
            # A short step, so that the way to the minimum is long enough for all steps.
            [self.p],
            lr=1e-3,
            max_iter=1,
            history_size=history_size,
            tolerance_grad=0,
            tolerance_change=0,
        )

    def timed(self, anew: bool = False) -> float:
        """Seconds of one step, of which the closure takes nothing."""
        if anew:
            self.optimizer.state.clear()
        torch.mul(self.p.detach(), self.curvature, out=self.gradient)
        return seconds(lambda: self.optimizer.step(lambda: 0.0), self.device)

    @property
    def pairs(self) -> list[Tensor]:
        """The changes of the gradient that are remembered."""
        found: list[Tensor] = self.optimizer.state[self.p]["old_dirs"]
        return found


def compare(size: int, history_size: int, steps: int, device: str) -> tuple[list[float], list[float]]:
    """Medians of ours and torch's over `steps` steps: with a full history, and from the start."""
    ours, theirs = (Runner(package, size, history_size, device) for package in (optim, torch.optim))
    for runner in (ours, theirs):
        for _ in range(history_size + 3):  # the first iteration makes no pair
            runner.timed()
        assert len(runner.pairs) == history_size, f"{len(runner.pairs)} of {history_size} pairs"
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(steps):
        for runner, taken in zip((ours, theirs), times, strict=True):
            taken.append(runner.timed())
    assert set(ours.optimizer.executions) == {"whole_vector"}, ours.optimizer.executions
    x, y = ours.p.detach(), theirs.p.detach()
    difference = float((x - y).norm() / (y - 1).norm())
    assert difference < 1e-2, f"the two optimizers did not go the same way: {difference:.1e} apart"
    plain: tuple[list[float], list[float]] = ([], [])
    for _ in range(steps):
        for runner, taken in zip((ours, theirs), plain, strict=True):
            taken.append(runner.timed(anew=True))
    return [statistics.median(x) for x in times], [statistics.median(x) for x in plain]


def main() -> int:
    """Print the table; the exit code says whether all rows are within the limits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(LIMITS), help="of the vector")
    parser.add_argument("--history", type=int, default=100, help="pairs")
    parser.add_argument("--steps", type=int, default=30, help="that are timed, of each side")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    print(f"{describe(arguments.device)}, float32")
    print("                      iteration, ms      direction, ms")
    print(f"{'size':>10} {'history':>7} {'ours':>9} {'torch':>9} {'ours':>9} {'torch':>9} {'ratio':>6} limit")
    offending = []
    for size in arguments.sizes:
        whole, plain = compare(size, arguments.history, arguments.steps, arguments.device)
        gc.collect()
        ours, theirs = (x - y for x, y in zip(whole, plain, strict=True))
        limit = LIMITS.get(size) if arguments.device == "cuda" and arguments.history == 100 else None
        figures = " ".join(f"{x * 1e3:9.3f}" for x in (*whole, ours, theirs))
        print(f"{size:10} {arguments.history:7} {figures} {ours / theirs:6.3f}", end=" ")
        print("    -" if limit is None else f"{limit:5.2f}", flush=True)
        if limit is not None and ours / theirs > limit:
            offending.append(f"{size}: {ours / theirs:.3f} (limit {limit})")
    if offending:
        print("over the limits:", *offending, sep="\n  ")
    return 1 if offending else 0


if __name__ == "__main__":
    sys.exit(main())
