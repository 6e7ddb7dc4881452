"""What the benchmarks of optimizers measure with: time and memory of a step, on a CPU or a CUDA device."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages

Make = Callable[[list[nn.Parameter]], Any]


def describe(device: str) -> str:
    """Versions and the machine."""
    chip = torch.cuda.get_device_name() if device != "cpu" else platform.processor() or platform.machine()
    threads = f"{torch.get_num_threads()} threads" if device == "cpu" else f"CUDA {torch.version.cuda}"
    return f"torch {torch.__version__}, Python {platform.python_version()}, {chip}, {threads}"


def transformer_arguments(text: str | None) -> argparse.Namespace:
    """The command line of a benchmark on the shapes of a transformer, by default of GPT-2 124M.

    Args:
        text: what --help says first.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--blocks", type=int, default=5, help="blocks of steps of each side")
    return parser.parse_args()


def seconds(work: Callable[[], Any], device: str) -> float:
    """What `work` takes: on CUDA the time between two events around it, from an idle device on."""
    if device == "cpu":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3


def copy_bandwidth(device: str, size: int = 2**28) -> float:
    """Bytes a second, read and written, of copying a float32 tensor of `size` elements (1 GiB)."""
    source, target = torch.randn(size, device=device), torch.empty(size, device=device)
    times = [seconds(partial(target.copy_, source), device) for _ in range(35)][5:]
    return 2 * size * source.itemsize / statistics.median(times)


class Runner:
    """One optimizer, as `make` makes it, on parameters and gradients of its own."""

    def __init__(self, make: Make, initial: Sequence[Tensor]) -> None:
        self.device = initial[0].device.type
        self.params = [nn.Parameter(x.clone()) for x in initial]
        self.gradients: list[Tensor] = []
        self.give([torch.empty_like(x) for x in initial])
        self.optimizer = make(self.params)

    def give(self, gradients: list[Tensor]) -> None:
        """Let the parameters have these gradients."""
        self.gradients = gradients
        for p, g in zip(self.params, gradients, strict=True):
            p.grad = g

    def renew(self, gradients: list[Tensor]) -> None:
        """Let them have copies of these, which are not where the last ones were."""
        self.give([x.clone() for x in gradients])  # made while the last ones are still there

    def take(self, gradients: list[Tensor]) -> None:
        """Copy gradients in: torch's nesterov overwrites them."""
        torch._foreach_copy_(self.gradients, gradients)

    def timed(self) -> float:
        """Microseconds of one step."""
        return seconds(self.optimizer.step, self.device) * 1e6

    def timed_with(self, gradients: list[Tensor]) -> float:
        """Microseconds of one step with these gradients, copied to where the last ones were."""
        self.take(gradients)
        return self.timed()

    def timed_on_host(self, gradients: list[Tensor]) -> float:
        """Microseconds until the host has issued a step to an idle device, gradients at new addresses."""
        self.renew(gradients)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return seconds(self.optimizer.step, "cpu") * 1e6

    def peak(self) -> int:
        """Bytes at the peak of a step: parameters, gradients, state and temporaries."""
        state = [x for held in self.optimizer.state.values() for x in held.values()]
        # Many step counts may be views of one memory.
        storages = [x.untyped_storage() for x in (*self.params, *self.gradients, *state)]
        held: int = sum({memory.data_ptr(): memory.nbytes() for memory in storages}.values())
        return held + self.extra()

    def extra(self) -> int:
        """The most bytes that a step has allocated at once beside what it leaves."""
        if self.device == "cuda":
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


def alternate(
    runners: Sequence[Runner],
    gradients: Sequence[list[Tensor]],
    blocks: int,
    steps: int,
    measure: Callable[[Runner, list[Tensor]], float] = Runner.timed_with,
) -> list[float]:
    """Alternate blocks of steps; of each runner, the median over all steps of what `measure` gives.

    Args:
        gradients: sets of them, new ones at every step: a state that decays to denormal numbers is slow.
    """
    times: list[list[float]] = [[] for _ in runners]
    for block in range(-1, blocks):  # the first warms up
        for runner, taken in zip(runners, times, strict=True):
            for step in range(steps):
                elapsed = measure(runner, gradients[(block + step) % len(gradients)])
                # The first step after a change finds the other's tensors in the caches.
                if block >= 0 and step > 0:
                    taken.append(elapsed)
    return [statistics.median(taken) for taken in times]


@torch.no_grad()
def apart(ours: Sequence[Tensor], theirs: Sequence[Tensor], initial: Sequence[Tensor]) -> float:
    """How far two results are apart, over the way that the second went from the initial values."""
    distance, way = (
        torch.stack([(x - y).norm() for x, y in zip(left, theirs, strict=True)]).norm()
        for left in (ours, initial)
    )
    return float(distance / way)
