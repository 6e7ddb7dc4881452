"""Jobs collected from real files, ranked and put together over seeds, against a plain reference."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from math import inf, isclose, nan, sqrt
from pathlib import Path
from typing import Any, get_args

import pytest

from optim_cli.sweep.results import ACCURACIES, METRICS, Job, collect, key_of, over_seeds, rank
from optim_cli.sweep.status import Status, write_status
from optim_cli.tracking.json_lines import plain

STATUSES: tuple[Status, ...] = get_args(Status)


def leave_summary(directory: Path, best: dict[str, Any], final: dict[str, Any] | None = None) -> None:
    """The file of a run that has reached its end."""
    directory.mkdir(parents=True, exist_ok=True)
    values = plain(
        {"final": best if final is None else final, "best": best, "best_weights": "model", "steps": 5}
    )
    (directory / "summary.json").write_text(json.dumps(values), encoding="utf-8")


def random_jobs(seed: int) -> list[Job]:
    """Jobs with few distinct values, so that ties occur; some without a validation set or any result."""
    draw = random.Random(seed)
    jobs = []
    for number in range(draw.randrange(1, 40)):
        status = draw.choice(STATUSES[:3])
        metrics: dict[str, float | None] = dict.fromkeys(METRICS)
        if status == "done":
            metrics["test/accuracy"] = draw.choice((0.1, 0.5, 0.9))
            if draw.random() < 0.8:
                metrics |= {"val/accuracy": draw.choice((0, 0.5, 1)), "val/loss": draw.choice((0.1, 2, None))}
        overrides = (f"optimizer={draw.choice('ab')}", f"seed={draw.randrange(5)}", f"+x={draw.choice('12')}")
        jobs.append(Job(number, Path(str(number)), overrides, status, None, metrics))
    return jobs


@pytest.fixture
def jobs(seed: int) -> list[Job]:
    return random_jobs(seed)


def test_collect(tmp_path: Path) -> None:
    metrics = {"val/accuracy": 0.5, "val/loss": nan, "test/accuracy": 0.25}
    for number in (10, 2, 0):
        job = tmp_path / str(number)
        write_status(job, ["optimizer=sgd", f"seed={number}"], "done")
        leave_summary(job, {**metrics, "train/loss": inf}, final={"test/accuracy": 0.75})
    write_status(tmp_path / "1", ["seed=1"], "failed", "OSError: no space")
    (tmp_path / "3").mkdir()
    leave_summary(tmp_path / "4", {}, final={"test/accuracy": 0.75})
    # What else lies in a sweep's folder.
    (tmp_path / "multirun.yaml").write_text("seed: 0\n")
    (tmp_path / "12").write_text("a file\n")
    (tmp_path / "plots").mkdir()

    jobs = collect(tmp_path)
    assert [x.number for x in jobs] == [0, 1, 2, 3, 4, 10]
    assert [x.status for x in jobs] == ["done", "failed", "done", "missing", "done", "done"]
    assert [x.directory for x in jobs] == [tmp_path / str(x.number) for x in jobs]
    assert jobs[2].overrides == ("optimizer=sgd", "seed=2")
    assert jobs[2].metrics == {"val/accuracy": 0.5, "val/loss": None, "test/accuracy": 0.25}
    assert (jobs[1].error, jobs[2].error) == ("OSError: no space", None)
    nothing = dict.fromkeys(METRICS)
    assert jobs[1].metrics == jobs[3].metrics == nothing
    assert jobs[4].metrics == {**nothing, "test/accuracy": 0.75}


def test_where_an_average_is_the_best(tmp_path: Path) -> None:
    """Its metrics are those of the job."""
    best = {"val/accuracy": 0.5, "val_averaged_ema/accuracy": 0.75, "val_averaged_ema/loss": 0.25}
    leave_summary(tmp_path / "0", best, final={"test/accuracy": 0.5, "test_averaged_ema/accuracy": 0.625})
    summary = tmp_path / "0" / "summary.json"
    summary.write_text(summary.read_text().replace('"model"', '"averaged_ema"'))
    [job] = collect(tmp_path)
    assert job.metrics == {"val/accuracy": 0.75, "val/loss": 0.25, "test/accuracy": 0.625}


def test_an_empty_sweep(tmp_path: Path) -> None:
    assert not collect(tmp_path)
    assert not rank([])
    assert not over_seeds([])


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "not text": lambda content: b"\xff\xfe\x00" + content,
    "another kind": lambda content: b"[1, 2]",
    "other names": lambda content: b'{"best": {}, "status": "done"}',
    "nothing inside": lambda content: (
        b'{"best": null, "final": 3, "status": "?", "error": 1, "overrides": 1}'
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_files_count_as_missing(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    for number, names in enumerate((["summary.json"], ["status.json"], ["summary.json", "status.json"])):
        job = tmp_path / str(number)
        write_status(job, ["seed=1"], "done")
        leave_summary(job, {"val/accuracy": 0.5, "test/accuracy": 0.5})
        for name in names:
            (job / name).write_bytes(damage((job / name).read_bytes()))
    without_summary, without_status, without_both = collect(tmp_path)
    assert (without_summary.status, without_summary.overrides) == ("missing", ("seed=1",))
    assert "summary.json" in str(without_summary.error)
    assert without_summary.metrics == without_both.metrics == dict.fromkeys(METRICS)
    assert (without_status.status, without_status.overrides) == ("done", ())
    assert without_status.metrics["val/accuracy"] == 0.5
    assert (without_both.status, without_both.error, without_both.overrides) == ("missing", None, ())


def better(x: Job, y: Job) -> bool:
    """The reference for two jobs: whether the first comes before the second."""
    for name, sign in (("val/accuracy", 1), ("val/loss", -1)):
        left, right = x.metrics[name], y.metrics[name]
        if (left is None) != (right is None):
            return right is None
        if left is not None and right is not None and left != right:
            return sign * left > sign * right
    if x.metrics["val/accuracy"] is None and x.metrics["test/accuracy"] != y.metrics["test/accuracy"]:
        left, right = x.metrics["test/accuracy"], y.metrics["test/accuracy"]
        return right is None or (left is not None and left > right)
    return x.number < y.number


def test_rank(jobs: list[Job], seed: int) -> None:
    ranked = rank(random.Random(seed).sample(jobs, len(jobs)))
    assert sorted(x.number for x in ranked) == [x.number for x in jobs]
    for place, job in enumerate(ranked):
        assert all(better(job, worse) for worse in ranked[place + 1 :])
    without = [x.number for x in ranked if x.metrics["test/accuracy"] is None]
    assert without == sorted(without)
    assert without == [x.number for x in ranked[len(ranked) - len(without) :]]


def spread_of(values: Sequence[float]) -> tuple[float, float | None]:
    """The reference for mean and sample standard deviation, from their definitions."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, sqrt(sum((x - mean) ** 2 for x in values) / (len(values) - 1))


