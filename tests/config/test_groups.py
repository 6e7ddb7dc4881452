"""Parameter groups in configs: choices beside each other, and every mistake, told with its key."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from optim_cli.assemble import refusals, resolve
from optim_cli.config.check import mistakes
from tests.command_lines import experiment, told, write
from tests.experiments import ROOT, config_of

OURS, GROUPS = "optim_cli.optim.", "optimizer.param_groups"
COSINE = {"_target_": f"{OURS}lr_scheduler.CosineAnnealingLR", "T_max": None}
PLATEAU = {"_target_": f"{OURS}lr_scheduler.ReduceLROnPlateau"}
CYCLE = {"_target_": f"{OURS}lr_scheduler.OneCycleLR", "total_steps": None}
CHOICES = sorted(x.stem for x in (ROOT / "configs" / "optimizer" / "param_groups").glob("*.yaml"))
# What one wants to override without asking for it in the file.
OPEN = {"lr", "lr_scale", "scheduler", "freeze", "unfreeze_at", "layer_decay", "optional"}


@pytest.fixture(scope="module")
def default() -> dict[str, Any]:
    """A run of 63 steps, 3 epochs, without a schedule."""
    return resolve(config_of("scheduler=none", "trainer.epochs=3", "model.hidden=[8]"))


def with_entries(values: dict[str, Any], entries: Any, **groups: Any) -> dict[str, Any]:
    changed = deepcopy(values) | groups
    changed["optimizer"]["param_groups"] = deepcopy(entries)
    return changed


# Entries -> key below optimizer.param_groups: what is said of it, without looking at the model.
MISTAKEN: list[tuple[Any, dict[str, str]]] = [
    (3, {"": "3 is not allowed; allowed: a mapping"}),
    ({"a": 3}, {".a": "3 is no entry; allowed: a mapping with params, modules,"}),
    ({"a": None}, {".a": "null is no entry; allowed"}),
    ({"a": {"any": [True]}}, {".a.any[0]": "true is not allowed; allowed: a condition"}),
    ({"a": {"ndim": False, "lr": True}}, {".a.ndim": "false is not", ".a.lr": "true is not allowed"}),
    ({"a": {"lr": 1.0}}, {".a": 'does not say what it takes; give one or more of params, modules, ndim'}),
    ({"rest": {"ndim": 1}}, {".rest": "the name is that of what no entry takes; choose another"}),
    ({"a.b": {"ndim": 1}}, {"": "'a.b' is no name of an entry; allowed: one without dots"}),
    (
        {"a": {"params": "*", "wieght_decay": 0.1}},
        {".a.wieght_decay": "unknown key; did you mean optimizer.param_groups.a.weight_decay? (known: lr,"},
    ),
    ({"a": {"parms": "*", "ndim": 1}}, {".a.parms": "did you mean optimizer.param_groups.a.params?"}),
    ({"a": {"params": 3}}, {".a.params": "3 is not allowed; allowed: a glob over qualified names"}),
    ({"a": {"params": []}}, {".a.params": "[] is not allowed"}),
    ({"a": {"params": "regex:("}}, {".a.params": "'regex:(' is no regular expression: missing ),"}),
    ({"a": {"modules": [1]}}, {".a.modules": "1 is not allowed; allowed: the name or import path"}),
    ({"a": {"ndim": "two"}}, {".a.ndim": "'two' is not allowed; allowed: a number of dimensions"}),
    ({"a": {"kind": "baises"}}, {".a.kind": "'baises' is not allowed; allowed: bias, norm, embedding, head"}),
    ({"a": {"any": {"ndim": 1}}}, {".a.any": "is not allowed; allowed: a list of conditions"}),
    ({"a": {"all": [{"ndim": 1, "lr": 1}]}}, {".a.all[0].lr": "unknown key (known: params, modules"}),
    ({"a": {"not": {"any": [{"ndim": -1}]}}}, {".a.not.any[0].ndim": "-1 is not allowed"}),
    ({"a": {"ndim": 1, "lr": -1.0}}, {".a.lr": "-1.0 is not allowed; allowed: a number greater"}),
    ({"a": {"ndim": 1, "betas": [0.9]}}, {".a.betas": "[0.9] is not allowed; allowed: a list of 2, each"}),
    ({"a": {"ndim": 1, "betas": [0.9, 1.0]}}, {".a.betas[1]": "1.0 is not allowed; allowed: a number"}),
    ({"a": {"ndim": 1, "momentum": 0.9}}, {".a.momentum": "unknown key (known: lr, betas,"}),
    ({"a": {"ndim": 1, "foreach": True}}, {".a.foreach": "unknown key"}),
    ({"a": {"ndim": 1, "lr_scale": "x"}}, {".a.lr_scale": "'x' is not allowed; allowed: a finite"}),
    ({"a": {"ndim": 1, "lr": 0.1, "lr_scale": 1}}, {".a.lr_scale": "lr is given, too; give one, and null"}),
    ({"a": {"ndim": 1, "layer_decay": 1.5}}, {".a.layer_decay": "1.5 is not allowed; allowed: a number > 0"}),
    ({"a": {"ndim": 1, "freeze": 1}}, {".a.freeze": "1 is not allowed; allowed: true or false"}),
    ({"a": {"ndim": 1, "unfreeze_at": "3 epocs"}}, {".a.unfreeze_at": "'3 epocs' is not allowed"}),
    (
        {"a": {"ndim": 1, "unfreeze_at": 3, "freeze": False}},
        {".a.freeze": "false, and unfreeze_at is given; set one of them to null"},
    ),
    ({"a": {"ndim": 1, "optimizer": "sgd"}}, {".a.optimizer": "'sgd' is not allowed; allowed: a mapping"}),
    (
        {"a": {"ndim": 1, "optimizer": {"_target_": f"{OURS}SGD", "lrr": 1, "lr": -1}}},
        {".a.optimizer.lrr": "mean optimizer.param_groups.a.optimizer.lr?", ".a.optimizer.lr": "-1"},
    ),
    (
        {"a": {"ndim": 1, "optimizer": {"_target_": f"{OURS}SGD"}, "momentum": 0.5, "betas": [0.9, 0.9]}},
        {".a.betas": "unknown key (known: lr, momentum, dampening"},
    ),
    ({"a": {"ndim": 1, "optimizer": {"_target_": "os.system"}}}, {".a.optimizer._target_": "may not be"}),
    ({"a": {"ndim": 1, "_target_": f"{OURS}SGD"}}, {".a._target_": "in optimizer.param_groups.a.optimizer"}),
    ({"a": {"ndim": 1, "scheduler": "cosine"}}, {".a.scheduler": "allowed: a schedule, as scheduler has it"}),
    ({"a": {"ndim": 1, "scheduler": COSINE | {"T_mx": 3}}}, {".a.scheduler.T_mx": "a.scheduler.T_max?"}),
    (
        {"a": {"ndim": 1, "scheduler": {"interval": "step"}}},
        {".a.scheduler.interval": "choose one with +scheduler@optimizer.param_groups.a.scheduler=CHOICE"},
    ),
    (
        {"a": {"ndim": 1, "scheduler": COSINE}, "b": {"ndim": 2, "scheduler": COSINE | {"interval": "epoch"}},
         "c": {"ndim": 3, "scheduler": COSINE | {"interval": "step"}}},
        {".c.scheduler.interval": "'step' is not 'epoch', as the schedules before it have it"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("entries", "expected"), MISTAKEN, ids=lambda x: str(x)[:60])
def test_mistakes(default: dict[str, Any], entries: Any, expected: dict[str, str]) -> None:
    found = {x.key: x.what for x in mistakes(with_entries(default, entries))}
    assert found.keys() == {f"optimizer.param_groups{key}" for key in expected}
    for key, says in expected.items():
        assert says in found[f"optimizer.param_groups{key}"]


def test_mistakes_are_told_together(default: dict[str, Any]) -> None:
    entries = {
        name: entry for case, _ in MISTAKEN[8:-1] for name, entry in {f"a{id(case)}": case["a"]}.items()
    }
    found = mistakes(with_entries(default, entries, trainer={}))
    assert len({x.key.split(".")[2] for x in found if x.key.startswith("optimizer")}) == len(entries)
    assert "trainer" in {x.key for x in found}


# Entries and what else is different -> key: what is said of it in view of the model and the run.
UNFITTING: list[tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = [
    (
        {"a": {"params": "haed.*"}, "b": {"modules": "Linera"}},
        {},
        {
            ".a": "takes no parameter: nothing is called so; did you mean head.*?",
            ".b": "takes no parameter: nothing is called so; did you mean Linear?",
        },
    ),
    ({"a": {"ndim": 1}, "b": {"kind": "bias"}}, {}, {".b": "a, before it, took all that it fits"}),
    (
        {"a": {"ndim": 1}},
        {"strict": True},
        {"": "no entry takes body.1.weight, head.weight, and strict asks"},
    ),
    (
        {"a": {"ndim": 1, "unfreeze_at": "3 epochs"}},
        {},
        {".a.unfreeze_at": "it would be trained after step 63, and the run has 63 steps; lower it"},
    ),
    (
        {"a": {"ndim": 1, "unfreeze_at": 7}, "b": {"ndim": 2, "unfreeze_at": "1 epochs"}},
        {},
        {"": "nothing is trained before step 8: every parameter is frozen"},
    ),
    ({"a": {"params": "*", "freeze": True}}, {}, {"": "every parameter is frozen, so that there is nothing"}),
    (
        {"a": {"ndim": 1, "optimizer": {"_target_": f"{OURS}SparseAdam"}}},
        {},
        {".a": "SparseAdam takes sparse gradients only, and those of body.1.bias, head.bias are dense"},
    ),
    (
        {"a": {"ndim": 1, "scheduler": COSINE | {"T_max": 64}}},
        {},
        {".a.scheduler.T_max": "64 is too long: it makes 64 steps, and the run has 63"},
    ),
    (
        {"a": {"ndim": 1, "scheduler": {"chain": [PLATEAU, COSINE | {"hyperparameter": "momentum"}]}}},
        {},
        {
            ".a.scheduler.metric": "missing; ReduceLROnPlateau follows one (evaluations give train/loss,",
            ".a.scheduler.chain[1].hyperparameter": "'momentum' is none of AdamW's",
        },
    ),
]


@pytest.mark.parametrize(("entries", "more", "expected"), UNFITTING, ids=lambda x: str(x)[:60])
def test_what_does_not_fit(
    default: dict[str, Any], entries: dict[str, Any], more: dict[str, Any], expected: dict[str, str]
) -> None:
    values = with_entries(default, entries)
    values["optimizer"] |= more
    assert not mistakes(values)
    found = {x.key: x.what for x in refusals(values)}
    assert found.keys() == {f"optimizer.param_groups{key}" for key in expected}
    for key, says in expected.items():
        assert says in found[f"optimizer.param_groups{key}"]


# Schedule of groups with several rates -> key: what is said of it.
ONE_FOR_ALL: list[tuple[dict[str, Any], dict[str, str]]] = [
    (CYCLE, {}),
    (CYCLE | {"max_lr": [0.1, 0.2]}, {}),
    (
        CYCLE | {"max_lr": 0.1},
        {".max_lr": "0.1 would be the lr of all groups, which have their own (a 0.0003, rest 0.003); "
         "give null, with which the highest of each is its own, or a list of 2, one for each group"},
    ),
    (
        {"chain": [COSINE, {"_target_": f"{OURS}lr_scheduler.CyclicLR", "base_lr": 0.0, "max_lr": 0.5,
                            "hyperparameter": "weight_decay", "step_size_up": 9}]},
        {".chain[1].max_lr": "0.5 would be the weight_decay of all groups, which have their own (a 0, "},
    ),
    (CYCLE | {"max_lr": 0.5, "hyperparameter": "eps"}, {}),
    ({"_target_": f"{OURS}lr_scheduler.SWALR", "swa_lr": 0.1}, {".swa_lr": "; give a list of 2, one for"}),
    (
        CYCLE | {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 0.1},
        {".max_lr": "rest 0.003); give a list of 2, one for each group"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("scheduler", "expected"), ONE_FOR_ALL, ids=lambda x: str(x)[:60])
def test_one_value_for_groups_with_several(
    default: dict[str, Any], scheduler: dict[str, Any], expected: dict[str, str]
) -> None:
    values = with_entries(default, {"a": {"ndim": 1, "lr_scale": 0.1, "weight_decay": 0.0}})
    values["scheduler"] = scheduler
    assert not mistakes(values)
    found = {x.key: x.what for x in refusals(values)}
    assert found.keys() == {f"scheduler{key}" for key in expected}
    for key, says in expected.items():
        assert says in found[f"scheduler{key}"]


def test_optional_entries_and_null_are_as_if_not_there(default: dict[str, Any]) -> None:
    nothing = {"ndim": 7, "optional": True, "lr": None, "freeze": None, "optimizer": None, "scheduler": None}
    values = with_entries(default, {"a": nothing})
    assert not mistakes(values)
    assert not refusals(values)


def test_a_rate_for_all_schedules_together(default: dict[str, Any]) -> None:
    """The run's scheduler says how it goes on, and one of an entry where that has no metric."""
    entries = {"a": {"ndim": 1, "scheduler": PLATEAU | {"metric": "val/loss"}}}
    assert not mistakes(with_entries(default, entries, scheduler=COSINE))
    [told_] = mistakes(with_entries(default, entries, scheduler=PLATEAU | {"metric": "train/loss"}))
    assert told_.what.startswith("'val/loss' is not 'train/loss'")
    entries = {"a": {"ndim": 1, "scheduler": COSINE | {"interval": "epoch"}}}
    [told_] = mistakes(with_entries(default, entries, scheduler=COSINE))
    assert told_.key == "optimizer.param_groups.a.scheduler.interval"
    assert not mistakes(with_entries(default, entries, scheduler=COSINE | {"interval": "epoch"}))
    entries["a"]["scheduler"] = COSINE
    assert not mistakes(with_entries(default, entries, scheduler=COSINE | {"interval": "epoch"}))


