"""The command itself, as processes of their own: exit codes, folders, signals, what is shown.

A process costs seconds, so each one is looked at from many sides.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from optim_cli.config.search_path import run_id
from tests.experiments import ENVIRONMENT, ROOT, without_trace

PATIENCE = 120  # seconds that a loaded machine may take
FOLDER = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{8}"
ENDLESS = ("trainer.epochs=1000000", "trainer.measure_every=1", "trainer.evaluate_every=5")


def start(where: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command in a folder, from the sources here."""
    process: subprocess.Popen[str] = subprocess.Popen(
        [sys.executable, "-m", "optim_cli", *arguments],
        cwd=where,
        text=True,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"},
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options),
    )
    return process


@dataclass
class Ended:
    code: int
    output: str
    errors: str


def end_of(process: subprocess.Popen[str]) -> Ended:
    with process:
        output, errors = process.communicate(timeout=PATIENCE)
    return Ended(process.returncode, output, errors)


@dataclass
class Pair:
    default: Ended
    short: Ended
    where: Path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The default experiment, and at the same moment one of a single step, in an empty folder."""
    where = tmp_path_factory.mktemp("empty")
    processes = start(where), start(where, "trainer.max_steps=1")
    default, short = map(end_of, processes)
    return Pair(default, short, where)


def test_default_experiment(pair: Pair) -> None:
    assert (pair.default.code, pair.default.errors) == (0, "")
    [directory] = (x for x in folders_of(pair.where) if summary_of(x)["steps"] > 1)
    summary = summary_of(directory)
    assert summary["final"]["test/accuracy"] >= 0.95
    assert summary["best"]["test/accuracy"] >= 0.95
    assert (summary["epochs"], summary["steps"]) == (20, 420)
    assert f"results in {directory.relative_to(pair.where)}\n" in pair.default.output
    assert "choices: {" in (directory / "run.log").read_text(encoding="utf-8")
    environment = json.loads((directory / "environment.json").read_text(encoding="utf-8"))
    assert environment["directory"] == str(pair.where)
    assert environment["git"] is None or re.fullmatch("[0-9a-f]{40}", environment["git"]["commit"])


def test_two_at_the_same_moment(pair: Pair) -> None:
    assert (pair.short.code, pair.short.errors) == (0, "")
    folders = folders_of(pair.where)
    assert len(folders) == 2
    for folder in folders:
        assert re.fullmatch(f"outputs/mlp-digits-adamw/{FOLDER}", folder.relative_to(pair.where).as_posix())
        assert {x.name for x in folder.iterdir()} == {
            *("config.yaml", "environment.json", "metrics.jsonl", "summary.json", "curves.png"),
            *("run.log", "checkpoints"),
        }
    assert sorted(summary_of(x)["steps"] for x in folders) == [1, 420]
    # Nothing else is written anywhere below.
    assert [x.name for x in pair.where.iterdir()] == ["outputs"]


def test_output_to_a_file_is_plain_lines(pair: Pair) -> None:
    output = pair.default.output
    assert "\x1b" not in output
    assert "\r" not in output
    lines = output.splitlines()
    evaluations = [x for x in lines if re.match(r"epoch \d+/20 step \d+/420 train/loss ", x)]
    assert len(evaluations) == 20
    assert len(lines) == 6 + 20 + 3


def test_ids_are_unique() -> None:
    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(lambda _: run_id(), range(5000)))
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(FOLDER, x) for x in ids)


def folders_of(where: Path) -> list[Path]:
    return [x.parent for x in where.rglob("config.yaml")]


def summary_of(directory: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    return values


# Several commands in one process, each with its code and what it said.
COMMANDS = """
import contextlib, io, json, sys
from optim_cli.cli import main
ended = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["optim-run", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code
    ended.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(ended))
