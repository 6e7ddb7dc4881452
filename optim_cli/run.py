"""One run, from a config to a folder of results."""

from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from optim_cli.assemble import assemble
from optim_cli.environment import describe, device_name
from optim_cli.errors import ConfigError
from optim_cli.tracking.curves import Curves
from optim_cli.tracking.json_lines import MetricsFile, plain
from optim_cli.training.checkpoint import CheckpointWriter
from optim_cli.training.events import Observers, Plan
from optim_cli.training.loop import Results, Training
from optim_cli.training.progress import show

log = logging.getLogger(__name__)


def run(
    values: Mapping[str, Any],
    directory: Path,
    choices: Mapping[str, str | None],
    console: Console | None = None,
) -> Results:
    """Train as the config says and leave everything in a folder that no other run has used.

    Args:
        config: the composed config.
        directory: where results go.
        choices: config group -> name of the choice, for people to read.
        console: what is shown goes there; None takes standard output.

    Raises:
        ConfigError: the config is wrong, or the folder holds another run's results.
    """
    device = choose_device(values["device"])
    make_repeatable(values["seed"], values["trainer"]["deterministic"])
    logging.captureWarnings(True)
    training = assemble(values, device)
    claim(directory, values)
    log.info("choices: %s", dict(choices))
    write_json(directory / "environment.json", describe(device))
    console = console or Console()
    observers = Observers(
        show(console), MetricsFile(directory / "metrics.jsonl"), Curves(directory / "curves.png")
    )
    training.observer = observers
    training.checkpoints = CheckpointWriter(directory / "checkpoints")
    try:
        observers.started(plan(training, choices))
        results = training.fit()
    finally:
        observers.close()
    write_json(directory / "summary.json", summary(results, training.dataset.synthetic))
    log.info("done in %.1f s: %s", results.seconds, results.final)
    console.print(f"results in {os.path.relpath(directory)}", highlight=False, soft_wrap=True)
    return results


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: 'cuda' is asked for, but torch sees no CUDA device; use cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def claim(directory: Path, values: Mapping[str, Any]) -> None:
    """Write `config.yaml` as the first file of the folder, which makes the folder this run's own.

    Raises:
        ConfigError: another run was here.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "config.yaml"
    try:
        with path.open("x", encoding="utf-8") as file:
            yaml.safe_dump(dict(values), file, sort_keys=False)
    except FileExistsError:
        raise ConfigError(
            f"hydra.run.dir: {str(directory)!r} holds another run's results; name a folder without them"
        ) from None


def make_repeatable(seed: int, deterministic: bool) -> None:
    """Seed what draws random numbers."""
    random.seed(seed)
    torch.manual_seed(seed)
    # The call imports torch's compiler, seconds of every start, so it is made where it changes something.
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False


def plan(training: Training, choices: Mapping[str, str | None]) -> Plan:
    """What the header shows."""
    group = training.optimizer.param_groups[0]
    name = type(training.optimizer).__name__
    scheduler, averaging = training.scheduler, training.averaging
    steps = training.trainer.total_steps(training.steps_per_epoch)
    return Plan(
        device=device_name(training.device),
        model=str(choices["model"]),
        parameters=sum(p.numel() for p in training.model.parameters()),
        dataset=str(choices["dataset"]),
        synthetic=training.dataset.synthetic,
        optimizer=f"{name}, lr {group.get('max_lr', group.get('initial_lr', group['lr'])):g}",
        schedule="constant learning rate" if scheduler is None else type(scheduler).__name__,
        averaging="none" if averaging is None else type(averaging).__name__,
        epochs=-(-steps // training.steps_per_epoch),
        steps=steps,
        batch_size=training.dataset.batch_size,
    )


def summary(results: Results, synthetic: bool) -> dict[str, Any]:
    """The content of `summary.json`."""
    return {
        "final": results.final,
        "best": results.best,
        "best_step": results.best_step,
        "steps": results.steps,
        "epochs": results.epochs,
        "seconds": round(results.seconds, 3),
        "synthetic_data": synthetic,
    }


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(plain(values), indent=2, allow_nan=False) + "\n", encoding="utf-8")
