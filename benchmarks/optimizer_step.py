"""Our fused step on a CUDA device: beside torch's, beside what the memory allows, and what surrounds it.

    python -m benchmarks.optimizer_step --markdown --json step.json
    python -m benchmarks.optimizer_step --models mlp resnet50 --optimizers AdamW --sections time graph

Medians, in float32, default options. Sections:

    time     a step between two events, from an idle device on: ours, torch's default (foreach), torch's fused
    graph    a replay of our step as a CUDA graph, over the floor: the bytes that must move, at the bandwidth
             of a copy in the same run (small models stay in the cache, and may be below it)
    host     until the host has issued a step to an idle device, gradients at new addresses every step
    clip_ema clipping by norm, AdamW and an exponential average, as one sequence between two events
    memory   what a step allocates beside what it leaves, and what our optimizer holds beside states,
             gradients at new addresses every step
    first    the first step of a process, with an empty and a filled Triton cache

Where sides are compared, blocks of their steps alternate. Exit code 1 names the rows over LIMITS.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.claims import Limit, Row, figure, head, limits_table, line
from benchmarks.measuring import Make, Runner, alternate, apart, copy_bandwidth, describe, seconds
from benchmarks.shapes import MODELS
from benchmarks.sides import MOMENTUM, OPTIMIZERS, sides_of
from optim_cli import optim
from optim_cli.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

ROOT = Path(__file__).parents[1]
SECTIONS = ("time", "graph", "host", "clip_ema", "memory", "first")
# The two that most people take.
USUAL = ("AdamW", MOMENTUM)
CLIP_AND_AVERAGE = "clip+AdamW+EMA"
MAX_NORM, DECAY = 1.0, 0.999

LIMITS = (
    Limit("1.2 B, every algorithm: of copy bandwidth", "graph", "of copy", 0.95, ("llama",), at_least=True),
    Limit("AdamW, 1.2 B, over torch fused", "time", "over fused", 0.82, ("llama",), ("AdamW",)),
    Limit("ResNet-50, every algorithm: replay over floor", "graph", "over floor", 1.15, ("resnet50",)),
    Limit("host time of a step, 6 tensors, us", "host", "ours us", 40, ("mlp",)),
    Limit("host time of a step, 161 tensors, us", "host", "ours us", 90, ("resnet50",)),
    # SGD without a state is one foreach call of torch's: no limit.
    Limit(
        "MLP, every algorithm with a state, over torch's best",
        "time",
        "over best",
        0.60,
        ("mlp",),
        tuple(name for name in OPTIMIZERS if name not in ("SGD", MOMENTUM)),
    ),
    Limit("MLP, SGD with momentum, over torch's best", "time", "over best", 0.85, ("mlp",), (MOMENTUM,)),
    Limit("clip + AdamW + EMA, ResNet-50, over torch's", "clip_ema", "over torch", 0.25, ("resnet50",)),
    Limit("clip + AdamW + EMA, 1.2 B, over torch's", "clip_ema", "over torch", 0.70, ("llama",)),
    Limit("clip + AdamW + EMA: launches", "clip_ema", "launches", 3),
    Limit("extra device memory of a step, MB", "memory", "together MB", 1.0),
    Limit("first step, cold Triton cache, s", "first", "step s", 3.0, (), ("AdamW cold",)),
    Limit("first step, warm Triton cache, s", "first", "step s", 0.3, (), ("AdamW warm",)),
    # What is fast must also be right: how far our parameters end up from torch's, over the way they went.
    Limit("distance from torch's result, step", "time", "apart", 1e-3),
    Limit("distance from torch's result, clip + AdamW + EMA", "clip_ema", "apart", 1e-3),
)


class Clipped:
    """Our AdamW that clips and averages."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        model = nn.Module()
        model.params = nn.ParameterList(params)
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
        self.optimizer = optim.AdamW(params)
        self.optimizer.clip_gradients(max_norm=MAX_NORM)
        self.optimizer.average_into(averaged, model)
        self.state = self.optimizer.state
        self.step = self.optimizer.step


