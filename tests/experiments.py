"""Composing configs and running them in this process, as the command does in its own."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor

from optim_cli.assemble import resolve
from optim_cli.config.search_path import register
from optim_cli.paths import folder
from optim_cli.run import run
from optim_cli.training.loop import Results

ROOT = Path(__file__).parents[1]
# One thread: tensors are small here, and a second one only waits for its turn.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
CHOICES = {"model": "mlp", "dataset": "digits"}
# A run of well under a second.
SMALL = ("model.hidden=[16]", "trainer.epochs=2", "trainer.measure_every=7")
# What stands beside a choice that does not go with the rest of the default experiment.
BESIDE: dict[str, tuple[str, ...]] = {
    "lambda": ("plugins=[tests]", "scheduler.lr_lambda=tests.experiments.inverse_root"),
    "multiplicative": ("plugins=[tests]", "scheduler.lr_lambda=tests.experiments.inverse_root"),
    "muon": ("model.bias=false",),
    "sparse_adam": ("dataset=python_reference", "model=bag_of_words"),
    "bag_of_words": ("dataset=python_reference", "optimizer=sparse_adam"),
    "python_reference": ("model=bag_of_words", "optimizer=sparse_adam"),
}


def inverse_root(step: int) -> float:
    """A function that a config may name."""
    return 1 / math.sqrt(1 + step)


def half_way(average: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
    """An average that a config may name."""
    return (average + current) / 2


def config_of(*overrides: str) -> DictConfig:
    """What the command composes, without Hydra's own part."""
    register()
    with initialize_config_dir(config_dir=str(folder("configs").resolve()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@dataclass
class Done:
    """A run that is over."""

    results: Results
    directory: Path
    output: str


def train(
    directory: Path, *overrides: str, choices: Mapping[str, str] = CHOICES, resume: bool = False
) -> Done:
    """Run overrides of the default config, or resume with them; what it shows is kept."""
    output = StringIO()
    console = Console(file=output, width=200)
    results = run(resolve(config_of(*overrides)), directory, choices, console, resume)
    return Done(results, directory, output.getvalue())


def nested(values: Any, keys: Sequence[str]) -> Any:
    """The value at a path of keys."""
    for key in keys:
        values = values[key]
    return values


def without_trace(text: str) -> bool:
    """Whether a message is for people: no traceback and no line of code's place."""
    return "Traceback" not in text and re.search(r'File ".*", line \d+', text) is None
