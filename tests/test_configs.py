"""Every YAML in configs/ composes, passes the check, becomes its part, and says what it is."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
import yaml
from torch import nn

from optim_cli.assemble import assemble, resolve
from optim_cli.config.check import averages_in
from optim_cli.config.targets import kind_of, locate
from optim_cli.config.values import SUPPLIED
from optim_cli.datasets.dataset import Dataset
from optim_cli.optim import ALGORITHMS
from optim_cli.optim.lr_scheduler import SCHEDULERS
from optim_cli.optim.lr_scheduler.groupwise import GroupwiseLR
from optim_cli.optim.lr_scheduler.parts import ChainedScheduler, SequentialLR
from optim_cli.optim.lr_scheduler.swa import SWALR
from optim_cli.training import averaging
from optim_cli.training.scheduling import takes_metric
from tests.experiments import BESIDE, ROOT, config_of

CONFIGS = ROOT / "configs"
FILES = {
    group: sorted(x.relative_to(CONFIGS / group).with_suffix("").as_posix() for x in files)
    for group in SUPPLIED
    if (files := list((CONFIGS / group).glob("*.yaml")))
}
ALL = [(group, choice) for group, choices in FILES.items() for choice in choices]
AVERAGES = {x.__name__: x for x in (averaging.EMA, averaging.SWA, averaging.Custom)}
CPU = torch.device("cpu")

# Constructor arguments that stand in no YAML: what the program supplies (SUPPLIED), torch's switches that
# `implementation` replaces, options for programs rather than experiments, and the ways of resuming.
LEFT_OUT = {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay", "last_epoch"}
# Another form of an argument that is there.
ALTERNATIVES = {"total_steps": {"epochs", "steps_per_epoch"}}
# Schedulers that have another place in a config: `chain`, `sequence`, those of parameter groups, and an
# average's `swa_lr`.
ELSEWHERE = {ChainedScheduler, SequentialLR, GroupwiseLR, SWALR}


def path_of(group: str, choice: str) -> Path:
    return CONFIGS / group / f"{choice}.yaml"


def needs_files(choice: str) -> bool:
    return "root" in yaml.safe_load(path_of("dataset", choice).read_text())


def test_every_group_has_choices() -> None:
    assert FILES.keys() == SUPPLIED.keys()
    assert all(FILES.values())
    defaults = yaml.safe_load((CONFIGS / "config.yaml").read_text())["defaults"]
    groups = {key for entry in defaults if isinstance(entry, dict) for key in entry}
    assert groups == {*SUPPLIED, "optimizer/param_groups", "recipe", "override hydra/job_logging"}


@pytest.mark.parametrize(("group", "choice"), ALL, ids=lambda x: str(x))
def test_composes_and_becomes_its_part(
    group: str, choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPTIM_DATA", raising=False)
    if group == "dataset" and needs_files(choice):
        assert resolve(config_of(f"{group}={choice}"))["dataset"]["root"] == "data"
        return
    images = ["dataset=synthetic", "dataset.num_samples=200", "dataset.input_shape=[3,16,16]"]
    beside = BESIDE.get(choice, ())
    if group != "dataset" and not any(x.startswith("dataset=") for x in beside):
        beside = (*images, *beside)
    values = resolve(config_of(*beside, f"{group}={choice}"))
    training = assemble(values, CPU)
    if group == "averaging":
        nodes = {name: node for name, (_, node) in averages_in(values[group]).items()}
        assert {name: locate(node["_target_"], (kind_of(group),)) for name, node in nodes.items()} == {
            name: type(average) for name, average in training.averages.items()
        }
        return
    part = training.trainer if group == "trainer" else getattr(training, group)
    if not values[group]:
        assert part is None
        return
    if "sequence" in values[group]:
        assert type(part) is SequentialLR
        return
    target = locate(values[group]["_target_"], (kind_of(group),))
    if inspect.isclass(target):
        assert type(part) is target
    if group == "model":
        inputs, _ = next(training.dataset.test.batches(2, CPU))
        with torch.no_grad():
            logits = training.model.eval()(inputs)
        assert logits.shape == (2, training.dataset.num_classes)


@pytest.mark.parametrize(("group", "choice"), ALL, ids=lambda x: str(x))
def test_file_lists_what_may_be_set(group: str, choice: str) -> None:
    values = yaml.safe_load(path_of(group, choice).read_text())
    if values is None:
        assert choice == "none"
        return
    if "defaults" in values:
        return  # it is made of other choices
    if "sequence" in values:
        assert set(values) == {"sequence", "interval"}
        return
    target = locate(values.pop("_target_"), (kind_of(group),))
    if group == "model":
        assert set(values.pop("structure")) == {"head", "depth"}
    if group == "scheduler":
        follows = takes_metric(target.step)  # type: ignore[attr-defined]
        assert values.pop("metric" if follows else "interval")
    arguments = set(inspect.signature(target).parameters) - LEFT_OUT - set(SUPPLIED[group])
    for name, others in ALTERNATIVES.items():
        if name in arguments:
            arguments -= others
    assert set(values) == arguments


@pytest.mark.parametrize(
    ("group", "known"), [("optimizer", ALGORITHMS), ("scheduler", SCHEDULERS), ("averaging", AVERAGES)]
)
def test_every_class_has_a_file(group: str, known: dict[str, type]) -> None:
    assert known
    contents = [yaml.safe_load(path_of(group, choice).read_text()) for choice in FILES[group]]
    named = {locate(x["_target_"], (kind_of(group),)) for x in contents if x and "_target_" in x}
    assert set(known.values()) - ELSEWHERE == named


@pytest.mark.parametrize(("group", "result"), [("model", nn.Module), ("dataset", Dataset)])
def test_every_model_and_dataset_has_a_file(group: str, result: type) -> None:
    package = f"optim_cli.{group}s"
    makers = set()
    for path in (ROOT / "optim_cli" / f"{group}s").glob("*.py"):
        module = f"{package}.{path.stem}"
        for name, value in vars(import_module(module)).items():
            if getattr(value, "__module__", None) == module and not name.startswith("_"):
                made = value if inspect.isclass(value) else get_type_hints(value).get("return")
                if inspect.isclass(made) and issubclass(made, result):
                    makers.add(f"{module}.{name}")
    makers -= {"optim_cli.datasets.in_memory.in_memory", "optim_cli.datasets.dataset.Dataset"}
    contents = [yaml.safe_load(path_of(group, choice).read_text()) for choice in FILES[group]]
    assert makers
    assert makers == {x["_target_"] for x in contents}


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda x: x.stem)
def test_first_line_says_what_it_is(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(r"# \S.{3,}\.", first), first
    assert max(map(len, path.read_text(encoding="utf-8").splitlines())) <= 150


def test_main_config_is_a_table_of_contents() -> None:
    lines = (CONFIGS / "config.yaml").read_text(encoding="utf-8").splitlines()
    groups = [x for x in lines if re.match(r"  - (?!_self_|override)", x)]
    assert len(groups) == len(SUPPLIED) + 2
    settings = [x for x in lines if re.match(r"(seed|device):", x)]
    assert len(settings) == 2
    assert all(re.search(r"  # \S", x) for x in groups + settings)


def test_data_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIM_DATA", "/some/where")
    assert config_of("dataset=mnist").dataset.root == "/some/where"
    assert config_of("dataset=mnist", "dataset.root=here").dataset.root == "here"


def test_one_seed_for_all() -> None:
    values = resolve(config_of("seed=7"))
    assert (values["seed"], values["dataset"]["seed"], values["dataset"]["split_seed"]) == (7, 7, 0)
