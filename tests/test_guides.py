"""The examples of the guides in docs/, performed as they stand there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_lines import told, write
from tests.experiments import ENVIRONMENT, ROOT
from tests.results import lines_of

GUIDES = {
    name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("schedules", "averaging", "param_groups")
}
FILE = r"^`([\w/.]+)`:\n\n```(?:python|yaml)\n(.*?)^```$"
FILES = dict(found for text in GUIDES.values() for found in re.findall(FILE, text, re.M | re.S))
COMMANDS = [
    shlex.split(line)[1:]
    for text in GUIDES.values()
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)
    for line in block.splitlines()
]
# Those of a text are one program.
PYTHON = {
    name: "\n".join(
        re.findall(r"^```python\n(.*?)^```$", re.sub(FILE, "", text, flags=re.M | re.S), re.M | re.S)
    )
    for name, text in GUIDES.items()
}
SHOWN = [shlex.split(x) for text in GUIDES.values() for x in re.findall(r"^    optim-run (.*)$", text, re.M)]
REFUSED = re.search(
    r"^    \$ optim-run (.*)\n    optim-run: 3 mistakes.*\n((?:    .*\n)+)", GUIDES["schedules"], re.M
)

# All in one process: the commands, then the programs.
PROGRAM = """
import json, sys
import torch
torch.set_num_threads(1)
from optim_cli.cli import main
commands, programs = json.loads(sys.argv[1])
sys.path.insert(0, "")
for arguments in commands:
    sys.argv = ["optim-run", *arguments]
    main()
for text in programs:
    exec(text, {})
"""


def short(index: int, command: list[str]) -> list[str]:
    """A command as it is if it trains nothing, else with fewer epochs and a folder that is known."""
    if "--schedule" in command:
        return command
    where = [] if any(x.startswith("hydra.run.dir=") for x in command) else [f"hydra.run.dir=run-{index}"]
    return [*command, "trainer.epochs=3", *where]


def test_examples_are_found() -> None:
    assert [*FILES] == [
        "my_configs/scheduler/three_stages.yaml",
        "my_average.py",
        "my_configs/model/deep_mlp.yaml",
        "my_configs/recipe/three.yaml",
    ]
    assert len(COMMANDS) == 7
    assert all(PYTHON.values())
    assert len(SHOWN) > 15


def test_the_examples(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    commands = [short(i, x) for i, x in enumerate(COMMANDS)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([commands, [*PYTHON.values()]])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    # The chain's two hyperparameters, with the longer warmup; then the groups of the picture.
    table = [re.split(r"\s*│\s*", line)[1:6] for line in done.stdout.splitlines() if line.startswith("│")]
    assert [row[:2] for row in table] == [
        ["lr", "group 0"],
        ["weight_decay", "group 0"],
        ["lr", "biases"],
        ["lr", "rest"],
    ]
    assert [row[3] for row in table] == ["0.003 at 63", "0.01 at 0", "0.006 at 21", "0.003 at 21"]
    assert (tmp_path / "warmup_cosine.png").read_bytes().startswith(b"\x89PNG")
    for folder in ("run-3", "DIR"):
        evaluated = [x for x in lines_of(tmp_path / folder) if x["event"] == "evaluated"]
        assert all("val_averaged/accuracy" in x for x in evaluated)
        assert len(evaluated) == 3


@pytest.mark.parametrize("command", SHOWN, ids=" ".join)
def test_commands_are_free_of_mistakes(command: list[str]) -> None:
    assert not told(*(x for x in command if x not in ("--schedule", "--groups")))


def test_mistakes_are_told_as_documented() -> None:
    assert REFUSED is not None
    command, lines = REFUSED.groups()
    assert told(*shlex.split(command)) == [x.strip().removeprefix("optim-run: ") for x in lines.splitlines()]


@pytest.mark.parametrize("name", GUIDES)
def test_choices_and_links_are_there(name: str) -> None:
    groups = {"schedules": "scheduler", "averaging": "averaging", "param_groups": "optimizer/param_groups"}
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*)(?: \(the default\))? \|", GUIDES[name], re.M)
    documented = {x for row in rows for x in re.findall(r"`(\w+)`", row)}
    assert {x.stem for x in (ROOT / "configs" / groups[name]).glob("*.yaml")} <= documented
    for link in re.findall(r"\]\(([^)#]+)", GUIDES[name]):
        assert (ROOT / "docs" / link).exists(), link
