"""Attacks on the command itself, and mistakes planted in all places at once: nothing is run, nothing is left.

`evil` is a module in the current folder, where Python finds it, that leaves a file when it is imported
or called.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from tests.command_lines import experiment, own_main, write
from tests.experiments import ENVIRONMENT, ROOT, without_trace

PATIENCE = 120  # seconds that a loaded machine may take
# Several commands in one process, each with its code, what it said, and whether the canary sang.
COMMANDS = """
import contextlib, io, json, os, sys
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
    ended.append((code, out.getvalue(), err.getvalue(), os.path.exists("canary") or "evil" in sys.modules))
print(json.dumps(ended))
"""
EVIL = "open('canary', 'a').close()\ndef call(*arguments, **options): open('canary', 'a').close()\n"
TOUCH = "{_target_: torch.utils.collect_env.run, command: touch canary}"
LOGGED = "{version: 1, root: {}, handlers: {h: {(): evil.call}}}"
FILES = {
    "evil.py": EVIL,
    "own/recipe/callbacks.yaml": f"hydra: {{callbacks: {{a: {TOUCH}}}}}\n",
    "own/recipe/launcher.yaml": "defaults: [{override /hydra/launcher: evil}]\n",
    "own/hydra/launcher/evil.yaml": "_target_: evil.call\n",
    "own/recipe/logging.yaml": f"hydra: {{hydra_logging: {LOGGED}, job_logging: {LOGGED}}}\n",
    "own/recipe/search.yaml": "hydra: {searchpath: ['pkg://evil']}\n",
    "own/recipe/plugins.yaml": "plugins: [evil]\nmodel: {_target_: evil.call}\n",
    "own/recipe/path.yaml": "defaults: [/../outside]\n",
    "own/recipe/yaml.yaml": "seed: !!python/object/apply:os.system [touch canary]\n",
    "own/recipe/environment.yaml": "device: ${oc.env:HOME}\n",
    "outside.yaml": f"# @package hydra.callbacks\na: {TOUCH}\n",
    "own/model/package.yaml": f"# @package hydra.callbacks\na: {TOUCH}\n",
    "own/model/module.yaml": "_target_: evil.call\n",
    "own/model/run.yaml": "_target_: torch.utils.collect_env.run\ncommand: touch canary\n",
    "own/model/system.yaml": "_target_: os.system\ncommand: touch canary\n",
    "own/model/nested.yaml": f"_target_: torch.nn.Sequential\nargs: [{TOUCH}]\n",
    "own/hydra/job_logging/evil.yaml": f"{LOGGED}\n",
    "own/hydra/hydra_logging/evil.yaml": f"{LOGGED}\n",
    "own/config.yaml": "plugins: [evil]\nmodel: {_target_: evil.call}\n",
}
OWN = ["--config-dir", "own"]
# Command line -> what is said.
ATTACKS: list[tuple[list[str], str]] = [
    *(([*OWN, f"recipe={x}"], "hydra: only the command line") for x in ("callbacks", "logging", "search")),
    ([*OWN, "recipe=launcher"], "hydra/launcher: only the command line"),
    ([*OWN, "recipe=launcher", "-m", "seed=1,2"], "hydra/launcher: only the command line"),
    ([*OWN, "recipe=plugins"], "plugins: only the command line"),
    ([*OWN, "recipe=path"], "leaves the folder of its group"),
    ([*OWN, "recipe=yaml"], "no YAML"),
    ([*OWN, "recipe=environment"], "resolvers allowed in it"),
    ([*OWN, "recipe=environment", "--cfg", "job"], "resolvers allowed in it"),
    ([*OWN, "recipe=callbacks", "--cfg", "job"], "hydra: only the command line"),
    ([*OWN, "recipe=callbacks", "-m", "seed=1,2"], "hydra: only the command line"),
    ([*OWN, "-m", "recipe=callbacks,logging"], "hydra: only the command line"),
    *(([*OWN, "recipe=logging", x], "hydra: only the command line") for x in ("--help", "--info")),
    ([*OWN, "recipe=logging", "--hydra-help"], "hydra: only the command line"),
    ([*OWN, "hydra/hydra_logging=evil", "--help"], "'evil.call' may not be called"),
    ([*OWN, "recipe=../../outside"], "is no choice"),
    ([*OWN, "model=package"], "hydra: only the command line"),
    ([*OWN, "model=module"], "'evil.call' may not be called"),
    ([*OWN, "model=run"], "makes nothing that is allowed here"),
    ([*OWN, "model=system"], "'os.system' may not be called"),
    ([*OWN, "model=nested"], "model.args: unknown key"),
    ([*OWN, "hydra/job_logging=evil"], "'evil.call' may not be called"),
    ([*OWN, "hydra/launcher=evil", "-m", "seed=1,2"], "'evil.call' may not be called"),
    (["hydra.sweeper._target_=evil.call", "-m", "seed=1,2"], "'evil.call' may not be called"),
    ([f"+hydra.callbacks={{a: {TOUCH}}}"], "may not be called"),
    (["+hydra.callbacks={a: {_target_: hydra.utils.call, x: 1}}"], "may not be called"),
    ([f"++optimizer.lr={TOUCH}"], "optimizer.lr._target_: "),
    ([f"++dataset.augmentation={TOUCH}"], "dataset.augmentation._target_: "),
    (["model._target_=evil.call"], "'evil.call' may not be called"),
    (["--config-path", "main", "recipe=device"], "plugins: may not refer to other keys"),
    (["--config-path", "main", "recipe=callback"], "hydra.callbacks.a"),
    (["rerun=run"], "'evil.call' may not be called"),
    (["resume=run"], "'evil.call' may not be called"),
    (["rerun=tag"], "no YAML"),
    (["--experimental-rerun", "pickle"], "use rerun=DIR"),
]


@dataclass
class Ended:
    code: int
    output: str
    errors: str
    sang: bool


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Ended]]:
    """All of ATTACKS, in one folder."""
    where = write(tmp_path_factory.mktemp("attacked"), FILES)
    main = own_main(where / "main")
    values = yaml.safe_load((main / "config.yaml").read_text())
    values["plugins"] = ["${device}"]
    values["hydra"]["callbacks"] = {"a": "${trainer.a}"}
    write(main, {"config.yaml": yaml.safe_dump(values, sort_keys=False)})
    write(main, {"recipe/device.yaml": "device: evil\nmodel: {_target_: evil.call}\n"})
    write(main, {"recipe/callback.yaml": "trainer: {a: {_target_: evil.call}}\n"})
    job = experiment().job([])
    assert job.values is not None
    hostile = {**job.values, "plugins": ["evil"], "model": {"_target_": "evil.call"}}
    write(where, {"run/config.yaml": yaml.safe_dump({**hostile, "hydra": {"callbacks": {"a": TOUCH}}})})
    write(where, {"tag/config.yaml": FILES["own/recipe/yaml.yaml"], "pickle/config.pickle": b"cos\nsystem\n"})
    done = run_python(where, "-c", COMMANDS, json.dumps([x for x, _ in ATTACKS]))
    assert done.returncode == 0, done.stderr
    return where, [Ended(*x) for x in json.loads(done.stdout.splitlines()[-1])]


def run_python(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=where,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT), "HOME": str(where)},
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("index", range(len(ATTACKS)), ids=[" ".join(x)[:70] for x, _ in ATTACKS])
def test_attacks(attacked: tuple[Path, list[Ended]], index: int) -> None:
    ended, (_, says) = attacked[1][index], ATTACKS[index]
    assert not ended.sang
    assert ended.code == 2, ended
    assert says in ended.errors
    assert without_trace(ended.errors + ended.output)


def test_attacks_leave_nothing(attacked: tuple[Path, list[Ended]]) -> None:
    left = {x.name for x in attacked[0].iterdir()} - {"__pycache__"}
    assert left == {"own", "main", "run", "tag", "pickle", "evil.py", "outside.yaml"}


RECIPE = """# Mistakes of every kind.
defaults:
  - override /model: mine
  - override /scheduler: onecylce

