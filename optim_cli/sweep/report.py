"""What a sweep shows and writes at its end: the ranked jobs, the spread over seeds, what went wrong."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from optim_cli.sweep.results import (
    ACCURACIES,
    LAST,
    Job,
    SeedGroup,
    Spread,
    collect,
    key_of,
    merit,
    over_seeds,
    rank,
)
from optim_cli.sweep.table import Row, show
from optim_cli.whole_file import write_json


def report(sweep_directory: Path, console: Console, planned: Sequence[Sequence[str]] = ()) -> bool:
    """Show the jobs of a sweep from best to worst and write all about them to `results.json`.

    Args:
        sweep_directory: the folder that holds the jobs' folders.
        planned: overrides of all jobs, in order, where they are known: those that never began are told too.
        console: a terminal gets tables of its width; a file or pipe plain lines, as long as they need.

    Returns:
        Whether all jobs are done.

    Raises:
        OSError: `results.json` cannot be written.
    """
    jobs = collect(sweep_directory, planned)
    ranked, groups = rank(jobs), sorted(over_seeds(jobs), key=_merit_of_means)
    counts = Counter(job.status for job in jobs)
    _say(
        console,
        f"{len(jobs)} job{'s' * (len(jobs) != 1)}: "
        + ", ".join(f"{n} {status}" for status, n in counts.items()),
    )
    common = _common([job.overrides for job in jobs if job.overrides])
    if common:
        _say(console, "in all jobs: " + " ".join(common))
    _show_jobs(console, ranked, common)
    if groups:
        _say(console, "over seeds, mean ± standard deviation of the jobs that are done:")
        _show_groups(console, groups, common)
    for job in jobs:
        if job.status != "done":
            cause = f": {job.error}" if job.error else ""
            _say(console, f"job {job.number} ({os.path.relpath(job.directory)}) {job.status}{cause}")
    path = sweep_directory / "results.json"
    write_json(
        path,
        {"jobs": [_plain_job(x, sweep_directory) for x in ranked], "seeds": list(map(_plain_group, groups))},
    )
    _say(console, f"results in {os.path.relpath(path)}")
    return all(job.status == "done" for job in jobs)


def _show_jobs(console: Console, ranked: Sequence[Job], common: Collection[str]) -> None:
    rows = [
        Row(
            ("-" if merit(job.metrics) == LAST else str(place), str(job.number)),
            _by_key(job.overrides, common),
            (*(_number(job.metrics[name]) for name in ACCURACIES), job.status),
        )
        for place, job in enumerate(ranked, 1)
    ]
    show(console, ("rank", "job"), (*ACCURACIES, "status"), rows)


def _show_groups(console: Console, groups: Sequence[SeedGroup], common: Collection[str]) -> None:
    rows = [
        Row(
            ("-" if _merit_of_means(group) == LAST else str(place),),
            _by_key(group.overrides, common),
            (*(_spread(group.accuracies[name]) for name in ACCURACIES), f"{group.done}/{len(group.jobs)}"),
        )
        for place, group in enumerate(groups, 1)
    ]
    show(console, ("rank",), (*ACCURACIES, "done"), rows)


def _common(overrides: Sequence[Sequence[str]]) -> list[str]:
    """What all jobs have; nothing differs in it."""
    return [x for x in overrides[0] if all(x in other for other in overrides)] if overrides else []


def _by_key(overrides: Sequence[str], common: Collection[str]) -> dict[str, str]:
    """Key to value of the overrides that are not common to all."""
    return {key_of(x): x.partition("=")[2] for x in overrides if x not in common}


def _merit_of_means(group: SeedGroup) -> tuple[float, float, float]:
    return merit({name: None if x is None else x.mean for name, x in group.accuracies.items()})


def _plain_job(job: Job, folder: Path) -> dict[str, Any]:
    return {
        "job": job.number,
        "folder": str(job.directory.relative_to(folder)),
        "overrides": job.overrides,
        "status": job.status,
        "error": job.error,
        "metrics": job.metrics,
    }


def _plain_group(group: SeedGroup) -> dict[str, Any]:
    accuracies = {
        name: None if x is None else {"mean": x.mean, "std": x.std} for name, x in group.accuracies.items()
    }
    return {
        "overrides": group.overrides,
        "jobs": group.jobs,
        "done": group.done,
        "not_done": len(group.jobs) - group.done,
        "accuracies": accuracies,
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return _number(None)
    return _number(spread.mean) + ("" if spread.std is None else f" ± {_number(spread.std)}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
