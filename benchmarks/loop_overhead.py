"""Our training loop over a hand-written torch loop that does the same work, seconds per step on a CPU.

Same model and initial weights, same batches in the same order, AdamW and 1cycle, loss and accuracy
summed on both sides. Ours draws its progress display and writes metrics.jsonl meanwhile. Blocks of steps
alternate between the loops, so that the noise of the machine meets both; the ratio is of medians.

    python benchmarks/loop_overhead.py [--blocks 30]

Ends with exit code 1 where a ratio is above its limit.
"""

from __future__ import annotations

import argparse
import io
import platform
import sys
import tempfile
from collections.abc import Generator
from copy import deepcopy
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optim_cli.datasets.dataset import Dataset
from optim_cli.datasets.digits import digits
from optim_cli.datasets.synthetic import synthetic
from optim_cli.models.cnn import CNN
from optim_cli.models.mlp import MLP
from optim_cli.optim import ALGORITHMS
from optim_cli.optim.lr_scheduler.onecycle import OneCycleLR
from optim_cli.tracking.json_lines import MetricsFile
from optim_cli.training.events import Observers, Plan
from optim_cli.training.loop import Trainer, Training
from optim_cli.training.progress import LiveDisplay

LIMITS = {"mlp": 1.10, "cnn": 1.05}
TOTAL_STEPS = 1_000_000
CPU = torch.device("cpu")


def case(name: str) -> tuple[Dataset, nn.Module]:
    torch.manual_seed(0)
    common: dict[str, Any] = dict(
        val_fraction=0.1, test_fraction=0.2, seed=0, split_seed=0, augmentation=None
    )
    if name == "mlp":
        data = digits(batch_size=64, **common)
        model: nn.Module = MLP(
            hidden=[256, 128], activation="relu", dropout=0.0, input_shape=data.input_shape, num_classes=10
        )
    else:
        data = synthetic(
            num_samples=2000, num_classes=10, input_shape=[1, 28, 28], noise=3.0, data_seed=0, batch_size=128,
            **common,
        )  # fmt: skip
        model = CNN(widths=[16, 32, 64], input_shape=data.input_shape, num_classes=10)
    return data, model


def by_hand(data: Dataset, model: nn.Module) -> Generator[int]:
    """What one writes without a framework; yields the number of steps of each epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=TOTAL_STEPS)
    epoch = 0
    while True:
        epoch += 1
        model.train()
        loss_sum: Tensor | float = 0.0
        correct: Tensor | int = 0
        steps = 0
        for inputs, targets in data.train.batches(data.batch_size, CPU, epoch):
            logits = model(inputs)
            loss = cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            loss_sum += loss.detach() * len(targets)
            correct += (logits.argmax(1) == targets).sum()
            steps += 1
        yield steps


def ours(data: Dataset, model: nn.Module, implementation: str, folder: Path) -> Generator[int]:
    """Our loop with display and metrics file."""
    optimizer = ALGORITHMS["AdamW"](model.parameters(), lr=1e-3, implementation=implementation)
    scheduler = OneCycleLR(optimizer, max_lr=1e-3, total_steps=TOTAL_STEPS)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    observer = Observers(LiveDisplay(console), MetricsFile(folder / f"{implementation}.jsonl"))
    plan = Plan("cpu", "m", 0, "d", False, "o", "s", "none", 1, TOTAL_STEPS, data.batch_size)
    observer.started(plan)
    trainer = Trainer(
        epochs=TOTAL_STEPS, max_steps=None, evaluate_every=1, measure_every=10, deterministic=False
    )
    training = Training(trainer, data, model, optimizer, scheduler, {}, CPU, observer)
    try:
        while True:
            before = training.step
            training.epoch += 1
            training.train_epoch(TOTAL_STEPS)
            yield training.step - before
    finally:
        observer.close()


def seconds_per_step(loop: Generator[int], steps: int) -> float:
    done, start = 0, perf_counter()
    while done < steps:
        done += next(loop)
    return (perf_counter() - start) / done


def compare(name: str, blocks: int, folder: Path) -> dict[str, float]:
    data, model = case(name)
    steps = {"mlp": 100, "cnn": 11}[name]
    loops = {
        "hand-written": by_hand(data, deepcopy(model)),
        "for_loop": ours(data, deepcopy(model), "for_loop", folder),
        "auto": ours(data, deepcopy(model), "auto", folder),
    }
    times: dict[str, list[float]] = {side: [] for side in loops}
    for block in range(blocks + 1):
        for side, loop in loops.items():
            spent = seconds_per_step(loop, steps)
            if block:  # the first block warms up
                times[side].append(spent)
    for loop in loops.values():
        loop.close()
    return {side: median(values) for side, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--blocks", type=int, default=30, help="blocks of steps for each loop")
    arguments = parser.parse_args()
    threads, python = torch.get_num_threads(), platform.python_version()
    print(f"torch {torch.__version__}, Python {python}, {platform.machine()}, {threads} threads")
    columns = ("model", "hand-written", "ours, for_loop", "ratio", "ours, auto", "ratio", "limit")
    print("{:6} {:>14} {:>16} {:>6} {:>12} {:>6}  {}".format(*columns))
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name, limit in LIMITS.items():
            place = Path(folder) / name
            place.mkdir()
            spent = compare(name, arguments.blocks, place)
            hand = spent["hand-written"]
            ratios = {side: spent[side] / hand for side in ("for_loop", "auto")}
            print(
                f"{name:6} {hand * 1e6:11.0f} us {spent['for_loop'] * 1e6:13.0f} us {ratios['for_loop']:6.3f}"
                f" {spent['auto'] * 1e6:9.0f} us {ratios['auto']:6.3f}  {limit}"
            )
            failed |= max(ratios.values()) > limit
    sys.exit(failed)


if __name__ == "__main__":
    main()