"""
# Arguments -> what is said.
WRONG: list[tuple[list[str], list[str]]] = [
    (["optimizer.lrr=1"], ["optimizer.lrr"]),
    (["optimzer=adam"], ["optimzer"]),
    (["optimizer=adamm"], ["adamm", "adamw", "sgd"]),
    (["recipe=digits/none"], ["digits/none"]),
    (["optimizer.lr=="], ["optimizer.lr=="]),
    (["+1=2"], ["+1=2"]),
    (["scheduler=null"], ["scheduler: null is no choice", "choices: constant, cosine, cyclic"]),
    (["optimizer.lr=${nope}"], ["nope"]),
    (["hydra.run.dir=/dev/null/x"], ["/dev/null/x"]),
    (
        ["optimizer.lr=-1", "+model.hiden=[3]", "trainer.epochs=many", "device=tpu", "dataset.batch_size=0"],
        [
            "optimizer.lr: -1 is not allowed",
            "model.hiden: unknown key; did you mean model.hidden?",
            "trainer.epochs: 'many' is not allowed",
            "device: 'tpu' is not allowed",
            "dataset.batch_size: 0 is not allowed",
        ],
    ),
    (["dataset=mnist", "dataset.root=nowhere"], ["nowhere", "dataset.root"]),
    (["optimizer=sgd", "optimizer.momentum=0"], ["Nesterov momentum requires", "momentum=0"]),
    (["hydra.run.dir=used"], ["hydra.run.dir: 'used': holds another run's results"]),
    (
        ["seed=1", "--groups", "--cfg", "job"],
        ["--groups and --cfg: each shows something and ends"],
    ),
    (["--schedule", "--info", "defaults"], ["--schedule and --info: each shows something"]),
    (["-m", "optimizer.lr=-1,-2"], ["optimizer.lr: -1 is not allowed"]),
]
FAILING = ["hydra.run.dir=failing"]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Ended]]:
    """All of WRONG, then FAILING, in a folder where `used` holds results and `failing` an obstacle."""
    where = tmp_path_factory.mktemp("wrong")
    (where / "used").mkdir()
    (where / "used" / "config.yaml").write_text("seed: 5\n")
    (where / "failing").mkdir()
    (where / "failing" / "checkpoints").write_text("not a folder")
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps([*(x for x, _ in WRONG), FAILING])],
        capture_output=True,
        text=True,
        cwd=where,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return where, [Ended(*x) for x in json.loads(done.stdout.splitlines()[-1])]


@pytest.mark.parametrize("index", range(len(WRONG)), ids=[" ".join(x) for x, _ in WRONG])
def test_wrong_configs(commands: tuple[Path, list[Ended]], index: int) -> None:
    ended, (_, says) = commands[1][index], WRONG[index]
    assert ended.code == 2, ended
    assert ended.errors.startswith("optim-run: ")
    assert without_trace(ended.errors + ended.output)
    for part in says:
        assert part in ended.errors


def test_used_folder_is_left_alone(commands: tuple[Path, list[Ended]]) -> None:
    used = commands[0] / "used"
    assert (used / "config.yaml").read_text() == "seed: 5\n"
    assert not (used / "metrics.jsonl").exists()


def test_failed_run(commands: tuple[Path, list[Ended]]) -> None:
    ended = commands[1][-1]
    assert ended.code == 1, ended
    lines = ended.errors.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("optim-run: the run failed: FileExistsError: ")
    assert lines[1].endswith(os.path.join("failing", "run.log"))
    assert without_trace(ended.errors + ended.output)
    log = (commands[0] / "failing" / "run.log").read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in log
    assert "FileExistsError" in log


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a pseudo-terminal."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)


def read_until(fd: int, pattern: str) -> str:
    """What a terminal shows until a pattern is in it, or until it is closed."""
    text, limit = "", time.monotonic() + PATIENCE
    while time.monotonic() < limit and not re.search(pattern, text):
        try:
            text += os.read(fd, 65536).decode(errors="replace")
        except OSError:  # the other end is closed
            break
    return text


def test_interrupts(tmp_path: Path, terminal: tuple[int, int]) -> None:
    """SIGTERM with output to a pipe, SIGINT with the live display of a terminal."""
    ours, theirs = terminal
    terminated = start(tmp_path, *ENDLESS, "hydra.run.dir=terminated")
    interrupted = start(
        tmp_path, *ENDLESS, "hydra.run.dir=interrupted", stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        shown = read_until(ours, r"samples/s[\s\S]*val/accuracy[\s\S]*samples/s")
        interrupted.send_signal(signal.SIGINT)
        shown += read_until(ours, r"optim-run: \w+\s*$")
        interrupted.wait(PATIENCE)
        wait_for(tmp_path / "terminated" / "checkpoints" / "best.pt")
        terminated.send_signal(signal.SIGTERM)
        ended = end_of(terminated)
    finally:
        for process in (terminated, interrupted):
            if process.poll() is None:
                process.kill()
                process.communicate()

    assert ended.code == 143
    assert without_trace(ended.output + ended.errors)
    assert interrupted.returncode == 130, shown[-3000:]
    assert "optim-run: interrupted" in shown
    assert without_trace(shown)
    assert re.search(r"epoch\s+5\b.*val/accuracy", shown), "no line above the bar"
    assert "\x1b[?25l" in shown, "no live display"
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h"), "the cursor stays hidden"
    for name in ("terminated", "interrupted"):
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(x)["step"] for x in lines[:3]] == [1, 2, 3]
        assert not (tmp_path / name / "summary.json").exists()
        assert not list((tmp_path / name / "checkpoints").glob(".*")), "a partial file is left"


def wait_for(path: Path) -> None:
    limit = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < limit, f"{path} never came"
        time.sleep(0.05)


def test_a_yaml_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "more" / "optimizer").mkdir(parents=True)
    (tmp_path / "more" / "optimizer" / "mine.yaml").write_text("lr: [unclosed\n", encoding="utf-8")
    ended = end_of(start(tmp_path, "--config-dir", "more", "optimizer=mine"))
    assert ended.code == 2
    assert "mine.yaml" in ended.errors
    assert without_trace(ended.errors + ended.output)
    assert not list(tmp_path.glob("outputs/*/*"))


def test_a_refused_config_leaves_no_folder(tmp_path: Path) -> None:
    ended = end_of(start(tmp_path, "optimizer.lr=-1", "+modle=mlp"))
    assert ended.code == 2
    assert "did you mean model?" in ended.errors
    assert not list(tmp_path.glob("outputs/*"))
