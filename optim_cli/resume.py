"""Taking up a run that was stopped, where its newest checkpoint left it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optim_cli.assemble import averages_in_steps, planned
from optim_cli.config.durations import RunLength
from optim_cli.config.groups import unfreezing
from optim_cli.config.saved import command
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
        _check_plans(state, training, before, values)
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


def _check_plans(
    state: Mapping[str, Any], training: Training, before: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    """Refuse another length of the run where schedule or averaging took theirs from it."""
    was = _numbers(before, state["total_steps"], state["steps_per_epoch"])
    found = []
    for key, number in _numbers(values, training.total_steps, training.steps_per_epoch).items():
        if number != was.get(key, number):
            old = str(was[key]).replace(" ", "")
            found.append(
                f"{key}: it was planned for {old} and cannot be planned anew for {number}; keep the length "
                f"of the run, or the plan with {key}={old}"
            )
    if found:
        raise ConfigError("\n".join(found))


def _numbers(values: Mapping[str, Any], steps: int, steps_per_epoch: int) -> dict[str, Any]:
    """Whole key -> value of what may depend on the length of the run."""
    found: dict[str, Any] = dict(unfreezing(values, RunLength(steps, steps_per_epoch)))
    for plan in planned(values, steps, steps_per_epoch).values():
        found |= plan.numbers()
    for key, averaging in averages_in_steps(values, steps, steps_per_epoch).values():
        found |= {f"{key}.{name}": value for name, value in averaging.items()}
    return found