class ClippedByTorch:
    """The same as three calls of torch."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        self.params = params
        self.optimizer = torch.optim.AdamW(params, fused=True)
        self.averages = [p.detach().clone() for p in params]

    @torch.no_grad()
    def step(self) -> None:
        """Clip, step, average."""
        nn.utils.clip_grad_norm_(self.params, MAX_NORM, foreach=True)
        self.optimizer.step()
        torch._foreach_lerp_(self.averages, list[Tensor](self.params), 1 - DECAY)


def tensors(model: str) -> list[list[Tensor]]:
    """Initial values, then two sets of gradients."""
    shapes = MODELS[model]()
    return [[torch.randn(shape, device="cuda") for shape in shapes] for _ in range(3)]


def repetitions(pool: Sequence[list[Tensor]]) -> tuple[int, int]:
    """Blocks, and steps of each: ten counted steps of billions of parameters, which vary little."""
    return (5, 20) if sum(x.numel() for x in pool[0]) < 1e9 else (2, 6)


def launches_of(optimizer: Any) -> int:
    """Kernels that one step of ours launches; that it runs fused at all."""
    before = Counter(optimizer.launches)
    optimizer.step()
    assert set(optimizer.executions) == {"fused"}, optimizer.executions
    return (Counter(optimizer.launches) - before).total()


def states_of(optimizer: Any, p: Tensor) -> int:
    """How many states have the parameter's shape."""
    return sum(x.shape == p.shape for x in optimizer.state[p].values())


def over(ours: float, theirs: float | None) -> float | None:
    """The ratio, where there is one."""
    return None if theirs is None else ours / theirs


def time_rows(model: str, names: Sequence[str]) -> Iterator[Row]:
    """Our step beside torch's."""
    pool = tensors(model)
    initial, *gradients = pool
    for name in names:
        runners = {side: Runner(make, initial) for side, make in sides_of(name).items()}
        runs = list(runners.values())
        took = dict(zip(runners, alternate(runs, gradients, *repetitions(pool)), strict=True))
        distance = max(apart(runs[0].params, x.params, initial) for x in runs[1:])
        ours, default, fused = took["ours"], took["default"], took.get("fused")
        values = {
            "ours us": ours,
            "default us": default,
            "fused us": fused,
            "over default": over(ours, default),
            "over fused": over(ours, fused),
            "over best": over(ours, min(default, fused or default)),
            "launches": launches_of(runs[0].optimizer),
            "apart": distance,
        }
        yield Row("time", model, name, values)
        del runners, runs
        release()


def graph_rows(model: str, names: Sequence[str], bandwidth: float) -> Iterator[Row]:
    """Replays of our step beside the floor."""
    pool = tensors(model)
    blocks, steps = repetitions(pool)
    for name in names:
        cls, options = OPTIMIZERS[name]
        runner = Runner(partial(getattr(optim, cls), capturable=True, **options), pool[0])
        runner.take(pool[1])
        for _ in range(2):
            launches = launches_of(runner.optimizer)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            runner.optimizer.step()

        def replays(graph: torch.cuda.CUDAGraph = graph) -> None:
            # Several in a row: the host's way to the device is behind the one before.
            for _ in range(steps):
                graph.replay()

        taken = statistics.median([seconds(replays, "cuda") for _ in range(4 * blocks)][1:]) / steps
        # Parameter, gradient and states are read, parameter and states are written.
        moved = sum(x.nbytes * (3 + 2 * states_of(runner.optimizer, x)) for x in runner.params)
        floor = moved / bandwidth
        values: dict[str, float | None] = {
            "replay us": taken * 1e6,
            "floor us": floor * 1e6,
            "over floor": taken / floor,
            "of copy": floor / taken,
            "launches": launches,
        }
        yield Row("graph", model, name, values)
        del runner, graph, replays
        release()


def host_rows(model: str, names: Sequence[str]) -> Iterator[Row]:
    """What a step asks of the host."""
    pool = tensors(model)
    initial, *gradients = pool
    for name in [name for name in USUAL if name in names]:
        sides = sides_of(name)
        runs = [Runner(make, initial) for make in sides.values()]
        took = alternate(runs, gradients, *repetitions(pool), Runner.timed_on_host)
        values: dict[str, float | None] = {
            f"{side} us": taken for side, taken in zip(sides, took, strict=True)
        }
        yield Row("host", model, name, values)
        del runs
        release()


def clip_ema_rows(model: str) -> Iterator[Row]:
    """Clipping, AdamW and averaging as one step, beside torch's three."""
    pool = tensors(model)
    initial, *gradients = pool
    runs = [Runner(make, initial) for make in (Clipped, ClippedByTorch)]
    ours, theirs = alternate(runs, gradients, *repetitions(pool))
    values: dict[str, float | None] = {
        "ours us": ours,
        "torch us": theirs,
        "over torch": ours / theirs,
        "apart": apart(runs[0].params, runs[1].params, initial),
        "launches": launches_of(runs[0].optimizer.optimizer),
    }
    yield Row("clip_ema", model, CLIP_AND_AVERAGE, values)