trainer:
  epochs: 0
  epoch: 3
dataset:
  batch_size: many
"""
CHOICE = """_target_: optim_cli.models.mlp.MLP
hidden: [16, -1]
activation: relo
dropout: 0.0
"""


def test_mistakes_in_all_places(tmp_path: Path) -> None:
    """In a user's YAML, in a recipe and on the command line: each with its place, and nothing is written."""
    write(tmp_path, {"own/recipe/mine.yaml": RECIPE, "own/model/mine.yaml": CHOICE})
    before = sorted(tmp_path.rglob("*"))
    overrides = ["recipe=mine", "optimizer.lrr=1", "seed=-1", "device=gpu"]
    done = run_python(tmp_path, "-m", "optim_cli", "--config-dir", "own", *overrides)
    assert done.returncode == 2
    assert done.stdout == ""
    assert without_trace(done.stderr)
    first, *lines = [x.removeprefix("optim-run: ") for x in done.stderr.splitlines()]
    assert first == "9 mistakes, so nothing was started"
    assert {x.partition(": ")[0]: x.rpartition(" [")[2] for x in lines} == {
        "scheduler": "own/recipe/mine.yaml:4]",
        "optimizer.lrr": "command line: optimizer.lrr=1]",
        "seed": "command line: seed=-1]",
        "device": "command line: device=gpu]",
        "model.hidden[1]": "own/model/mine.yaml:2]",
        "model.activation": "own/model/mine.yaml:3]",
        "dataset.batch_size": "own/recipe/mine.yaml:10]",
        "trainer.epoch": "own/recipe/mine.yaml:8]",
        "trainer.epochs": "own/recipe/mine.yaml:7]",
    }
    for part in (
        "did you mean onecycle?",
        "did you mean optimizer.lr?",
        "allowed: an integer greater than or",
    ):
        assert part in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


