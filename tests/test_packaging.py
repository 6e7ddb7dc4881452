"""What a user installs: sdist -> wheel -> an environment of its own -> the command in an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.experiments import ROOT, without_trace

PATIENCE = 240  # seconds that a loaded machine may take
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
# What lies in a checkout and is no part of it.
NOT_SOURCES = (".git", ".venv", "outputs", "data", "dist", "__pycache__", ".*_cache", ".hypothesis")
pytestmark = pytest.mark.skipif(UV is None, reason="needs uv")


def start(command: Sequence[str | Path], where: Path, *path: Path) -> subprocess.Popen[str]:
    """A command in a folder, with nothing of this checkout around it; `path` comes first on PATH."""
    own = ("PYTHONPATH", "VIRTUAL_ENV", "OPTIM_DATA")
    environment = {key: value for key, value in os.environ.items() if key not in own}
    environment["PATH"] = os.pathsep.join([*map(str, path), environment["PATH"]])
    environment |= {"OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": "1700000000"}
    return subprocess.Popen(
        command, cwd=where, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def output_of(process: subprocess.Popen[str]) -> str:
    """What a command says once it is done; all of them succeed here."""
    with process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert without_trace(output + errors)
    return output


def sources(folder: Path) -> dict[str, bytes]:
    """Content by place, of all files below a folder."""
    return {
        x.relative_to(folder).as_posix(): x.read_bytes()
        for x in folder.rglob("*")
        if x.is_file() and "__pycache__" not in x.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from an sdist, which is built from a copy of the checkout."""
    build = tmp_path_factory.mktemp("build")
    copy = shutil.copytree(ROOT, build / "checkout", ignore=shutil.ignore_patterns(*NOT_SOURCES))
    hatchling = [sys.executable, "-m", "hatchling", "build", "--directory", str(build)]
    output_of(start([*hatchling, "--target", "sdist"], copy))
    [sdist] = build.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(build / "unpacked", filter="data")
    [unpacked] = (build / "unpacked").iterdir()
    output_of(start([*hatchling, "--target", "wheel"], unpacked))
    [wheel] = build.glob("*.whl")
    return wheel


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        content = {x: archive.read(x) for x in archive.namelist()}
    package = sources(ROOT / "optim_cli")
    for folder in ("configs", "recipes"):
        there = sources(ROOT / folder)
        assert there
        package |= {f"{folder}/{place}": text for place, text in there.items()}
    expected = {f"optim_cli/{place}": text for place, text in package.items()}
    metadata = {x for x in content if x.partition("/")[0].endswith(".dist-info")}
    assert {x: y for x, y in content.items() if x not in metadata} == expected
    assert {x.partition("/")[2] for x in metadata} >= {"METADATA", "entry_points.txt", "licenses/LICENSE"}


@dataclass
class Installed:
    bin: Path
    where: Path  # the empty folder of its user
    outputs: dict[str, str]

    def run_folder(self, name: str) -> Path:
        """The folder that a command's last line names."""
        return self.where / self.outputs[name].splitlines()[-1].removeprefix("results in ")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in a new environment, and commands in a folder where only a user's configs are."""
    home = tmp_path_factory.mktemp("installed")
    environment, where = home / "venv", home / "empty"
    assert UV is not None
    quiet = ["--quiet", "--offline", "--no-cache", "--no-config"]
    output_of(start([UV, "venv", *quiet, "--python", sys.executable, str(environment)], home))
    python = environment / "bin" / "python"
    output_of(start([UV, "pip", "install", *quiet, "--no-deps", "--python", str(python), str(wheel)], home))
    # Dependencies come from this environment. Its own .pth files, such as that of an editable install, are
    # not read, because it is no site folder of the new one.
    ours = sysconfig.get_path("purelib")
    [site] = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{ours}\n")
    users_configs(where)
    commands: dict[str, list[str | Path]] = {
        "default": ["optim-run", "trainer.max_steps=2"],
        "recipe": ["optim-run", "recipe=digits/sgd_cosine", "trainer.max_steps=1"],
        "own": ["optim-run", "--config-dir", "own", "recipe=mine", "trainer.max_steps=1"],
        "help": ["optim-run", "--help"],
        "help of own": ["optim-run", "--config-dir", "own", "--help"],
        "module": [python, "-m", "optim_cli", "--help"],
        "place": [python, "-c", "import optim_cli; print(optim_cli.__file__)"],
    }
    # Two at a time, for the cores that there are.
    outputs: dict[str, str] = {}
    names = list(commands)
    for pair in (names[:2], names[2:4], names[4:]):
        started = {name: start(commands[name], where, environment / "bin") for name in pair}
        outputs |= {name: output_of(process) for name, process in started.items()}
    return Installed(environment / "bin", where, outputs)


def users_configs(where: Path) -> None:
    """An optimizer with values of its own, and a recipe that chooses it."""
    for place, text in {
        "own/optimizer/slow.yaml": "_target_: torch.optim.Adagrad\nlr: 0.125\n",
        "own/recipe/mine.yaml": (
            "# @package _global_\n"
            "defaults:\n  - override /optimizer: slow\n  - override /scheduler: none\n"
            "trainer:\n  epochs: 3\n"
        ),
    }.items():
        path = where / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_it_is_the_wheel_that_runs(installed: Installed) -> None:
    assert Path(installed.outputs["place"].strip()).is_relative_to(installed.bin.parent)
    environment = json.loads((installed.run_folder("default") / "environment.json").read_text())
    assert environment["command"][0] == str(installed.bin / "optim-run")
    assert environment["git"] is None
    assert environment["packages"]["optim-run"]


def test_runs(installed: Installed) -> None:
    for name, steps, optimizer in (
        ("default", 2, "optim_cli.optim.AdamW"),
        ("recipe", 1, "optim_cli.optim.SGD"),
        ("own", 1, "torch.optim.Adagrad"),
    ):
        folder = installed.run_folder(name)
        assert json.loads((folder / "summary.json").read_text())["steps"] == steps
        assert f"_target_: {optimizer}\n" in (folder / "config.yaml").read_text()
        files = {"environment.json", "metrics.jsonl", "curves.png", "run.log", "checkpoints"}
        assert {x.name for x in folder.iterdir()} >= files
    assert "lr: 0.125\n" in (installed.run_folder("own") / "config.yaml").read_text()
    assert sorted(x.name for x in installed.where.iterdir()) == ["outputs", "own"]


def test_help(installed: Installed) -> None:
    text = installed.outputs["help"]
    assert text == installed.outputs["module"]
    assert "sgd_cosine" in text
    own = installed.outputs["help of own"]
    (optimizers,) = (line for line in own.splitlines() if line.startswith("optimizer: "))
    names = [path.stem for path in (ROOT / "configs" / "optimizer").glob("*.yaml")]
    assert optimizers.split(": ")[1].split(", ") == sorted([*names, "slow"])
    assert "mine" in own
    assert "slow" not in text
