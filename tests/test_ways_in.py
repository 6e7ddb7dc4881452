"""What the command tells without running anything: help, configs, completion; none of it waits for torch."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from optim_cli.assemble import resolve
from tests.experiments import ENVIRONMENT, ROOT, config_of

PATIENCE = 120  # seconds that a loaded machine may take
# What takes long to import; sklearn reads the digits.
HEAVY = {"torch", "torchvision", "numpy", "matplotlib", "sklearn", "pydantic", "rich"}
COMMANDS = (
    ["--help"],
    ["--hydra-help"],
    ["--groups", "--schedule", "--help"],
    ["--cfg", "job", "optimizer=sgd"],
    ["--info", "defaults"],
    ["--shell-completion", "install=bash"],
    ["--shell-completion", "query=fish"],
)


def environment(**more: str) -> dict[str, str]:
    return {**ENVIRONMENT, "PYTHONPATH": str(ROOT), **more}


def executed(command: Sequence[str], where: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=where,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    """All of COMMANDS, in an empty folder, with Python's report of what was imported as the errors."""
    where = tmp_path_factory.mktemp("empty")
    python = (sys.executable, "-X", "importtime", "-m", "optim_cli")
    done = {x[0]: executed([*python, *x], where, COMP_LINE="optim-run optimizer=") for x in COMMANDS[:-1]}
    done["query"] = executed([*python, *COMMANDS[-1]], where, COMP_LINE="optim-run optimizer=")
    assert not list(where.iterdir()), "a command that runs nothing leaves nothing"
    return done


def test_nothing_heavy_is_imported(told: dict[str, subprocess.CompletedProcess[str]]) -> None:
    for command, done in told.items():
        assert done.returncode == 0, (command, done.stderr[-2000:])
        modules = re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", done.stderr, flags=re.MULTILINE)
        assert "omegaconf" in modules
        assert not {x.partition(".")[0] for x in modules} & HEAVY, command


def test_help_is_for_people(told: dict[str, subprocess.CompletedProcess[str]]) -> None:
    text = told["--help"].stdout
    assert text.startswith("optim-run ")
    # Hydra lists the choices of a group in one line, however many there are.
    listed = section(text, "groups and their choices")
    assert max(len(x) for x in text.splitlines() if x not in listed) <= 100
    assert set(text) <= {"\n", *map(chr, range(32, 127))}
    for key in ("resume=DIR", "rerun=DIR", "-m", "--cfg job", "--info", "--config-dir DIR", "--hydra-help"):
        assert key in text
    assert "_target_" not in text, "the whole config is for --cfg job"


def test_help_beside_a_preview(told: dict[str, subprocess.CompletedProcess[str]]) -> None:
    assert told["--groups"].stdout == told["--help"].stdout


def test_help_shows_every_choice(told: dict[str, subprocess.CompletedProcess[str]]) -> None:
    lines = [x.split(": ") for x in section(told["--help"].stdout, "groups and their choices")]
    shown = {f"{group}/{choice}" for group, choices in lines for choice in choices.split(", ")}
    files = [x.relative_to(ROOT / "configs") for x in (ROOT / "configs").rglob("*.yaml")]
    there = {x.with_suffix("").as_posix() for x in files if len(x.parts) > 1 and x.parts[0] != "hydra"}
    recipes = {x.relative_to(ROOT / "recipes") for x in (ROOT / "recipes").rglob("*.yaml")}
    assert len(there) > 20
    assert "recipe" in [group for group, _ in lines], "what is typed is recipe=FOLDER/NAME"
    assert recipes
    assert shown == there | {f"recipe/{x.with_suffix('').as_posix()}" for x in recipes}


def section(text: str, heading: str) -> list[str]:
    """The lines of a section of the help."""
    return text.partition(f"\n{heading}:\n")[2].partition("\n\n")[0].splitlines()


def test_examples_in_the_help_are_right(told: dict[str, subprocess.CompletedProcess[str]]) -> None:
    examples = [shlex.split(x) for x in section(told["--help"].stdout, "examples")]
    assert len(examples) == 4
    jobs = 0
    for command, *arguments in examples:
        assert command == "optim-run"
        overrides = OverridesParser.create().parse_overrides([x for x in arguments if x != "-m"])
        [batch] = BasicSweeper.split_arguments(overrides, None)
        assert (len(batch) > 1) == ("-m" in arguments)
        jobs += len(batch)
        for job in batch:
            assert resolve(config_of(*job))
    assert jobs == 1 + 1 + 10 + 1


def test_common_keys_in_the_help_are_right(told: dict[str, subprocess.CompletedProcess[str]]) -> None:
    overrides = [x.split()[0] for x in section(told["--help"].stdout, "common keys")]
    keys = [x.partition("=")[0] for x in overrides]
    assert {"seed", "device", "optimizer.lr", "trainer.epochs", "trainer.max_steps"} < set(keys)
    assert {"dataset.root", "dataset.batch_size"} < set(keys)
    values = resolve(config_of("dataset=mnist", *overrides))
    assert values["optimizer"]["lr"] == 3e-3
    assert values["dataset"]["root"] == "PATH"
    # What is shown as the value is the default, where there is one.
    default = config_of()
    assert (default.seed, default.device, default.optimizer.lr) == (0, "auto", 3e-3)
    assert (default.trainer.epochs, default.dataset.batch_size) == (20, 64)
    assert default.model.hidden == [256, 128]