# Structure -> key below model.structure: what is said of it.
STRUCTURES: list[tuple[Any, dict[str, str]]] = [
    (3, {"": "3 is not allowed; allowed: a mapping of head and depth"}),
    ({"haed": "x"}, {".haed": "unknown key; did you mean model.structure.head?"}),
    ({"head": 3}, {".head": "3 is not allowed; allowed: a text or a list, each a text"}),
    ({"depth": "x"}, {".depth": "'x' is not allowed; allowed: a list"}),
    ({"head": "regex:("}, {".head": "'regex:(' is no regular expression"}),
    ({"depth": ["head.*", ["regex:["]]}, {".depth[1]": "'regex:[' is no regular expression"}),
    ({"head": ["haed.*", "head.*"]}, {".head": "'haed.*' is the name of no parameter; the model has"}),
    (
        {"depth": [r"regex:boddy\.(\d+)\..*", "head.*"]},
        {".depth[0]": "is the name of no parameter; the model has"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("structure", "expected"), STRUCTURES, ids=lambda x: str(x)[:60])
def test_wrong_structures(default: dict[str, Any], structure: Any, expected: dict[str, str]) -> None:
    values = deepcopy(default)
    values["model"]["structure"] = structure
    found = {x.key: x.what for x in mistakes(values) or refusals(values)}
    assert found.keys() == {f"model.structure{key}" for key in expected}
    for key, says in expected.items():
        assert says in found[f"model.structure{key}"]


def test_numbered_layers_may_be_none(default: dict[str, Any]) -> None:
    values = deepcopy(default)
    values["model"]["hidden"] = []
    assert not refusals(values)


def test_a_model_without_a_structure(default: dict[str, Any]) -> None:
    """It does where nobody asks for its head or its layers; else it is said where to give them."""
    values = with_entries(default, {"a": {"ndim": 1}, "b": {"any": [{"kind": ["head"]}], "layer_decay": 0.5}})
    del values["model"]["structure"]
    found = {x.key: x.what for x in mistakes(values)}
    assert found.keys() == {"optimizer.param_groups.b", "optimizer.param_groups.b.layer_decay"}
    assert "say what it is in model.structure.head" in found["optimizer.param_groups.b"]
    assert "say what they are in model.structure.depth" in found["optimizer.param_groups.b.layer_decay"]
    del values["optimizer"]["param_groups"]["b"]
    assert not mistakes(values)
    assert not refusals(values)


@pytest.mark.parametrize("choice", CHOICES)
def test_ready_made_entries_let_everything_be_overridden(choice: str) -> None:
    file = ROOT / "configs" / "optimizer" / "param_groups" / f"{choice}.yaml"
    entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    entries.pop("defaults", None)
    assert 1 <= len(entries) <= 2
    for entry in entries.values():
        assert entry.keys() >= OPEN
        assert entry["optional"] is True
        assert "weight_decay" in entry or choice == "sparse_embeddings"


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
@pytest.mark.parametrize("first", ["optimizer", "groups"])
def test_choices_stand_beside_any_optimizer_in_any_order(optimizer: str, first: str) -> None:
    words = [f"optimizer={optimizer}", "optimizer/param_groups=[no_decay_bias_norm,layer_decay]"]
    words = words if first == "optimizer" else words[::-1]
    [job] = [experiment(*words).job(x) for x in experiment(*words).jobs]
    assert job.values is not None
    assert not mistakes(job.values)
    entries = job.values["optimizer"]["param_groups"]
    assert [*entries] == ["no_decay", "layer_decay"]
    assert [x["layer_decay"] for x in entries.values()] == [0.75, 0.75]


def test_alone_no_layers_are_asked_for() -> None:
    assert config_of("optimizer/param_groups=backbone_head").optimizer.param_groups.head.layer_decay is None


# Command line -> the lines that are told.
LINES: list[tuple[list[str], list[str]]] = [
    (
        ["optimizer/param_groups=[no_decay_bias_norn,muon]", "optimizer.param_groups.x.lr=1", "seed=-1"],
        ["optimizer/param_groups: 'no_decay_bias_norn' is no choice; did you mean no_decay_", "seed: -1"],
    ),
    (["optimizer=param_groups/muon"], ["optimizer: 'param_groups/muon' is no choice (choices: adadelta,"]),
    (
        ["optimizer/param_groups=backbone_head", "optimizer.param_groups.hed.lr=1"],
        ["optimizer.param_groups.hed.lr: unknown key; did you mean optimizer.param_groups.head?"],
    ),
    (
        ["optimizer/param_groups=backbone_head", "optimizer.param_groups.head.lr=-1"],
        ["optimizer.param_groups.head.lr: -1 is not allowed; allowed: a number greater than or equal to 0 "
         "[command line: optimizer.param_groups.head.lr=-1]"],
    ),
    (["optimizer.strict=true"], ["optimizer.strict: unknown key"]),
    (["+optimizer.strict=true"], ["optimizer.param_groups: no entry takes body.1.weight, body.1.bias,"]),
    # Whatever else is wrong, what entries take is told; nothing is told twice.
    (
        ["optimizer.lrr=3", "+optimizer.param_groups.a={params: haed.*}"],
        ["optimizer.lrr: unknown key", f"{GROUPS}.a: takes no parameter: nothing is called so"],
    ),
    (
        ["+optimizer.param_groups.a={params: haed.*}", "+optimizer.param_groups.b={params: '*', lrr: 1}",
         "+optimizer.param_groups.c={ndim: x}", "+optimizer.param_groups.d={ndim: 7, unfreeze_at: 1 epochs}"],
        [f"{GROUPS}.c.ndim: 'x' is not", f"{GROUPS}.b.lrr: unknown key", f"{GROUPS}.a: takes no parameter",
         f"{GROUPS}.d: takes no parameter: it fits none of"],
    ),
    (
        ["trainer.epochs=0", "+optimizer.param_groups.a={params: haed.*, unfreeze_at: 5%}"],
        ["trainer.epochs: 0 is not allowed", f"{GROUPS}.a: takes no parameter"],
    ),
    (
        ["trainer.epochs=0", "+optimizer.param_groups.a={ndim: 1, unfreeze_at: 5%, foreach: true}"],
        [f"{GROUPS}.a.foreach: unknown key", "trainer.epochs: 0 is not allowed"],
    ),
    (
        ["trainer.epochs=0", "model=cnn", "optimizer/param_groups=muon", f"{GROUPS}.matrices.ndim=4",
         f"{GROUPS}.matrices.unfreeze_at=5%"],
        ["trainer.epochs: 0 is not allowed", f"{GROUPS}.matrices: Muon only supports 2D"],
    ),
    (
        ["optimizer/param_groups=mien", "+optimizer.strict=true"],
        ["optimizer/param_groups: 'mien' is no choice"],
    ),
    (
        ["~model.structure", "optimizer/param_groups=backbone_head"],
        [f"{GROUPS}.backbone: the head is asked for", f"{GROUPS}.head: the head is asked for"],
    ),
    # Of what an algorithm refuses, the entry is told.
    (
        ["model=cnn", "optimizer/param_groups=muon", f"{GROUPS}.matrices.ndim=4"],
        [f"{GROUPS}.matrices: Muon only supports 2D"],
    ),
    (
        [f"+{GROUPS}.a={{kind: head, optimizer: {{_target_: optim_cli.optim.LBFGS}}}}"],
        [f"{GROUPS}.a.optimizer: LBFGS evaluates a closure in its step, so that no other can step beside it "
         f"[command line: +{GROUPS}.a="],
    ),
    (
        ["optimizer/param_groups=muon", f"+{GROUPS}.matrices.implementation=fused"],
        [f"{GROUPS}.matrices: Muon has no fused execution"],
    ),
    (["optimizer/param_groups=[]"], []),
    (["optimizer/param_groups=[backbone_head]", "~optimizer.param_groups.head"], []),
    (['+optimizer.param_groups.mine={params: "*.bias", weight_decay: 0.0}'], []),
    (
        ["+scheduler@optimizer.param_groups.head.scheduler=cosine", "optimizer/param_groups=backbone_head"],
        [],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), LINES, ids=lambda x: " ".join(x)[:60])
def test_command_lines(words: list[str], expected: list[str]) -> None:
    found = told(*words)
    assert len(found) == len(expected), found
    for line, says in zip(found, expected, strict=True):
        assert line.startswith(says), line


def test_sweeps_over_choices_and_values() -> None:
    words = ("optimizer/param_groups=[],backbone_head", "optimizer=adamw,sgd")
    assert not told(*words, several=True)
    line = experiment(*words, several=True)
    found = [line.job(x).values for x in line.jobs]
    assert [len(x["optimizer"].get("param_groups", {})) for x in found if x] == [0, 0, 2, 2]
    every = "optimizer=glob(*,exclude=[muon,sparse_adam])"
    assert not told(every, several=True)
    files = {x.stem for x in (ROOT / "configs" / "optimizer").glob("*.yaml")}
    assert len(experiment(every, several=True).jobs) == len(files) - 2
    rates = ("optimizer/param_groups=backbone_head", "optimizer.param_groups.head.lr=1e-3,1e-2")
    assert len(experiment(*rates, several=True).jobs) == 2
    assert not told(*rates, several=True)


def test_a_recipe_and_files_of_ones_own(tmp_path: Path) -> None:
    own = write(
        tmp_path,
        {
            "optimizer/param_groups/mine.yaml": "# Mine.\nmine:\n  ndim: 1\n  lr: 0.5\n",
            "recipe/good.yaml": "defaults:\n  - override /optimizer/param_groups: [mine, backbone_head]\n",
            "recipe/misspelled.yaml": "defaults:\n  - override /optimizer/param_groups: [mien]\n",
            "recipe/wrong.yaml": "optimizer:\n  param_groups:\n    x:\n      ndim: 1\n      lrr: 1\n",
            "recipe/reads.yaml": "optimizer:\n  param_groups:\n    x: {ndim: 1, lr: '${oc.env:HOME}'}\n",
            "recipe/calls.yaml": "optimizer:\n  param_groups:\n    x:\n      ndim: 1\n"
            "      optimizer: {_target_: os.abort}\n",
        },
    )
    assert not told("recipe=good", own=own)
    [line] = told("recipe=misspelled", own=own)
    assert "optimizer/param_groups: 'mien' is no choice; did you mean mine?" in line
    assert line.endswith("misspelled.yaml:2]")
    [line] = told("recipe=wrong", own=own)
    assert line.startswith("optimizer.param_groups.x.lrr: unknown key")
    assert line.endswith("wrong.yaml:5]")
    [line] = [x for x in told("recipe=reads", own=own) if "a recipe may refer to other keys" in x]
    assert line.startswith("optimizer.param_groups.x.lr: '${oc.env:HOME}'")
    [line] = told("recipe=calls", own=own)
    assert line.startswith("optimizer.param_groups.x.optimizer._target_: 'os.abort' may not be called")


def test_beside_an_earlier_run(tmp_path: Path) -> None:
    """Entries neither come nor go with the optimizer."""
    values = resolve(config_of("optimizer/param_groups=backbone_head", "optimizer.param_groups.head.lr=0.5"))
    write(tmp_path, {"config.yaml": yaml.safe_dump(values)})

    def again(*words: str) -> dict[str, Any]:
        line = experiment(f"rerun={tmp_path}", *words)
        found = line.job(line.jobs[0])
        assert found.values is not None
        assert not found.mistakes
        optimizer: dict[str, Any] = found.values["optimizer"]
        return optimizer

    assert again() == values["optimizer"]
    other = again("optimizer=sgd", "optimizer.param_groups.head.lr=0.25")
    assert other["_target_"] == "optim_cli.optim.SGD"
    assert [x["lr"] for x in other["param_groups"].values()] == [None, 0.25]
    other = again("optimizer/param_groups=no_decay_bias_norm")
    assert [*other["param_groups"]] == ["no_decay"]
    assert other["lr"] == values["optimizer"]["lr"]
    assert again("optimizer/param_groups=[]")["param_groups"] == {}
