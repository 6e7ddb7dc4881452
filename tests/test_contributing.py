"""The walks of CONTRIBUTING.md, performed as they stand there: its files written, its commands run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.experiments import ENVIRONMENT, ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = re.findall(r"^`([\w/.]+)`:\n\n```(?:python|yaml)\n(.*?)^```$", TEXT, re.M | re.S)
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"^```sh\n(.*?)^```$", TEXT, re.M | re.S)
    for line in block.splitlines()
]
# Five steps tell whether a command works as well as three epochs do.
SHORT = "trainer.max_steps=5"

# All commands in one process; then what else the added optimizer has to do.
PROGRAM = """
import json, sys
import torch
torch.set_num_threads(1)
import optim_cli
from optim_cli.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["optim-run", *arguments]
    main()

from optim_cli import optim
from optim_cli.optim import lr_scheduler

def trained(implementation):
    generator = torch.Generator().manual_seed(5)
    shapes = [(3, 4), (7,), ()]
    params = [torch.randn(x, generator=generator, dtype=torch.float64, requires_grad=True) for x in shapes]
    optimizer = optim.AdaBelief(params, lr=0.1, weight_decay=0.01, implementation=implementation)
    for _ in range(20):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
    return params, dict(optimizer.executions)

foreach, ran = trained("foreach")
for_loop, ran_too = trained("for_loop")
error = max(float((x - y).detach().abs().max()) for x, y in zip(foreach, for_loop))
print(json.dumps({
    "package": optim_cli.__file__,
    "algorithms": sorted(optim.ALGORITHMS),
    "schedulers": sorted(lr_scheduler.SCHEDULERS),
    "error": error,
    "executions": [ran, ran_too],
}))
"""


def test_the_walks_are_found() -> None:
    assert len(FILES) == 8
    assert len(COMMANDS) == 4
    assert len(re.findall(r"^## Add ", TEXT, re.M)) == 4
    assert [Path(path).suffix for path, _ in FILES] == [".py", ".yaml"] * 4
    assert TEXT.count("```") == 2 * (len(FILES) + 4), "a block that no test performs"


def test_rooms_are_there() -> None:
    rooms = [x for row in re.findall(r"^\| (`.*?`) \|", TEXT, re.M) for x in re.findall(r"`([\w/]+)/`", row)]
    assert len(rooms) >= 8
    missing = [x for x in rooms if not (ROOT / x).is_dir()]
    assert not missing


@pytest.mark.parametrize("path", [path for path, _ in FILES])
def test_the_example_is_new(path: str) -> None:
    assert not (ROOT / path).exists()
    assert (ROOT / path).parent.is_dir()


def test_the_walks(tmp_path: Path) -> None:
    for name in ("optim_cli", "configs", "recipes"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path, content in FILES:
        (tmp_path / path).write_text(content, encoding="utf-8")
    arguments = [[*x, SHORT, f"hydra.run.dir=run-{i}"] for i, x in enumerate(COMMANDS)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(arguments)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told = json.loads(done.stdout.splitlines()[-1])
    assert Path(told["package"]) == tmp_path / "optim_cli" / "__init__.py"
    assert "AdaBelief" in told["algorithms"]
    assert "InverseSqrtLR" in told["schedulers"]
    assert told["error"] < 1e-12
    assert told["executions"] == [{"foreach": 20}, {"for_loop": 20}]

    added = []
    for i, command in enumerate(COMMANDS):
        summary = json.loads((tmp_path / f"run-{i}" / "summary.json").read_text(encoding="utf-8"))
        assert summary["steps"] == 5
        assert 0 <= summary["final"]["test/accuracy"] <= 1
        config = yaml.safe_load((tmp_path / f"run-{i}" / "config.yaml").read_text(encoding="utf-8"))
        group = command[0].partition("=")[0]
        added.append((group, config[group]["_target_"].rpartition(".")[2]))
        assert summary["synthetic_data"] is (group == "dataset")
    assert added == [
        ("optimizer", "AdaBelief"),
        ("model", "ResidualMLP"),
        ("dataset", "stripes"),
        ("scheduler", "InverseSqrtLR"),
    ]
