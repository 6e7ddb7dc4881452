"""What a job leaves about its end is whole at every instant."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest

from optim_cli.sweep.status import Status, write_status
from tests.experiments import ENVIRONMENT, ROOT

FILE = "status.json"


def told(directory: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((directory / FILE).read_text(encoding="utf-8"))
    return values


@pytest.mark.parametrize("status", get_args(Status))
def test_content(tmp_path: Path, status: Status) -> None:
    job = tmp_path / "sweep" / "3"
    overrides = ["optimizer=adamw", "model.hidden=[256,128]", "dataset.root='/da ta/ü'", "seed=0"]
    write_status(job, overrides, status)
    assert told(job) == {"status": status, "error": None, "overrides": overrides}
    assert [x.name for x in job.iterdir()] == [FILE]


def test_the_last_word_counts(tmp_path: Path) -> None:
    write_status(tmp_path, [], "missing")
    write_status(tmp_path, [], "failed", "ValueError: no")
    assert told(tmp_path) == {"status": "failed", "error": "ValueError: no", "overrides": []}
    assert [x.name for x in tmp_path.iterdir()] == [FILE]


def test_an_error_is_one_line(tmp_path: Path) -> None:
    write_status(tmp_path, [], "refused", "optimizer.lr: -1\nseed: 'x'\n")
    assert told(tmp_path)["error"] == "optimizer.lr: -1; seed: 'x'"


def test_a_file_that_cannot_be_written_leaves_the_old(tmp_path: Path) -> None:
    write_status(tmp_path, ["seed=0"], "missing")
    # A surrogate, as Python makes of a command line in another encoding, is no hindrance; a set is.
    write_status(tmp_path, ["seed=\udcff"], "missing")
    with pytest.raises(TypeError):
        write_status(tmp_path, [{1, 2}], "done")  # type: ignore[list-item]
    assert told(tmp_path) == {"status": "missing", "error": None, "overrides": ["seed=\udcff"]}
    assert [x.name for x in tmp_path.iterdir()] == [FILE]


WRITER = """
import sys
from pathlib import Path
from optim_cli.sweep.status import write_status
while True:
    write_status(Path(sys.argv[1]), ["x" * 100_000], "done", "e" * 100_000)
    print("written", flush=True)
"""


def test_a_kill_leaves_a_whole_file(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"written\n"
            time.sleep(draw.uniform(0, 0.02))
            os.kill(writer.pid, signal.SIGKILL)
        assert len(told(tmp_path)["error"]) == 100_000
