"""An earlier run's folder is data: it is checked like everything else, and nothing in it is resolved."""

from __future__ import annotations

import json
import os
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from optim_cli.config.compose import parse
from optim_cli.config.saved import CHANGEABLE, differences, literal, quoted
from tests.command_lines import experiment, told, write


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    """The default config."""
    job = experiment("seed=7").job(experiment("seed=7").jobs[0])
    assert job.values is not None
    return job.values


def folder_of(where: Path, values: dict[str, Any], more: str = "", environment: str | None = None) -> Path:
    write(where, {"config.yaml": yaml.safe_dump(values, sort_keys=False) + more})
    return where if environment is None else write(where, {"environment.json": environment})


def values_of(*overrides: str, several: bool = False) -> list[dict[str, Any]]:
    line = experiment(*overrides, several=several)
    jobs = [line.job(x).values for x in line.jobs]
    assert not line.mistakes
    return [x for x in jobs if x is not None]


def test_the_same_again(tmp_path: Path, values: dict[str, Any]) -> None:
    folder = folder_of(tmp_path, values)
    for key in ("resume", "rerun"):
        assert not told(f"{key}={folder}")
        [again] = values_of(f"{key}={folder}")
        assert {x: y for x, y in again.items() if x != key} == {x: y for x, y in values.items() if x != key}


def test_changes_of_a_rerun(tmp_path: Path, values: dict[str, Any]) -> None:
    folder = folder_of(tmp_path, values)
    changes = ("optimizer=sgd", "optimizer.momentum=0.5", "model.hidden=[3]", "averaging=ema")
    assert not told(f"rerun={folder}", *changes)
    [again] = values_of(f"rerun={folder}", *changes)
    assert again["seed"] == 7
    assert again["optimizer"]["_target_"] == "optim_cli.optim.SGD"
    assert again["optimizer"]["momentum"] == 0.5
    assert again["model"] == {**values["model"], "hidden": [3]}
    assert again["averaging"]["decay"] == 0.99
    jobs = values_of(f"rerun={folder}", "seed=1,2", "model=mlp,logistic", several=True)
    assert [(x["seed"], len(x["model"])) for x in jobs] == [(1, 6), (1, 2), (2, 6), (2, 2)]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["optimizer.lrr=1"], ["optimizer.lrr: unknown key; did you mean optimizer.lr?"]),
        (["trainer.epochs=x", "model=nope"], ["model: 'nope' is no choice", "trainer.epochs: 'x' is not"]),
        (["~trainer.epochs"], ["trainer.epochs: missing", "[command line: ~trainer.epochs]"]),
        (["~model"], ["model"]),
        (["+model.x=3"], ["model.x: "]),
        (["recipe=digits/sgd_cosine"], ["recipe: cannot stand beside an earlier run's config"]),
        (["seed=1,2"], ["seed: several values"]),
    ],
)
def test_mistakes_beside_it(
    tmp_path: Path, values: dict[str, Any], overrides: list[str], says: list[str]
) -> None:
    folder = folder_of(tmp_path, values)
    for key in ("resume", "rerun"):
        report = "\n".join(told(f"{key}={folder}", *overrides))
        for part in says:
            assert part in report


def test_what_may_change_when_a_run_goes_on(tmp_path: Path, values: dict[str, Any]) -> None:
    folder = folder_of(tmp_path, values)
    assert not told(f"resume={folder}", "trainer.epochs=40", "trainer.measure_every=3", "device=cpu")
    report = told(f"resume={folder}", "model=cnn", "optimizer.lr=1", "seed=8")
    # Of another choice, only the choice is told.
    assert [x.partition("; ")[0] for x in report] == [
        "model: was optim_cli.models.mlp.MLP, is now optim_cli.models.cnn.CNN",
        "seed: was 7, is now 8",
        "optimizer.lr: was 0.003, is now 1",
    ]
    assert "[command line: model=cnn; " in report[0]
    assert told(f"resume={folder}", "~optimizer.eps", "+model.x=1")[0].startswith(
        "optimizer.eps: was 1e-08, is now not"
    )
    assert "goes on with one run; leave out -m" in told(f"resume={folder}", "seed=7,7", several=True)[0]


def test_differences() -> None:
    old = {"model": {"a": 1, "b": [1, 2]}, "trainer": {"epochs": 3}, "plugins": ["x"], "resume": None}
    assert not differences(old, {**old, "plugins": [], "resume": "there", "trainer": {"epochs": 5}})
    assert [x.key for x in differences(old, {**old, "model": {"b": [2, 1]}})] == ["model.a", "model.b"]
    assert [x.key for x in differences({"scheduler": {}}, {"scheduler": {"_target_": "x", "a": 1}})] == [
        "scheduler"
    ]
    assert "trainer.epochs" in CHANGEABLE


def test_durations_may_become_numbers() -> None:
    """What follows the run's length is compared where the numbers are known."""
    old = {
        "scheduler": {"a": "10%", "b": ["50%", 7], "c": None, "d": 5, "e": "linear"},
        "averaging": {"start": "2 epochs"},
    }
    counted = {"a": 6, "b": [30, 7], "c": 60, "d": 5, "e": "linear"}
    assert not differences(old, {"scheduler": counted, "averaging": {"start": 24}})
    changed = {**counted, "d": 6, "e": "cos"}
    found = differences(old, {"scheduler": changed, "averaging": {"start": 24}})
    assert [x.key for x in found] == ["scheduler.d", "scheduler.e"]


