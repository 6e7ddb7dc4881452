"""Errors of our fused step after a thousand steps beside torch's, both against float64, on a CUDA device.

    python -m benchmarks.accuracy

All start from the same values and take the same gradients, whose sizes vary over elements by powers of ten.
The other side is torch's fused optimizer where it has one, else its default; the exact one is torch's
for-loop in float64. Exit code 1 names what is above LIMIT.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import sys
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.measuring import Make, Runner, describe
from benchmarks.sides import OPTIMIZERS, sides_of

# Of both errors, ours over torch's.
LIMIT = 1.05
ELEMENTS = 100_000
STEPS = 1000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def draw(sizes: Tensor, dtype: torch.dtype) -> Tensor:
    """Normal values of these sizes, rounded to what all sides hold."""
    return (torch.randn_like(sizes) * sizes).to(dtype)


def powers_of_ten(lowest: int, highest: int, device: str) -> Tensor:
    """One for each element, at random."""
    exponents = torch.randint(lowest, highest + 1, (ELEMENTS,), device=device)
    return torch.pow(10.0, exponents)


@contextlib.contextmanager
def float64_by_default() -> Iterator[None]:
    """0-d states made and computed in here are float64, as torch lets the default say."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def errors(found: Tensor, exact: Tensor) -> tuple[float, float]:
    """Root mean square, and the largest: a mean of a hundred, since one is chance."""
    off = (found.detach().double() - exact.detach()).abs()
    return off.square().mean().sqrt().item(), off.topk(100).values.mean().item()


def compare(makers: tuple[Make, Make, Make], dtype: torch.dtype, steps: int, device: str) -> list[float]:
    """Errors of ours, then of torch's.

    Args:
        makers: of ours, of torch's, and of the exact one.
    """
    torch.manual_seed(0)
    start = draw(powers_of_ten(-3, 0, device), dtype)
    sizes = powers_of_ten(-4, 1, device)
    ours, theirs = (Runner(make, [start]) for make in makers[:2])
    with float64_by_default():
        exact = Runner(makers[2], [start.double()])
    for _ in range(steps):
        gradient = draw(sizes, dtype)
        for runner in (ours, theirs):
            runner.take([gradient])
            runner.optimizer.step()
        exact.take([gradient.double()])
        with float64_by_default():
            exact.optimizer.step()
    assert set(ours.optimizer.executions) == {"fused"}, ours.optimizer.executions
    return [x for side in (ours, theirs) for x in errors(side.params[0], exact.params[0])]


def main() -> int:
    """Print the table; the exit code says whether all ratios are within the limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this measures a CUDA device, and there is none")

    print(f"{describe('cuda')}, {datetime.date.today()}; {ELEMENTS} elements, {arguments.steps} steps")
    print(f"{'':31} {'root mean square':^27} {'largest hundred':^27}")
    half = f"{'ours':>10} {'torch':>10} {'ratio':>5}"
    print(f"{'dtype':9} {'optimizer':13} {'torch':7} {half} {half}")
    offending = []
    for dtype in arguments.dtypes:
        for name in arguments.optimizers:
            sides = sides_of(name)
            other = "fused" if "fused" in sides else "default"
            cls, options = OPTIMIZERS[name]
            exact = partial(getattr(torch.optim, cls), foreach=False, **options)
            found = compare((sides["ours"], sides[other], exact), DTYPES[dtype], arguments.steps, "cuda")
            pairs = list(zip(found[:2], found[2:], strict=True))
            ratios = [ours / theirs for ours, theirs in pairs]
            figures = " ".join(
                f"{ours:10.3e} {theirs:10.3e} {ratio:5.3f}"
                for (ours, theirs), ratio in zip(pairs, ratios, strict=True)
            )
            print(f"{dtype:9} {name:13} {other:7} {figures}", flush=True)
            if not max(ratios) <= LIMIT:
                offending.append(f"{dtype} {name}: {max(ratios):.3f} (limit {LIMIT})")
    if offending:
        print("over the limit:", *offending, sep="\n  ")
    return 1 if offending else 0


if __name__ == "__main__":
    sys.exit(main())
