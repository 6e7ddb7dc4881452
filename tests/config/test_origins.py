"""Every mistake is told with the place that made it: the command line, or a file and a line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from optim_cli.config.origins import Origins, path_of, place_in
from tests.command_lines import experiment, own_main, told, write

CHOICE = """# A choice.
_target_: optim_cli.models.mlp.MLP

hidden:
  - 16
  - 0
dropout: 7
activation: relu
"""
RECIPE = """defaults:
  - override /model: mine

trainer:
  epochs: 0

  max_steps: many
nothing: 3
"""


def origins(lines: list[str]) -> dict[str, str]:
    """Key -> origin."""
    return {x.partition(": ")[0]: x.rpartition(" [")[2].removesuffix("]") for x in lines}


def test_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"own/model/mine.yaml": CHOICE, "own/recipe/mine.yaml": RECIPE})
    found = told("recipe=mine", "trainer.max_steps=-3", "optimizer.lr=x", own=tmp_path / "own")
    assert origins(found) == {
        "optimizer.lr": "command line: optimizer.lr=x",
        "model.hidden[1]": "own/model/mine.yaml:6",
        "model.dropout": "own/model/mine.yaml:7",
        "trainer.epochs": "own/recipe/mine.yaml:5",
        "trainer.max_steps": "command line: trainer.max_steps=-3",
        "nothing": "own/recipe/mine.yaml:8",
    }


def test_files_are_named_as_they_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = write(tmp_path / "own", {"model/mine.yaml": CHOICE})
    (tmp_path / "else" / "where").mkdir(parents=True)
    for where, shown in (
        (tmp_path / "own", "model/mine.yaml"),
        (tmp_path, "own/model/mine.yaml"),
        (tmp_path / "else" / "where", str(own / "model/mine.yaml")),
    ):
        monkeypatch.chdir(where)
        assert origins(told("model=mine", own=own))["model.dropout"] == f"{shown}:7"


def test_main_config(tmp_path: Path) -> None:
    main = own_main(tmp_path, "nothing: 1\n")
    text = (main / "config.yaml").read_text().replace("seed: 0", "seed: -1")
    (main / "config.yaml").write_text(text)
    line = text.splitlines().index(next(x for x in text.splitlines() if x.startswith("seed: -1"))) + 1
    found = origins(told(main=main))
    assert found["nothing"].endswith("config.yaml:1")
    assert found["seed"].endswith(f"config.yaml:{line}")


def test_a_wrong_choice_in_a_file(tmp_path: Path) -> None:
    text = "# x\ndefaults:\n  - override /optimizer: adamm\n  - override /model: nope\n"
    own = write(tmp_path, {"recipe/mine.yaml": text})
    found = origins(told("recipe=mine", own=own))
    assert found["optimizer"].endswith("recipe/mine.yaml:3")
    assert found["model"].endswith("recipe/mine.yaml:4")


def test_a_run_folder(tmp_path: Path) -> None:
    job = experiment().job([])
    assert job.values is not None
    values = {**job.values, "seed": -1, "model": {**job.values["model"], "dropout": 3}}
    text = yaml.safe_dump(values, sort_keys=False)
    write(tmp_path, {"config.yaml": text})
    lines = [x.strip() for x in text.splitlines()]
    found = origins(told(f"rerun={tmp_path}", "optimizer.lr=x"))
    assert found == {
        "seed": f"{tmp_path}/config.yaml:{lines.index('seed: -1') + 1}",
        "model.dropout": f"{tmp_path}/config.yaml:{lines.index('dropout: 3') + 1}",
        "optimizer.lr": "command line: optimizer.lr=x",
    }


def test_what_a_sweep_varies(tmp_path: Path) -> None:
    """Of the main config's sweep the line there is told, of the command line's the job's value."""
    main = own_main(tmp_path)
    with (main / "config.yaml").open("a") as file:
        file.write("\n  sweeper:\n    params:\n      optimizer.lr: 1,-2\n")
    lines = len((main / "config.yaml").read_text().splitlines())
    found = origins(told("trainer.epochs=1,0", main=main, several=True))
    assert found["optimizer.lr"].endswith(f"config.yaml:{lines}")
    assert found["trainer.epochs"] == "command line: trainer.epochs=0"


def test_a_value_taken_from_another_is_told_once() -> None:
    assert list(origins(told("optimizer.lr=-1"))) == ["optimizer.lr"]
    assert list(origins(told("scheduler.max_lr=-1"))) == ["scheduler.max_lr"]
    assert list(origins(told("+a=${b}", "+b=${a}"))) == ["a", "b"]
    # Mappings that hold each other.
    assert {"a", "c"} <= origins(told("+a.b=${c}", "+c.d=${a}", "seed=${a.b.d.b}")).keys()


def test_refused_by_a_constructor() -> None:
    found = origins(told("optimizer=sgd", "optimizer.momentum=0"))
    assert found["optimizer"].endswith("optimizer/sgd.yaml; command line: optimizer.momentum=0")
    found = origins(told("scheduler.max_lr=[1,2]"))
    assert found["scheduler"].endswith("onecycle.yaml; command line: scheduler.max_lr=[1,2]")


def test_layers(tmp_path: Path) -> None:
    """The last layer counts, and of what nobody wrote, what is around it."""
    write(tmp_path, {"a.yaml": "x:\n  y: 1\n  z: [1, {u: 2}]\n", "b.yaml": "y: 5\ndropped: 1\n"})
    layers = Origins()
    layers.add_file(tmp_path / "a.yaml", "")
    layers.add_file(tmp_path / "b.yaml", "x", without=("dropped",))
    layers.add_override("x.z", "command line: x.z=3")
    layers.add_override("new.key", "command line: +new.key=3")
    a, b = (os.path.join(tmp_path, x) for x in ("a.yaml", "b.yaml"))
    assert layers.of("x.y") == f"{b}:1"
    assert layers.of("x.z[1].u") == "command line: x.z=3"
    assert layers.of("x.w") == b
    assert layers.of("x.dropped") == b
    assert layers.of("new") == "command line: +new.key=3"
    assert layers.of("nowhere") == ""
    assert layers.of("") == ""
    assert place_in(tmp_path / "a.yaml", "x.z[1].u") == f"{a}:3"
    assert place_in(tmp_path / "a.yaml", "none") == a
    assert place_in(tmp_path / "none.yaml", "none") == os.path.join(tmp_path, "none.yaml")


def test_paths_of_keys() -> None:
    assert path_of("a.b[2].c") == ("a", "b", "2", "c")
    assert path_of("_global_.a") == ("a",)
    assert path_of("[a].b") == ("a", "b")
    assert path_of("") == ()