def test_config_and_defaults(told: dict[str, subprocess.CompletedProcess[str]]) -> None:
    config = told["--cfg"].stdout
    assert config.startswith("seed: 0\n")
    assert "_target_: optim_cli.optim.SGD" in config
    assert "hydra" not in config
    assert "| optimizer/adamw " in told["--info"].stdout


# Lines to complete in one process, each with what is answered.
QUERIES = """
import contextlib, io, json, os, sys
from optim_cli.cli import main
answers = []
for line in json.loads(sys.argv[1]):
    sys.argv = ["optim-run", "-sc", "query=fish"]
    os.environ["COMP_LINE"] = line
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main()
    answers.append(out.getvalue().split())
print(json.dumps(answers))
"""
OPTIMIZERS = sorted(x.stem for x in (ROOT / "configs" / "optimizer").glob("*.yaml"))
CHOICES = [f"optimizer={x}" for x in OPTIMIZERS]
LINES: dict[str, list[str]] = {
    "optim-run optimizer=": CHOICES,
    "optim-run optimizer=ad": [x for x in CHOICES if x.startswith("optimizer=ad")],
    "optim-run -m seed=0,1 optimizer=": CHOICES,
    "optim-run --multirun optimizer=sg": ["optimizer=sgd"],
    "optim-run opt": ["optimizer/", "optimizer=", "optimizer."],
    "optim-run optimizer/": ["optimizer/param_groups="],
    "optim-run optimizer.am": ["optimizer.amsgrad="],
    "optim-run optimizer=sgd optimizer.mo": ["optimizer.momentum="],
    "optim-run optimizer/param_groups=b": ["optimizer/param_groups=backbone_head"],
    "optim-run optimizer/param_groups=muon optimizer.param_groups.matrices.optimizer.mo": [
        "optimizer.param_groups.matrices.optimizer.momentum="
    ],
    "optim-run device=": ["device=auto"],
    "optim-run model.activation=": ["model.activation=relu"],
    "optim-run optimizer=no": [],
    ".venv/bin/optim-run trainer.max": ["trainer.max_steps="],
    "optim-run recipe": ["recipe="],
    "optim-run recipe=digits/s": ["recipe=digits/sgd_cosine"],
    "optim-run --config-dir own optimizer=s": ["optimizer=sgd", "optimizer=slow", "optimizer=sparse_adam"],
    "optim-run -m optimizer=slow --config-dir=own optimizer.l": ["optimizer.lr="],
    "optim-run -cd own recipe=m": ["recipe=mine"],
    "optim-run --config-dir o": ["own/"],
    "optim-run --config-dir ": ["own/"],
    "optim-run optimizer=sgd -m trainer=default optimizer.mo": ["optimizer.momentum="],
    # Lines that are wrong so far.
    "optim-run --config-dir nowhere optimizer=sg": [],
    "optim-run --cfg ": [],
    "optim-run --config-dir own optimizer=broken optimizer.l": [],
}


def test_completion(tmp_path: Path) -> None:
    for place, text in {
        "optimizer/slow": "lr: 1\n",
        "optimizer/broken": "lr: [\n",
        "recipe/mine": "# @package _global_\n",
    }.items():
        path = tmp_path / "own" / f"{place}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = executed([sys.executable, "-c", QUERIES, json.dumps(list(LINES))], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert dict(zip(LINES, json.loads(done.stdout), strict=True)) == LINES


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """A folder with the command as packages install it."""
    path = tmp_path / "bin" / "optim-run"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nfrom optim_cli.cli import main\n\nmain()\n")
    path.chmod(0o755)
    return path.parent


# As bash does when TAB is pressed: the words of the line, which one is meant, then the registered function.
BASH = """
eval "$(optim-run -sc install=bash)"
[[ $(complete -p optim-run) == *"-F hydra_bash_completion optim-run" ]] || exit 3
for COMP_LINE in "$@"; do
    COMP_POINT=${#COMP_LINE} COMP_WORDS=($COMP_LINE) COMPREPLY=()
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    hydra_bash_completion optim-run "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    echo "${COMPREPLY[@]}"
done
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash(tmp_path: Path, command: Path) -> None:
    path = f"{command}{os.pathsep}{os.environ['PATH']}"
    lines = list(LINES)[:5:2]
    done = executed(["bash", "--norc", "-c", BASH, "bash", *lines], tmp_path, PATH=path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [x.split() for x in done.stdout.splitlines()] == [LINES[x] for x in lines]


FISH = """
optim-run -sc install=fish | source
for line in $argv
    complete --do-complete $line | string join ' '
end
"""


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
def test_fish(tmp_path: Path, command: Path) -> None:
    path = f"{command}{os.pathsep}{os.environ['PATH']}"
    lines = list(LINES)[:5:2]
    done = executed(
        ["fish", "--no-config", "-c", FISH, *lines], tmp_path, PATH=path, HOME=str(tmp_path), TERM="dumb"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [x.split() for x in done.stdout.splitlines()] == [LINES[x] for x in lines]