def memory_rows(model: str) -> Iterator[Row]:
    """Memory of our step beside parameters, gradients, states and averages."""
    pool = tensors(model)
    makes: dict[str, tuple[Make, int]] = {"AdamW": (optim.AdamW, 0), CLIP_AND_AVERAGE: (Clipped, 1)}
    for name, (make, averages) in makes.items():
        before = requested()
        runner = Runner(make, pool[0])
        for gradients in pool[1:]:
            runner.renew(gradients)
            runner.optimizer.step()
        known = sum(x.nbytes * (2 + averages + states_of(runner.optimizer, x)) for x in runner.params)
        held = requested() - before - known
        runner.renew(pool[1])
        extra = runner.extra()
        figures = {"held": held, "extra": extra, "together": held + extra}
        yield Row("memory", model, name, {f"{what} MB": x / 1e6 for what, x in figures.items()})
        del runner
        release()


def requested() -> int:
    """Bytes of all tensors on the device, as they were asked for: the allocator rounds each up."""
    torch.cuda.synchronize()
    return int(torch.cuda.memory_stats()["requested_bytes.all.current"])


def first_rows() -> Iterator[Row]:
    """The first step of fresh processes: each new Triton cache is used twice."""
    found: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            for taken in found.values():
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.first_step"],
                    cwd=ROOT,
                    env={**os.environ, "TRITON_CACHE_DIR": folder},
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                taken.append(json.loads(done.stdout))
    for cache, taken in found.items():
        values: dict[str, float | None] = {
            column: statistics.median(x[column] for x in taken) for column in taken[0]
        }
        yield Row("first", "resnet18", f"AdamW {cache}", values)


def release() -> None:
    """Give memory that nothing holds any more back to the device."""
    gc.collect()
    torch.cuda.empty_cache()


def measure(
    sections: Sequence[str], models: Sequence[str], names: Sequence[str], bandwidth: float
) -> Iterator[Row]:
    """All rows, section by section."""
    of_model: dict[str, Callable[[str], Iterator[Row]]] = {
        "time": partial(time_rows, names=names),
        "graph": partial(graph_rows, names=names, bandwidth=bandwidth),
        "host": partial(host_rows, names=names),
        "clip_ema": clip_ema_rows,
        "memory": memory_rows,
    }
    for section in sections:
        if section == "first":
            yield from first_rows()
            continue
        for model in models:
            yield from of_model[section](model)
            release()


def adamw_table(rows: Sequence[Row]) -> list[str]:
    """AdamW on every model as a Markdown table, in microseconds."""
    found = {(row.section, row.model): row.values for row in rows if row.optimizer == "AdamW"}
    lines = [
        "| AdamW, us | tensors, parameters | torch default | torch fused | ours | ours in a graph | floor |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in [model for section, model in found if section == "time"]:
        step, replay = found["time", model], found.get(("graph", model), {})
        shapes = MODELS[model]()
        count = sum(map(math.prod, shapes))
        times = [step["default us"], step["fused us"], step["ours us"]]
        figures = " | ".join(map(figure, [*times, replay.get("replay us"), replay.get("floor us")]))
        lines.append(f"| {model} | {len(shapes)}, {figure(count / 1e6)} M | {figures} |")
    return lines


def main() -> int:
    """Print the tables; the exit code says whether all rows are within the limits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--optimizers",
        nargs="+",
        choices=OPTIMIZERS,
        default=list(OPTIMIZERS),
        help="of time, graph and host",
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--json", type=Path, help="write all figures to this file too")
    parser.add_argument("--markdown", action="store_true", help="print tables for the README at the end")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this measures a CUDA device, and there is none")

    bandwidth = copy_bandwidth("cuda")
    release()
    about = (
        f"{describe('cuda')}, Triton {import_module('triton').__version__}, float32, {datetime.date.today()}"
    )
    print(f"{about}\ncopy of 1 GiB: {bandwidth / 1e9:.0f} GB/s read and written", flush=True)
    rows: list[Row] = []
    for row in measure(arguments.sections, arguments.models, arguments.optimizers, bandwidth):
        if not rows or rows[-1].section != row.section:
            print(head(row.section, list(row.values)))
        print(line(row), flush=True)
        rows.append(row)
    broken = [text for limit in LIMITS for text in limit.broken(rows)]
    if arguments.json:
        found = {"about": about, "copy bandwidth": bandwidth, "rows": list(map(vars, rows)), "over": broken}
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if arguments.markdown:
        print("", *adamw_table(rows), "", *limits_table(LIMITS, rows), "", sep="\n")
    if broken:
        print("over the limits:", *broken, sep="\n  ")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
