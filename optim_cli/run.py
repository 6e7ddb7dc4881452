"""One run, from a config to a folder of results."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from optim_cli.assemble import assemble
from optim_cli.config.groups import schedules_of
from optim_cli.config.saved import command as command_for
from optim_cli.environment import describe, device_name, differences
from optim_cli.errors import ConfigError
from optim_cli.group_table import group_rows
from optim_cli.resume import take_up
from optim_cli.run_folder import RunFolder
from optim_cli.tracking.curves import Curves
from optim_cli.tracking.json_lines import MetricsFile
from optim_cli.tracking.run_log import RunLog
from optim_cli.training.checkpoint import Checkpoints
from optim_cli.training.events import Observers, Plan
from optim_cli.training.loop import Results, Training
from optim_cli.training.progress import PatientConsole, show
from optim_cli.training.randomness import seed_generators
from optim_cli.training.scheduling import in_words
from optim_cli.training.stop import Stopped

log = logging.getLogger(__name__)


def run(
    values: Mapping[str, Any],
    directory: Path,
    choices: Mapping[str, str | None],
    console: Console | None = None,
    resume: bool = False,
) -> Results:
    """Train as the config says and leave everything in a folder that no other run has used.

    Args:
        values: the config, as plain values that are checked.
        directory: where results go.
        choices: config group -> name of the choice, for people to read.
        console: what is shown goes there; None takes standard output.
        resume: go on with the run of that folder, from its newest checkpoint that can be loaded. Its
            config may then differ in the length of the run, the device and what else changes no state.

    Raises:
        ConfigError: the config is wrong, the folder holds another run's results, or the run in it
            cannot go on like this.
        Stopped: a signal asked for it; the run can be resumed.
    """
    device = choose_device(values["device"])
    make_repeatable(values["seed"], values["trainer"]["deterministic"])
    logging.captureWarnings(True)
    # A log that cannot be written, on a full disk, is no reason to print a trace.
    logging.raiseExceptions = False
    training = assemble(values, device)
    console = console or PatientConsole()
    shown = Observers(show(console), RunLog())
    with RunFolder.reopen(directory) if resume else RunFolder.claim(directory, values) as folder:
        log.info("choices: %s", dict(choices))
        training.checkpoints = Checkpoints(directory / "checkpoints")
        environment = describe(device, choices)
        if resume:
            take_up(training, folder, values, shown.noted)
            warn_of_differences(folder, environment, shown)
        folder.add_environment(environment)
        metrics = directory / "metrics.jsonl"
        training.observer = Observers(
            shown, MetricsFile(metrics, resumed=resume), Curves(directory / "curves.png", metrics)
        )
        try:
            training.observer.started(plan(training, values, choices))
            results = training.fit()
        except Stopped as stopped:
            training.observer.close()
            say_how_to_resume(stopped, directory, values.get("plugins") or (), console)
            raise
        finally:
            training.observer.close()
        folder.write_json("summary.json", summary(results, training.dataset.synthetic))
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


def make_repeatable(seed: int, deterministic: bool) -> None:
    """Seed what draws random numbers."""
    seed_generators(seed)
    # The call imports torch's compiler, seconds of every start, so it is made where it changes something.
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False


def warn_of_differences(folder: RunFolder, environment: Mapping[str, Any], shown: Observers) -> None:
    """Say where a resumed run may not repeat the bits of an uninterrupted one."""
    first = folder.read_json("environment.json")
    found = differences(first, environment) if first else []
    if found:
        shown.noted(f"warning: {', '.join(found)}: the result may differ in the last bits")


def say_how_to_resume(stopped: Stopped, directory: Path, plugins: Sequence[str], console: Console) -> None:
    """Show, and log, how far a run came and the command that takes it up."""
    command = command_for("resume", os.path.relpath(directory))
    if plugins:  # what the folder says of them does not count
        command += f" 'plugins=[{','.join(plugins)}]'"
    log.info("%s; %s", stopped, command)
    console.print(f"{stopped}; go on with", highlight=False, markup=False, soft_wrap=True)
    console.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)


def plan(training: Training, values: Mapping[str, Any], choices: Mapping[str, str | None]) -> Plan:
    """What the header shows."""
    optimizer = training.optimizer
    algorithms = dict.fromkeys(type(x).__name__ for x in getattr(optimizer, "optimizers", (optimizer,)))
    groups, rate = training.groups, values["optimizer"].get("lr")
    acts = not groups or any(
        not ({"optimizer", "lr"} & x.settings.keys() or x.is_never_trained) for x in groups
    )
    scheduler, averages = training.scheduler, training.averages.values()
    steps = training.total_steps
    return Plan(
        device=device_name(training.device),
        model=str(choices["model"]),
        parameters=sum(p.numel() for p in training.model.parameters()),
        dataset=str(choices["dataset"]),
        synthetic=training.dataset.synthetic,
        optimizer=f"{' and '.join(algorithms)}" + (f", lr {rate:g}" if acts and rate is not None else ""),
        schedule="constant learning rate" if scheduler is None else in_words(scheduler, schedules_of(values)),
        averaging=" and ".join(type(x).__name__ for x in averages) or "none",
        epochs=-(-steps // training.steps_per_epoch),
        steps=steps,
        batch_size=training.dataset.batch_size,
        start=training.step,
        groups=group_rows(training, values),
    )


def summary(results: Results, synthetic: bool) -> dict[str, Any]:
    """The content of `summary.json`."""
    return {
        "final": results.final,
        "best": results.best,
        "best_step": results.best_step,
        "best_weights": results.best_weights,
        "steps": results.steps,
        "epochs": results.epochs,
        "seconds": round(results.seconds, 3),
        "synthetic_data": synthetic,
    }
