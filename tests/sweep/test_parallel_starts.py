"""Runs and multiruns that start in the same instant, in the same folder, do not meet."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.experiments import ENVIRONMENT, ROOT

PATIENCE = 240  # seconds that a loaded machine may take
SHORT = ["model=logistic", "trainer.max_steps=1"]
RUNS, MULTIRUNS = 8, 2

# Imports once what every run needs, then forks: imports would spread the starts over a minute. Each child
# waits until the gate is closed, which releases all of them at once; their exit codes are told.
STARTER = """
import gc, json, os, sys
from optim_cli.cli import main
import matplotlib.backends.backend_agg, matplotlib.figure, optim_cli.run, sklearn.datasets
gc.freeze()  # else the children copy all of that memory to look for garbage
gate, close = os.pipe()
children = []
for number, arguments in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if child == 0:
        os.close(close)
        for descriptor in (1, 2):
            os.dup2(os.open(f"output-{number}", os.O_CREAT | os.O_APPEND | os.O_WRONLY), descriptor)
        sys.argv = ["optim-run", *arguments]
        os.read(gate, 1)
        main()
        sys.exit(0)
    children.append(child)
os.close(close)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


@dataclass
class Started:
    where: Path
    codes: list[int]

    def output(self, number: int) -> str:
        return (self.where / f"output-{number}").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Started:
    where = tmp_path_factory.mktemp("together")
    commands = [SHORT] * RUNS + [["-m", "seed=0,1", *SHORT]] * MULTIRUNS
    done = subprocess.run(
        [sys.executable, "-c", STARTER, json.dumps(commands)],
        capture_output=True,
        text=True,
        cwd=where,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Started(where, json.loads(done.stdout.splitlines()[-1]))


def test_runs(started: Started) -> None:
    assert started.codes == [0] * (RUNS + MULTIRUNS), started.output(0)
    told = {started.output(x).splitlines()[-1] for x in range(RUNS)}
    folders = {x.parent for x in started.where.glob("outputs/logistic-*/*/summary.json")}
    assert len(folders) == RUNS
    assert told == {f"results in {x.relative_to(started.where)}" for x in folders}
    seconds = {x.name.rpartition("-")[0] for x in folders}
    assert len(seconds) < RUNS, "they did not start together"
    for folder in folders:
        assert json.loads((folder / "summary.json").read_text())["steps"] == 1
        assert len(list((folder / "checkpoints").glob("step-*.pt"))) == 1
        # Each evaluation once: nobody else has written here.
        assert (folder / "metrics.jsonl").read_text().count('"evaluated"') == 1


def test_multiruns(started: Started) -> None:
    sweeps = list((started.where / "outputs" / "sweeps").iterdir())
    assert len(sweeps) == MULTIRUNS
    for sweep in sweeps:
        jobs = {x.parent.relative_to(sweep).as_posix() for x in sweep.rglob("summary.json")}
        assert jobs == {"0", "1"}