def test_over_seeds(seed: int) -> None:
    found = 0
    for index in range(20):
        jobs = random_jobs(seed + index)
        keys = list(dict.fromkeys((x.overrides[0], x.overrides[2]) for x in jobs))
        members = [[x for x in jobs if (x.overrides[0], x.overrides[2]) == key] for key in keys]
        done = [[x for x in group if x.status == "done"] for group in members]
        groups = over_seeds(jobs)
        if max(map(len, done)) < 2:
            assert not groups
            continue
        found += 1
        assert [x.overrides for x in groups] == keys
        assert [x.jobs for x in groups] == [tuple(x.number for x in group) for group in members]
        assert [x.done for x in groups] == list(map(len, done))
        for group, counted in zip(groups, done, strict=True):
            for name in ACCURACIES:
                values = [x for job in counted if (x := job.metrics[name]) is not None]
                spread = group.accuracies[name]
                assert (spread is None) == (not values)
                if spread is not None:
                    mean, std = spread_of(values)
                    assert isclose(spread.mean, mean, abs_tol=1e-12)
                    assert (spread.std is None) == (std is None)
                    assert isclose(spread.std or 0, std or 0, abs_tol=1e-12)
    assert found


def test_a_sweep_without_seeds_has_no_groups() -> None:
    metrics: dict[str, float | None] = {"val/accuracy": 1, "val/loss": 1, "test/accuracy": 1}
    jobs = [Job(x, Path(), ("dataset.seed=1",), "done", None, metrics) for x in range(3)]
    assert over_seeds(jobs) == []


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("seed=1", "seed"),
        ("+seed=1", "seed"),
        ("++seed=1", "seed"),
        ("dataset.seed=1", "dataset.seed"),
        ("a='b=c'", "a"),
        ("~a", "~a"),
    ],
)
def test_keys(override: str, key: str) -> None:
    assert key_of(override) == key


def test_folders_with_other_names(tmp_path: Path) -> None:
    for name in ("b/lr=1", "a", "b/lr=0"):
        write_status(tmp_path / name, [f"name={name}"], "failed", "why")
    (tmp_path / "no job").mkdir()
    jobs = collect(tmp_path)
    assert [(x.number, str(x.directory.relative_to(tmp_path))) for x in jobs] == [
        (0, "a"),
        (1, "b/lr=0"),
        (2, "b/lr=1"),
    ]