PLUGIN = """
import torch

class Model(torch.nn.Linear):
    def __init__(self, *, broken: bool, num_classes: int) -> None:
        super().__init__(64, num_classes)
        if broken:
            self.share(0)

    def share(self, parts: int) -> None:
        self.part = 1 / parts

    def forward(self, images):
        return super().forward(images.flatten(1))
"""


def test_plugins(tmp_path: Path) -> None:
    """A user's module in the current folder: it runs, and its failure shows its own lines."""
    write(tmp_path, {"mine.py": PLUGIN, "own/model/mine.yaml": "_target_: mine.Model\nbroken: false\n"})
    command = ["--config-dir", "own", "model=mine", "trainer.max_steps=2", "plugins=[mine]"]
    commands = [
        [*command, "hydra.run.dir=right"],
        [*command, "hydra.run.dir=broken", "model.broken=true"],
        command[:-1],
    ]
    done = run_python(tmp_path, "-c", COMMANDS, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    right, broken, without = [Ended(*x) for x in json.loads(done.stdout.splitlines()[-1])]
    assert (right.code, right.errors) == (0, "")
    saved = yaml.safe_load((tmp_path / "right" / "config.yaml").read_text())
    assert saved["model"] == {"_target_": "mine.Model", "broken": False}
    state = torch.load(tmp_path / "right" / "checkpoints" / "best.pt", weights_only=True)
    assert state
    assert broken.code == 1
    assert "ZeroDivisionError: division by zero" in broken.errors
    assert f'File "{os.path.join(tmp_path, "mine.py")}", line 11, in share' in broken.errors
    assert "optim_cli" not in broken.errors
    assert without.code == 2
    assert "plugins=[mine] on the command line allows a package" in without.errors
