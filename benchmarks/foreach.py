"""Our foreach execution over torch's: time and peak memory of a step, in float32.

    python benchmarks/foreach.py --device cpu --models mlp resnet18

Blocks of steps alternate between the two (A B A B), so that a machine that slows down slows both. Exit code 1
names the rows over LIMITS.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages

from optim_cli import optim

# Of time and memory, ours over torch's.
LIMITS = (1.15, 1.0)
# torch saves a temporary here by overwriting the caller's gradient with g + momentum * buffer; ours leaves
# gradients alone, and at worst holds one more tensor for each of parameter, gradient and buffer.
LIMITS_WHERE_TORCH_OVERWRITES = {"SGD nesterov": (1.5, 4 / 3 + 0.01)}
# torch's foreach forms of these loop over tensors. On a CPU, ours of ASGD waits for the memory alone: it
# reads gradient, parameter and average once each, and writes the last two.
LIMITS_WHERE_TORCH_LOOPS = {"ASGD": (0.6, 1.0), "Rprop": (0.5, 1.0)}

Make = Callable[[list[nn.Parameter]], Any]
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


def mlp() -> list[tuple[int, ...]]:
    """Three layers: 6 tensors, 26 K parameters."""
    widths = (64, 128, 128, 10)
    return [shape for fan_in, fan_out in pairwise(widths) for shape in ((fan_out, fan_in), (fan_out,))]


def residual(blocks: Sequence[int], bottleneck: bool) -> list[tuple[int, ...]]:
    """Shapes of a residual network as torchvision builds it: convolutions, normalisations, head."""
    shapes: list[tuple[int, ...]] = []

    def convolution(fan_out: int, fan_in: int, kernel: int) -> None:
        shapes.extend(((fan_out, fan_in, kernel, kernel), (fan_out,), (fan_out,)))

    convolution(64, 3, 7)
    channels = 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        out = width * 4 if bottleneck else width
        for block in range(count):
            if bottleneck:
                convolution(width, channels, 1)
                convolution(width, width, 3)
                convolution(out, width, 1)
            else:
                convolution(width, channels, 3)
                convolution(width, width, 3)
            if block == 0 and channels != out:
                convolution(out, channels, 1)
            channels = out
    return [*shapes, (1000, channels), (1000,)]


MODELS: dict[str, Callable[[], list[tuple[int, ...]]]] = {
    "mlp": mlp,
    "resnet18": lambda: residual((2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda: residual((3, 4, 6, 3), bottleneck=True),
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


class Runner:
    """One optimizer, as `make` makes it, on parameters and gradients of its own."""

    def __init__(self, make: Make, initial: Sequence[Tensor]) -> None:
        self.on_cpu = initial[0].device.type == "cpu"
        self.params = [nn.Parameter(x.clone()) for x in initial]
        self.gradients = [torch.empty_like(x) for x in initial]
        for p, g in zip(self.params, self.gradients, strict=True):
            p.grad = g
        self.optimizer = make(self.params)

    def take(self, gradients: list[Tensor]) -> None:
        """Copy gradients in: torch's nesterov overwrites them."""
        torch._foreach_copy_(self.gradients, gradients)

    def timed(self) -> float:
        """Microseconds of one step."""
        if self.on_cpu:
            start = time.perf_counter()
            self.optimizer.step()
            return (time.perf_counter() - start) * 1e6
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        self.optimizer.step()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) * 1e3

    def peak(self) -> int:
        """Bytes at the peak of a step: parameters, gradients, state and temporaries."""
        state = [x for held in self.optimizer.state.values() for x in held.values()]
        # Many step counts may be views of one memory.
        storages = [x.untyped_storage() for x in (*self.params, *self.gradients, *state)]
        held: int = sum({memory.data_ptr(): memory.nbytes() for memory in storages}.values())
        return held + self.extra()

    def extra(self) -> int:
        """The most bytes that a step has allocated at once beside what it leaves."""
        if not self.on_cpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.optimizer.step()
            torch.cuda.synchronize()
            return int(torch.cuda.max_memory_allocated()) - before
        # The profiler notes every allocation (positive) and release (negative) of torch's allocator.
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            self.optimizer.step()
        held = most = 0
        for event in sorted(memory_events(watched), key=lambda event: event.start_ns()):
            held += event.nbytes()
            most = max(most, held)
        return most


def memory_events(watched: profile) -> list[Any]:
    """Allocations and releases that a profile has recorded."""
    assert watched.profiler is not None
    assert watched.profiler.kineto_results is not None
    events = watched.profiler.kineto_results.events()
    return [event for event in events if event.name() == "[memory]"]


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
    steps = 20 if size < 1e6 or not runners[0].on_cpu else 4
    times: tuple[list[float], list[float]] = ([], [])
    for block in range(-1, blocks):  # the first warms up
        for runner, taken in zip(runners, times, strict=True):
            for step in range(steps):
                # New gradients at every step: a state that decays to denormal numbers is slow.
                runner.take(gradients[(block + step) % len(gradients)])
                elapsed = runner.timed()
                # The first step after a change finds the other's tensors in the caches.
                if block >= 0 and step > 0:
                    taken.append(elapsed)
    ours, theirs = runners
    assert set(ours.optimizer.executions) == {"foreach"}, ours.optimizer.executions
    for x, y in zip(ours.params, theirs.params, strict=True):
        assert torch.allclose(x, y, *tolerance), "the two optimizers did not do the same"
    return Row(name, (statistics.median(times[0]), statistics.median(times[1])), (ours.peak(), theirs.peak()))


def describe(device: str) -> str:
    """Versions and the machine."""
    chip = torch.cuda.get_device_name() if device != "cpu" else platform.processor() or platform.machine()
    threads = f"{torch.get_num_threads()} threads" if device == "cpu" else f"CUDA {torch.version.cuda}"
    return f"torch {torch.__version__}, Python {platform.python_version()}, {chip}, {threads}, float32"


def main() -> int:
    """Print the table; the exit code says whether all rows are within the limits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--blocks", type=int, default=5, help="blocks of steps of each side")
    parser.add_argument(
        "--threads", type=int, default=1, help="on a CPU; on a shared one, threads wait for each other"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    print(describe(arguments.device))
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
