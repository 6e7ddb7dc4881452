"""One job of a command line: what it runs, and how its end is told."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from optim_cli.assemble import resolve
from optim_cli.config.experiment import Experiment
from optim_cli.config.targets import plugins_of
from optim_cli.errors import FAILED, WRONG_CONFIG, ConfigError, user_frames
from optim_cli.run import run
from optim_cli.sweep.status import FILE, Status, write_status
from optim_cli.training.stop import Stopped, StoppedAtOnce


@dataclass(frozen=True)
class End:
    """How a job ended.

    Attributes:
        code: what the process ends with if it is the only job.
        error: the cause, if it is not done; a line, or one for each mistake.
        more: lines to say after it.
    """

    status: Status
    code: int = 0
    error: str | None = None
    more: tuple[str, ...] = ()
    objective: float = float("nan")


def run_job(experiment: Experiment, config: DictConfig) -> float:
    """Run what Hydra composed, or the earlier run that the command line names.

    Returns:
        A sweep's objective: accuracy of the best weights; NaN for a job of a multirun that failed,
        which does not keep the others from running.

    Raises:
        SystemExit: a single run did not get to its end, or a signal stopped the job.
    """
    hydra = HydraConfig.get()
    directory, several = Path(hydra.runtime.output_dir), hydra.mode == RunMode.MULTIRUN
    overrides = list(hydra.overrides.task)
    if several and experiment.saved is not None:
        overrides = [str(x.input_line) for x in experiment.jobs[hydra.job.num]]
    if several:
        if (directory / FILE).exists():
            # Another job's, if hydra.sweep.subdir gives the same name twice.
            directory = directory / str(hydra.job.num)
        # What a job leaves that is killed.
        _keep(directory, overrides, "missing")
    end = _end_of(experiment, config, directory)
    if end.error is not None:
        failed = "the run failed: " if end.status == "failed" else ""
        told = f"{failed}{end.error}".replace("\n", "\noptim-run: ")
        print(f"optim-run: {told}", *end.more, sep="\n", file=sys.stderr)
    if several:
        _keep(directory, overrides, end.status, end.error)
    elif end.status == "refused":
        _remove_empty(directory)
    if end.code and (end.status == "stopped" or not several):
        sys.exit(end.code)
    return end.objective


def _keep(directory: Path, overrides: list[str], status: Status, error: str | None = None) -> None:
    """Note how a job of a multirun ended; a full disk does not keep the others from running."""
    try:
        write_status(directory, overrides, status, error)
    except OSError as refused:
        print(f"optim-run: {directory / FILE} could not be written: {refused}", file=sys.stderr)


def _end_of(experiment: Experiment, config: DictConfig, directory: Path) -> End:
    plugins: list[str] = []
    try:
        values, choices = _asked_for(experiment, config)
        plugins = plugins_of(values)
        results = run(values, directory, choices, resume=experiment.resumed)
    except Stopped as stopped:
        return End("stopped", 128 + stopped.signum, f"interrupted by {stopped.signum.name}")
    except ConfigError as error:
        return End("refused", WRONG_CONFIG, str(error))
    except StoppedAtOnce:
        raise
    except (Exception, SystemExit) as error:  # code of a user's may call sys.exit
        return _failed(error, directory, plugins)
    return End("done", objective=results.objective)


def _asked_for(experiment: Experiment, config: DictConfig) -> tuple[Mapping[str, Any], dict[str, str | None]]:
    """Values and choices of the job."""
    hydra = HydraConfig.get()
    if experiment.saved is None:
        values, choices = resolve(config), dict(hydra.runtime.choices)
    else:
        job = experiment.job(experiment.jobs[hydra.job.num if experiment.several else 0])
        assert job.values is not None
        values, choices = job.values, job.choices
    # Hydra's own groups (hydra/launcher, ...) are of no interest to the run.
    return values, {str(x): y for x, y in choices.items() if "/" not in str(x)}


def _failed(error: BaseException, directory: Path, plugins: list[str]) -> End:
    # What a worker process raised comes with its trace, the cause on the last line.
    cause = (str(error).strip().splitlines() or [""])[-1]
    more = user_frames(error, plugins)
    with suppress(OSError):  # of a log that cannot be written either
        logging.getLogger(__name__).exception("the run failed")
        more.append(f"optim-run: the full trace is in {directory / 'run.log'}")
    return End("failed", FAILED, f"{type(error).__name__}: {cause}", tuple(more))


def _remove_empty(directory: Path) -> None:
    """Take back the folder that Hydra made for a run that never was, and the one around it."""
    for folder in (directory, directory.parent):
        try:
            folder.rmdir()
        except OSError:  # it holds something
            return
