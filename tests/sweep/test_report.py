"""What a sweep shows, wide and narrow, in a terminal and to a file, and what it writes."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from io import StringIO
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from rich.console import Console

from optim_cli.sweep.report import report
from optim_cli.sweep.status import write_status
from tests.experiments import ENVIRONMENT, ROOT

COMMON = ["model=mlp", "trainer.max_steps=5"]
VARIED = {
    "recipe": ["digits/adamw_onecycle", "digits/sgd_cosine"],
    "model.hidden": ["[256,128]", "[bold]"],
    "scheduler.cycle_momentum": ["true", "false"],
    "+trainer.evaluate_every": ["1", "123456789"],
    "seed": ["0", "1"],
}
FAILED, KILLED = 3, 5


def summary_of(metrics: dict[str, float]) -> dict[str, Any]:
    return {"best": metrics, "best_weights": "model", "final": metrics}


@pytest.fixture
def sweep(tmp_path: Path, seed: int) -> Path:
    """Thirty-two jobs; one failed, one was killed before it could tell anything."""
    draw = random.Random(seed)
    for number, values in enumerate(product(*VARIED.values())):
        overrides = [*COMMON, *(f"{key}={value}" for key, value in zip(VARIED, values, strict=True))]
        job = tmp_path / str(number)
        job.mkdir()
        if number == FAILED:
            write_status(job, overrides, "failed", "ValueError: it [red]broke[/red]\nfor good")
        elif number != KILLED:
            write_status(job, overrides, "done")
            metrics = {x: draw.random() for x in ("val/accuracy", "val/loss", "test/accuracy")}
            (job / "summary.json").write_text(json.dumps(summary_of(metrics)))
    return tmp_path


def shown(sweep: Path, width: int = 80, terminal: bool = False) -> list[str]:
    """The lines that a console of a width gets, without its colours."""
    output = StringIO()
    console = Console(file=output, width=width, force_terminal=terminal, _environ={"TERM": "xterm"})
    assert not report(sweep, console)
    text = output.getvalue()
    assert ("\x1b" in text) == terminal
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


def written(sweep: Path) -> Any:
    return json.loads((sweep / "results.json").read_text(encoding="utf-8"))


def numbers_of(sweep: Path) -> set[str]:
    """All accuracies, as they are shown."""
    files = sweep.glob("*/summary.json")
    best = [json.loads(x.read_text())["best"] for x in files]
    return {f"{x[name]:.4f}" for x in best for name in ("val/accuracy", "test/accuracy")}


def test_plain(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sweep.parent)
    lines = shown(sweep)
    assert lines[:2] == ["32 jobs: 30 done, 1 failed, 1 missing", "in all jobs: " + " ".join(COMMON)]
    heading = ["rank", "job", *(x.lstrip("+") for x in VARIED), "val/accuracy", "test/accuracy", "status"]
    assert lines[2].split() == heading
    rows = [x.split() for x in lines[3:35]]
    places = {int(x[1]): (x[0], x[2:-3], x[-3:]) for x in rows}
    for number, values in enumerate(product(*VARIED.values())):
        if number not in (FAILED, KILLED):
            best = json.loads((sweep / str(number) / "summary.json").read_text())["best"]
            accuracies = [f"{best[name]:.4f}" for name in ("val/accuracy", "test/accuracy")]
            assert places[number][1:] == (list(values), [*accuracies, "done"])
    assert [x[0] for x in rows] == [*map(str, range(1, 31)), "-", "-"]
    assert [x[-3] for x in rows[:30]] == sorted((x[-3] for x in rows[:30]), reverse=True)
    assert [(x[1], x[-3:]) for x in rows[30:]] == [
        ("3", ["-", "-", "failed"]),
        ("5", ["-", "-", "missing"]),
    ]
    assert lines[-3:] == [
        f"job 3 ({sweep.name}/3) failed: ValueError: it [red]broke[/red]; for good",
        f"job 5 ({sweep.name}/5) missing",
        f"results in {sweep.name}/results.json",
    ]


def test_seeds(sweep: Path) -> None:
    lines = shown(sweep)
    [start] = (x for x, line in enumerate(lines) if line.startswith("over seeds"))
    assert "seed" not in lines[start + 1]
    rows = {tuple(x[1:5]): x for x in map(str.split, lines[start + 2 : start + 18])}
    assert [x[0] for x in rows.values()] == [str(x) for x in range(1, 17)]
    assert [x[5] for x in rows.values()] == sorted((x[5] for x in rows.values()), reverse=True)
    for index, values in enumerate(product(*list(VARIED.values())[:-1])):
        row, spreads = rows[values], []
        numbers = {2 * index, 2 * index + 1} - {FAILED, KILLED}
        best = [json.loads((sweep / str(x) / "summary.json").read_text())["best"] for x in numbers]
        for name in ("val/accuracy", "test/accuracy"):
            each = [x[name] for x in best]
            spreads += [f"{mean(each):.4f}", *(["±", f"{stdev(each):.4f}"] if len(each) > 1 else [])]
        # The killed job did not tell that it was one of its group.
        members = {2 * index, 2 * index + 1} - {KILLED}
        assert row[5:] == [*spreads, f"{len(best)}/{len(members)}"]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_nothing_is_cut_off_in_a_terminal(sweep: Path, width: int) -> None:
    lines = shown(sweep, width, terminal=True)
    tables = [x for x in lines if not x.startswith(("job ", "results in "))]
    assert max(map(len, tables)) <= width
    text = "\n".join(tables)
    assert "…" not in text
    for number in numbers_of(sweep):
        assert number in text
    stacked = [f"{key.lstrip('+')}={value}" for key, values in VARIED.items() for value in values]
    if width < 200:
        for override in stacked:
            assert override in text
    else:
        assert not [x for x in stacked if x in text]
        assert "scheduler.cycle_momentum " in text


def test_results_file(sweep: Path) -> None:
    shown(sweep)
    results = written(sweep)
    assert results.keys() == {"jobs", "seeds"}
    assert sorted(x["job"] for x in results["jobs"]) == list(range(32))
    assert all(x["folder"] == str(x["job"]) for x in results["jobs"])
    order = [x["metrics"]["val/accuracy"] for x in results["jobs"][:-2]]
    assert order == sorted(order, reverse=True)
    failed, killed = results["jobs"][-2:]
    nothing = {"val/accuracy": None, "val/loss": None, "test/accuracy": None}
    assert failed.pop("overrides")[:2] == COMMON
    assert failed == {
        **{"job": FAILED, "folder": str(FAILED), "status": "failed", "metrics": nothing},
        "error": "ValueError: it [red]broke[/red]; for good",
    }
    assert (killed["status"], killed["error"], killed["overrides"]) == ("missing", None, [])
    assert len(results["seeds"]) == 16
    assert sum(x["done"] for x in results["seeds"]) == 30
    assert sum(x["not_done"] for x in results["seeds"]) == 1
    for group in results["seeds"]:
        assert (group["accuracies"]["val/accuracy"]["std"] is None) == (group["done"] == 1)


def test_all_done(tmp_path: Path) -> None:
    for number in range(2):
        job = tmp_path / str(number)
        write_status(job, [f"seed={number}"], "done")
        values = {"val/accuracy": 0.5, "test/accuracy": number / 2}
        (job / "summary.json").write_text(json.dumps(summary_of(values)))
    (tmp_path / "results.json").write_text("of an earlier report")
    output = StringIO()
    assert report(tmp_path, Console(file=output, width=80))
    lines = output.getvalue().splitlines()
    assert lines[0] == "2 jobs: 2 done"
    # Without other overrides, nothing but the seeds differs.
    assert lines[-2].split() == ["1", "0.5000", "±", "0.0000", "0.2500", "±", "0.3536", "2/2"]
    assert [x["job"] for x in written(tmp_path)["jobs"]] == [0, 1]


def test_a_folder_that_cannot_be_written_is_said(sweep: Path) -> None:
    (sweep / "results.json").mkdir()
    with pytest.raises(IsADirectoryError):
        shown(sweep)
    assert not list(sweep.glob(".*"))


def test_starts_without_torch() -> None:
    program = "import optim_cli.sweep.report, optim_cli.sweep.status, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=ENVIRONMENT, cwd=ROOT
    )
    assert done.stdout == "False\n"