NO_RUN: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is no config of a run: it has no model, dataset"),
    "text": ("abc", "is no config of a run"),
    "list": ("- 1\n", "is no config of a run"),
    "bytes": (b"\x80\xff", "cannot be read: 'utf-8' codec"),
    "call": ("seed: !!python/object/apply:os.system [ls]\n", ":1: no YAML: could not determine"),
    "deep": ("a: " + "[" * 1000, "nested deeper than 32"),
    "itself": ("a: &a [*a]\n", "nested deeper than 32"),
    "no model": ("seed: 1\n", "it has no model"),
}
MORE: dict[str, str] = {
    "d: 2020-01-01\n": "Value 'date' is not a supported",
    "d: !!set {a}\n": "Value 'set' is not a supported",
    "null: 3\n": "Incompatible key type",
    "? [1, 2]\n: 3\n": "unhashable key",
    "a.b: 3\n": "a.b: unknown key",
    "1: 3\n": "1: unknown key",
    "'': 3\n": "'': unknown key",
}


@pytest.mark.parametrize("name", NO_RUN)
def test_no_run(tmp_path: Path, name: str) -> None:
    content, says = NO_RUN[name]
    write(tmp_path, {"config.yaml": content})
    for key in ("resume", "rerun"):
        [line] = told(f"{key}={tmp_path}", "seed=1")
        assert line.startswith(f"{key}: ")
        assert says in line
        assert line.endswith(f"[command line: {key}={tmp_path}]")


@pytest.mark.parametrize("more", MORE)
def test_what_a_config_cannot_hold(tmp_path: Path, values: dict[str, Any], more: str) -> None:
    [line] = told(f"rerun={folder_of(tmp_path, values, more)}")
    assert MORE[more] in line


def test_no_folder(tmp_path: Path, values: dict[str, Any]) -> None:
    (tmp_path / "folder" / "config.yaml").mkdir(parents=True)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "config.yaml")
    (tmp_path / "endless").mkdir()
    (tmp_path / "endless" / "config.yaml").symlink_to("/dev/zero")
    for name, says in (("nowhere", "No such file"), ("folder", "no regular"), ("pipe", "no regular")):
        assert says in told(f"rerun={tmp_path / name}")[0]
    assert "no regular file" in told(f"resume={tmp_path / 'endless'}")[0]
    assert "names a run's folder" in told("resume=[a]")[0]
    assert "names a run's folder" in told("rerun=a,b", several=True)[0]
    folder = folder_of(tmp_path / "right", values)
    assert "rerun: cannot stand beside resume" in told(f"resume={folder}", f"rerun={folder}")[0]


@pytest.mark.parametrize(
    "environment",
    [
        *(
            '{"choices": {"model": "../../outside"}}',
            '{"choices": {"model": ["mlp", "cnn"]}}',
            "[]",
            "3",
            "{",
        ),
        *('{"choices": {"model": "mlp,cnn"}}', '{"choices": {"model": "${oc.env:HOME}"}}', "\x00"),
        *('{"choices": {"hydra/launcher": "evil", "": ""}}', '{"choices": {"model": {"a": 1}}}'),
        '{"choices": ' + "[" * 5000,
    ],
)
def test_hostile_choices(tmp_path: Path, values: dict[str, Any], environment: str) -> None:
    """They only name things: nothing is chosen that is none of the group's."""
    write(tmp_path, {"outside.yaml": "# @package hydra\nverbose: true\n"})
    folder = folder_of(tmp_path / "run", values, environment=environment)
    assert not told(f"rerun={folder}")
    line = experiment(f"rerun={folder}")
    assert [x for x in line.for_hydra() if "/" not in x] == []


def test_saved_choices_name_the_new_folder(tmp_path: Path, values: dict[str, Any]) -> None:
    folder = folder_of(tmp_path, values, environment=json.dumps({"choices": {"model": "cnn", "x": "y"}}))
    line = experiment(f"rerun={folder}", "optimizer.lr=1")
    assert line.for_hydra() == ["model=cnn", f"++rerun={folder}", "++optimizer.lr=1"]


TEXTS = ("${seed}", r"\${seed}", "${oc.env:HOME}", "$", "${", "$${seed}", r"\\${a}", "a${b}c", "\\", "é'\"\n")


def test_saved_values_are_resolved_no_second_time(tmp_path: Path, values: dict[str, Any]) -> None:
    for number, text in enumerate(TEXTS):
        hostile = {**deepcopy(values), "device": text, "plugins": ["os"], "hydra": {"verbose": True}}
        hostile["model"]["_target_"] = "os.system"
        folder = folder_of(tmp_path / str(number), hostile)
        report = told(f"rerun={folder}")
        assert f"device: {text!r} is not allowed" in report[0]
        assert "'os.system' may not be called" in report[1]
        assert len(report) == 2


def test_literal_texts(seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(300):
        text = "".join(generator.choice("$\\{}'\" a:.") for _ in range(generator.randrange(9)))
        config = OmegaConf.create({"x": literal({"y": [text]})})
        assert config.x.y[0] == text


def test_quoted_texts(seed: int) -> None:
    """As Hydra reads them, when it names the folder of a run that goes on."""
    generator = random.Random(seed)
    for _ in range(300):
        text = "".join(generator.choice("$\\{}'\" a,=[]é") for _ in range(generator.randrange(9)))
        [override], mistakes = parse([f"hydra.run.dir={quoted(literal(text))}"])
        assert not mistakes
        assert OmegaConf.create({"x": override.value()}).x == text
