"""Before anything starts: every mistake in every job, told at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from optim_cli.assemble import refusals
from optim_cli.config.check import mistakes
from optim_cli.config.experiment import Experiment, Job
from optim_cli.config.mistakes import Mistake
from optim_cli.errors import ConfigError
from optim_cli.run import choose_device


def all_mistakes(experiment: Experiment) -> list[Mistake]:
    """What is wrong with a command line; the same mistake in several jobs once."""
    jobs = [experiment.job(overrides) for overrides in experiment.jobs]
    experiment.mistakes += _folder(experiment, jobs)
    told = {x.key for x in experiment.mistakes}
    found = [x for job in jobs for x in job.told(mistakes_of(job)) if x.key not in told]
    return list(dict.fromkeys([*experiment.mistakes, *found]))


def mistakes_of(job: Job) -> list[Mistake]:
    """What is wrong with one job."""
    found = list(job.mistakes)
    if job.values is None:
        return found
    # Of what could not be read or resolved, nothing more can be said.
    known = {x.key for x in found}
    found += [
        x for x in mistakes(job.values) if not job.composed.is_unread(x.key) and not _told(x.key, known)
    ]
    wrong = {x.partition(".")[0] for x in (*job.composed.unread, *(x.key for x in found))}
    told = {x.key for x in found}
    found += [
        x for x in refusals(job.values, wrong) if x.key not in told and not job.composed.is_unread(x.key)
    ]
    return found + _device(job.values, wrong)


def _folder(experiment: Experiment, jobs: list[Job]) -> list[Mistake]:
    """What is wrong with the folder that results are to go to."""
    key = "hydra.sweep.dir" if experiment.several else "hydra.run.dir"
    try:
        folder = experiment.directory()
    except OmegaConfBaseException as error:
        return [Mistake(key, f"cannot be resolved: {str(error).splitlines()[0]}")]
    if folder is None or experiment.resumed or jobs[0].composed.unread:
        return []  # the choices are part of its name
    try:
        wrong = _why_not(folder)
    except OSError as error:  # such as a name that is too long
        wrong = str(error.strerror)
    return [Mistake(key, f"{str(folder)!r}: {wrong}", jobs[0].origin_of(key))] if wrong else []


def _why_not(folder: Path) -> str:
    """Why results cannot go to a folder; empty if they can."""
    around = next((x for x in (folder, *folder.parents) if x.exists()), folder)
    if any((folder / x).exists() for x in ("config.yaml", "multirun.yaml", "results.json")):
        return "holds another run's results; name a folder without them"
    if not around.is_dir():
        return f"{str(around)!r} is no folder"
    return "" if os.access(around, os.W_OK | os.X_OK) else f"{str(around)!r} cannot be written to"


def _told(key: str, known: set[str]) -> bool:
    """Whether a key, what it lies in, or something in it is among the known."""
    return any(key == x or key.startswith((f"{x}.", f"{x}[")) or x.startswith(f"{key}.") for x in known)


def _device(values: dict[str, Any], wrong: set[str]) -> list[Mistake]:
    if "device" in wrong:
        return []
    try:
        choose_device(values["device"])
    except ConfigError as error:
        return [Mistake("device", str(error).removeprefix("device: "))]
    return []
