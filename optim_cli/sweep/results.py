"""The jobs of a sweep as their folders tell them: collected, ranked, put together over seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from statistics import mean, stdev
from typing import Any, get_args

from optim_cli.sweep.status import FILE, Status

# Of the best weights: chosen by the first, then the second; the third is what they reach on new data.
METRICS = ("val/accuracy", "val/loss", "test/accuracy")
ACCURACIES = ("val/accuracy", "test/accuracy")
LAST = (2.0, 0.0, 0.0)
UNKNOWN: dict[str, float | None] = dict.fromkeys(METRICS)


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        number: its place in the sweep, the name of its folder.
        directory: its folder.
        overrides: what makes the job; empty if the folder does not tell.
        status: how it ended; missing if the folder does not tell; not begun if there is none.
        error: the cause in one line, if there is one.
        metrics: a value for each of METRICS; None if there is none or it is not finite.
    """

    number: int
    directory: Path
    overrides: tuple[str, ...]
    status: Status
    error: str | None
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; None for the deviation of a single value."""

    mean: float
    std: float | None


@dataclass(frozen=True)
class SeedGroup:
    """Jobs that differ only in `seed`.

    Attributes:
        overrides: what they have in common.
        jobs: their numbers.
        done: how many of them are done.
        accuracies: of those, a spread for each of ACCURACIES; None if they have none.
    """

    overrides: tuple[str, ...]
    jobs: tuple[int, ...]
    done: int
    accuracies: dict[str, Spread | None]


def collect(sweep_directory: Path, planned: Sequence[Sequence[str]] = ()) -> list[Job]:
    """The jobs in a sweep's folder, by number: those that tell of themselves, and folders `0`, `1`, ...

    A file that is damaged counts as one that is not there. Jobs whose folders have other names
    (`hydra.sweep.subdir`) are numbered in the order of these.

    Args:
        planned: overrides of all jobs, in order; those that left nothing never began.
    """
    numbered = {x for x in sweep_directory.iterdir() if x.is_dir() and x.name.isdecimal()}
    others = {x.parent for x in sweep_directory.rglob(FILE)} - numbered
    places = [*((int(x.name), x) for x in numbered), *enumerate(sorted(others), len(numbered))]
    jobs = [_job(number, x) for number, x in places]
    begun = {job.number for job in jobs} | ({*range(len(planned))} if others else set())
    jobs += [
        Job(number, sweep_directory / str(number), tuple(overrides), "not begun", None, UNKNOWN)
        for number, overrides in enumerate(planned)
        if number not in begun
    ]
    return sorted(jobs, key=lambda job: job.number)


def rank(jobs: Sequence[Job]) -> list[Job]:
    """Jobs from best to worst: by validation accuracy, then validation loss, then number.

    Jobs without a validation set come after those with one, by test accuracy; those without any result
    come last.
    """
    return sorted(jobs, key=lambda job: (*merit(job.metrics), job.number))


def over_seeds(jobs: Sequence[Job]) -> list[SeedGroup]:
    """Groups of jobs that differ only in `seed`, as they appear; none unless one has two jobs done."""
    members: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        common = tuple(x for x in job.overrides if key_of(x) != "seed")
        if len(common) < len(job.overrides):
            members.setdefault(common, []).append(job)
    groups = [_group(common, group) for common, group in members.items()]
    return groups if any(group.done > 1 for group in groups) else []


def key_of(override: str) -> str:
    """The key of an override: `seed` of `seed=1` and of `+seed=1`."""
    return override.partition("=")[0].lstrip("+")


def merit(metrics: dict[str, float | None]) -> tuple[float, float, float]:
    """Sorts metrics from best to worst, as `rank` says; LAST where there is no accuracy."""
    accuracy, loss, test = (metrics.get(name) for name in METRICS)
    if accuracy is not None:
        return 0, -accuracy, inf if loss is None else loss
    return LAST if test is None else (1, -test, 0)


def _job(number: int, directory: Path) -> Job:
    told, metrics = _told(directory / FILE), _metrics(directory / "summary.json")
    status, error, overrides = told or ("missing" if metrics is None else "done", None, ())
    if status == "done" and metrics is None:
        status, error = "missing", "the job was done, but its summary.json is damaged or gone"
    return Job(number, directory, overrides, status, error, metrics or UNKNOWN)


def _told(path: Path) -> tuple[Status, str | None, tuple[str, ...]] | None:
    try:
        told = json.loads(path.read_bytes())
        status, error, overrides = told["status"], told["error"], tuple(map(str, told["overrides"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return (status, error, overrides) if status in get_args(Status) else None


def _metrics(path: Path) -> dict[str, float | None] | None:
    try:
        summary = json.loads(path.read_bytes())
        values = {**summary["final"], **summary["best"]}
        weights = summary["best_weights"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return {name: _finite(values.get(_of(weights, name))) for name in METRICS}


def _of(weights: str, name: str) -> str:
    """What a metric of the best weights is called, where those may be an average: val_averaged/loss."""
    split, _, metric = name.partition("/")
    return name if weights == "model" else f"{split}_{weights}/{metric}"


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def _group(common: tuple[str, ...], jobs: Sequence[Job]) -> SeedGroup:
    done = [job for job in jobs if job.status == "done"]
    spreads = {name: _spread([job.metrics[name] for job in done]) for name in ACCURACIES}
    return SeedGroup(common, tuple(job.number for job in jobs), len(done), spreads)


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [x for x in values if x is not None]
    return Spread(mean(known), stdev(known) if len(known) > 1 else None) if known else None
