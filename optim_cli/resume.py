"""Taking up a run that was stopped, where its newest checkpoint left it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optim_cli.assemble import of_run_length
from optim_cli.config.saved import command
from optim_cli.config.targets import plugins_of
from optim_cli.errors import ConfigError
from optim_cli.run_folder import RunFolder
from optim_cli.tracking.json_lines import cut
from optim_cli.training.checkpoint import Damaged, write_whole
from optim_cli.training.loop import Training

Note = Callable[[str], None]


def take_up(training: Training, folder: RunFolder, values: Mapping[str, Any], note: Note) -> None:
    """Bring a new training, and its folder, to where the run stopped.

    The folder changes only after nothing stands against going on.

    Args:
        training: as assembled from `values`, with its checkpoints.
        folder: the run's.
        values: the config to go on with. It differs from the folder's in what may change at most.
        note: is given what people should know, line by line.

    Raises:
        ConfigError: the run is complete, its length may not become what `values` say, or no
            checkpoint can be loaded.
        OSError: the folder cannot be written to.
    """
    assert training.checkpoints is not None
    try:
        state = training.checkpoints.newest(training.state_dict(), lambda text: note(f"warning: {text}"))
    except Damaged as error:
        raise ConfigError(f"resume: {error}; {_again(folder)}") from None
    before = folder.read_config()
    _check_incomplete(state, training, folder)
    if state is None:
        note("no checkpoint yet: starting from the beginning")
    else:
        _check_length(state, training)
        _check_schedule(state, training, before, values)
        try:
            training.load_state_dict(state)
        except (RuntimeError, ValueError, KeyError) as error:
            cause = " ".join(str(error).split())
            raise ConfigError(f"resume: the checkpoint is of another model or optimizer: {cause}") from error
        if training.best_step == training.step:
            # Written after the checkpoint itself, it may be missing or of an earlier step.
            write_whole(state, training.checkpoints.best)
    metrics = folder.path / "metrics.jsonl"
    if metrics.exists():
        cut(metrics, training.step, training.evaluated)
    if before != values:
        folder.replace_config(values)


def _check_incomplete(state: Mapping[str, Any] | None, training: Training, folder: RunFolder) -> None:
    summary = folder.read_json("summary.json")
    if summary is None:
        return
    if state is None:
        raise ConfigError(
            f"resume: {str(folder.path)!r} is complete and its checkpoints are gone; {_again(folder)}"
        )
    step, total = state["step"], training.total_steps
    if summary["steps"] == step == total:
        raise ConfigError(
            f"resume: {str(folder.path)!r} is complete ({step} of {total} steps); "
            f"raise trainer.epochs to go on, or {_again(folder)}"
        )


def _again(folder: RunFolder) -> str:
    return f"run it again with {command('rerun', str(folder.path))}"


def _check_length(state: Mapping[str, Any], training: Training) -> None:
    step, total = state["step"], training.total_steps
    if step > total:
        raise ConfigError(
            f"trainer.epochs, trainer.max_steps: they make {total} steps, but {step} are done; "
            f"the run must have {step} steps or more"
        )


def _check_schedule(
    state: Mapping[str, Any], training: Training, before: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    """Refuse another length of the run where the schedule took its own from it."""
    if not values["scheduler"]:
        return
    plugins = plugins_of(values)
    planned = of_run_length(before["scheduler"], state["total_steps"], plugins)
    for key, length in of_run_length(values["scheduler"], training.total_steps, plugins).items():
        if length != planned[key]:
            raise ConfigError(
                f"scheduler.{key}: the learning rate was planned for {planned[key]} steps and cannot be "
                f"planned anew for {length}; keep the length of the run, or the plan with "
                f"scheduler.{key}={planned[key]}"
            )
