"""`optim-run --schedule`: a drawing, a table, a picture, and no run."""

from __future__ import annotations

import re
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from optim_cli.config.experiment import Experiment
from optim_cli.config.search_path import register, search_path
from optim_cli.paths import folder
from optim_cli.preview.command import draw
from tests.experiments import SMALL, without_trace
from tests.test_ways_in import executed

PYTHON = (sys.executable, "-m", "optim_cli")
MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


def told(
    *overrides: str, picture: str = "", several: bool = False, terminal: bool = False
) -> tuple[str, list[str]]:
    """What is shown, and the mistakes."""
    register()
    main = folder("configs").resolve()
    experiment = Experiment(search_path(main, None), "config", [*SMALL, *overrides], several)
    output = StringIO()
    console = Console(file=output, width=100, force_terminal=terminal)
    mistakes = draw(experiment, picture, console)
    return output.getvalue(), [str(x) for x in mistakes]


def test_every_hyperparameter_is_drawn_and_summed_up() -> None:
    shown, mistakes = told("scheduler=onecycle", "optimizer.lr=0.02")
    assert not mistakes
    assert shown.count("(lr) ") == shown.count("(betas.0)") == 1
    assert re.search(r"[\u2801-\u28ff]{10}", shown), "a line of dots"
    [lr] = [line for line in shown.splitlines() if re.match(r"│ lr ", line)]
    assert "group 0" in lr
    assert "0.01999 at 12" in lr
    assert max(map(len, shown.splitlines())) <= 100
    assert "\x1b" not in shown
    assert "\x1b" in told("scheduler=onecycle", terminal=True)[0]


@pytest.mark.parametrize("suffix", MAGIC)
def test_pictures(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"schedule{suffix}"
    shown, mistakes = told("scheduler=warmup_cosine", picture=str(path))
    assert not mistakes
    assert f"picture in {path}" in shown
    assert path.read_bytes().startswith(MAGIC[suffix])
    assert [x.name for x in tmp_path.iterdir()] == [path.name]
    before = path.read_bytes()
    shown, mistakes = told("scheduler=cosine", picture=str(path))
    assert not shown
    assert mistakes == [f"--schedule: {str(path)!r}: is there already; name another file"]
    assert path.read_bytes() == before


def test_mistakes_are_told_together(tmp_path: Path) -> None:
    picture = str(tmp_path / "none" / "a.png")
    shown, mistakes = told("scheduler=wsd", "scheduler.decai=cos", "optimizer.lr=-1", picture=picture)
    assert not shown
    assert [x.partition(":")[0] for x in mistakes] == ["scheduler.decai", "optimizer.lr", "--schedule"]
    assert "there is no folder" in mistakes[-1]
    assert told(picture="a.gif")[1] == [
        "--schedule: 'a.gif': is no picture; the name ends with .png, .svg, .pdf"
    ]
    assert told("scheduler=none")[1][0].startswith("scheduler: there is none")
    assert told("seed=1,2", several=True)[1] == [
        "--schedule: draws one run; leave out -m and give one value to each key"
    ]


def test_what_cannot_be_known_is_said() -> None:
    assert "follows a metric" in told("scheduler=plateau")[0]
    assert "follows a metric" not in told("scheduler=cosine")[0]


def test_the_command(tmp_path: Path) -> None:
    """As a process: the flag before overrides, between them, with a file; nothing else is left."""
    done = executed([*PYTHON, "--schedule", "lr.png", "scheduler=wsd", "trainer.epochs=2"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "picture in lr.png" in done.stdout
    assert [x.name for x in tmp_path.iterdir()] == ["lr.png"]
    done = executed([*PYTHON, "trainer.epochs=2", "--schedule", "scheduler=wsdd"], tmp_path)
    assert done.returncode == 2
    assert "did you mean wsd?" in done.stderr
    assert without_trace(done.stderr)
    assert [x.name for x in tmp_path.iterdir()] == ["lr.png"]
