"""From YAML to parameter groups: the examples of torch.optim, several algorithms, and what a run shows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from optim_cli.assemble import assemble, resolve
from optim_cli.errors import ConfigError
from optim_cli.optim.algorithms.adamw import AdamW
from optim_cli.optim.algorithms.muon import Muon
from optim_cli.optim.algorithms.sparse_adam import SparseAdam
from optim_cli.optim.lr_scheduler.groupwise import GroupwiseLR
from optim_cli.optim.lr_scheduler.onecycle import OneCycleLR
from optim_cli.optim.multi import MultiOptimizer
from optim_cli.run import plan
from optim_cli.training.loop import Training
from tests.experiments import SMALL, config_of, train
from tests.results import lines_of

OURS = "optim_cli.optim.lr_scheduler."
# What the header says of the ready-made entry: all that AdamW has otherwise.
MUON = "Muon, lr 0.02, weight_decay 0.1, eps 1e-07, adjust_lr_fn original"


def any_adamw(params: Any, **options: Any) -> AdamW:
    """An algorithm that does not say which options it has."""
    return AdamW(params, **options)


def parts_of(*overrides: str) -> Training:
    return assemble(resolve(config_of(*overrides)), torch.device("cpu"))


def names_in(training: Training) -> dict[str, list[str]]:
    """Parameter group -> names of its parameters."""
    called = {p: name for name, p in training.model.named_parameters()}
    return {x["name"]: [called[p] for p in x["params"]] for x in training.optimizer.param_groups}


def like(group: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a group holds the same parameters and values as one of torch's."""
    same = [id(x) for x in group["params"]] == [id(x) for x in other["params"]]
    left_out = ("params", "foreach", "fused")
    return same and all(group[key] == value for key, value in other.items() if key not in left_out)


def test_biases_without_decay_as_in_the_documentation_of_torch() -> None:
    training = parts_of("recipe=digits/torch_bias_decay")
    model = training.model
    bias_params = [p for name, p in model.named_parameters() if "bias" in name]
    others = [p for name, p in model.named_parameters() if "bias" not in name]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": bias_params, "weight_decay": 0}]
    by_hand = torch.optim.SGD(groups, weight_decay=1e-2, lr=1e-2)
    assert [x["name"] for x in training.optimizer.param_groups] == ["others", "bias"]
    assert all(map(like, training.optimizer.param_groups, by_hand.param_groups))
    assert len(training.optimizer.param_groups) == len(by_hand.param_groups)


def test_a_rate_for_the_backbone_as_in_the_documentation_of_torch() -> None:
    training = parts_of("recipe=digits/torch_per_parameter")
    base, classifier = (getattr(training.model, x) for x in ("body", "head"))
    groups: list[dict[str, Any]] = [
        {"params": base.parameters(), "lr": 1e-2},
        {"params": classifier.parameters()},
    ]
    by_hand = torch.optim.SGD(groups, lr=1e-3, momentum=0.9)
    assert [x["name"] for x in training.optimizer.param_groups] == ["backbone", "head"]
    assert all(map(like, training.optimizer.param_groups, by_hand.param_groups))
    assert len(training.optimizer.param_groups) == len(by_hand.param_groups)


def test_without_entries_it_is_as_it_was() -> None:
    [group] = parts_of("optimizer/param_groups=[]").optimizer.param_groups
    assert "name" not in group


def test_several_algorithms() -> None:
    training = parts_of(
        "optimizer/param_groups=muon", "optimizer.param_groups.matrices.lr=0.5", "scheduler=none"
    )
    assert isinstance(training.optimizer, MultiOptimizer)
    assert {type(x) for x in training.optimizer.optimizers} == {Muon, AdamW}
    assert names_in(training) == {
        "matrices": ["body.1.weight", "body.3.weight"],
        "rest": ["body.1.bias", "body.3.bias", "head.weight", "head.bias"],
    }
    assert {x["name"]: x["lr"] for x in training.optimizer.param_groups} == {"matrices": 0.5, "rest": 3e-3}


def test_sparse_gradients_go_to_those_that_take_them() -> None:
    texts = ("model=bag_of_words", "dataset=python_reference")
    training = parts_of(*texts, "optimizer/param_groups=sparse_embeddings")
    assert isinstance(training.optimizer, SparseAdam)
    with pytest.raises(
        ConfigError, match=r"^optimizer: AdamW takes no sparse gradients, .*head.weight|BagOfWords"
    ):
        parts_of(*texts)
    with pytest.raises(
        ConfigError, match=r"^optimizer.param_groups.embeddings: SparseAdam takes sparse gradients"
    ):
        parts_of(*texts, "optimizer/param_groups=sparse_embeddings", "model.sparse=false")


def test_layers_have_rates_that_fall_towards_the_input() -> None:
    words = ("model=vit", "optimizer/param_groups=[no_decay_bias_norm,layer_decay]", "scheduler=none")
    training = parts_of(*words, "optimizer.param_groups.layer_decay.layer_decay=0.5", "optimizer.lr=1")
    rates = {x["name"]: x["lr"] for x in training.optimizer.param_groups}
    assert rates["layer_decay.5"] == rates["no_decay.5"] == 1
    own = [rates[f"layer_decay.{i}"] for i in range(6)]
    assert all(lower == higher / 2 for lower, higher in pairwise(own))
    decays = {x["name"]: x["weight_decay"] for x in training.optimizer.param_groups}
    assert {name.partition(".")[0]: decay for name, decay in decays.items()} == {
        "no_decay": 0,
        "layer_decay": 0.01,
    }


def test_schedules_of_entries_stand_beside_that_of_the_run() -> None:
    words = (
        *("optimizer/param_groups=[no_decay_bias_norm,backbone_head]", "scheduler=onecycle"),
        f"optimizer.param_groups.head.scheduler={{_target_: {OURS}LinearLR, total_iters: 10%}}",
        "optimizer.param_groups.no_decay.scheduler={}",
    )
    training = parts_of(*words)
    assert isinstance(training.scheduler, GroupwiseLR)
    rates = []
    for _ in range(50):
        rates.append([x["lr"] for x in training.optimizer.param_groups])
        training.optimizer.step()
        training.scheduler.step()
    no_decay, backbone, head = map(list, zip(*rates, strict=True))
    assert set(no_decay) == {3e-3}
    assert head[0] == pytest.approx(1e-3)
    assert head[42:] == pytest.approx([3e-3] * 8)
    alone = OneCycleLR(torch.optim.AdamW([torch.zeros(1)], lr=3e-4), 3e-4, 420)
    assert backbone == pytest.approx([alone.table(420)["lr"][i, 0].item() for i in range(50)])


def test_a_resumed_run_keeps_its_plan(tmp_path: Path) -> None:
    words = (
        *(*SMALL, "scheduler=none", "optimizer/param_groups=backbone_head"),
        f"optimizer.param_groups.head.scheduler={{_target_: {OURS}CosineAnnealingLR}}",
        "optimizer.param_groups.backbone.unfreeze_at=50%",
    )
    train(tmp_path, *words)
    with pytest.raises(ConfigError) as refused:
        train(tmp_path, *words, "trainer.epochs=3", resume=True)
    lines = str(refused.value).splitlines()
    assert [x.partition(": ")[0] for x in lines] == [
        "optimizer.param_groups.backbone.unfreeze_at",
        "optimizer.param_groups.head.scheduler.T_max",
    ]
    assert "it was planned for 21 and cannot be planned anew for 31" in lines[0]


def test_what_a_run_shows(tmp_path: Path) -> None:
    """The header and the metrics."""
    words = (
        *("optimizer/param_groups=[muon,backbone_head]", "optimizer.param_groups.backbone.unfreeze_at=5"),
        *("optimizer.param_groups.head.scheduler={}", "+optimizer.param_groups.head.weight_decay=0.5"),
        *("scheduler=cosine", "+optimizer.param_groups.last={ndim: 9, optional: true}"),
    )
    done = train(tmp_path, *SMALL, *words)
    shown = done.output.splitlines()
    assert "optimizer: Muon and AdamW, lr 0.003" in shown
    assert "schedule: CosineAnnealingLR; head: constant" in shown
    assert [x for x in shown if x.startswith("group ")] == [
        f"group matrices: ndim 2, not kind embedding or head; 1 tensor, 1,024 parameters; {MUON}",
        "group backbone: not kind head; 1 tensor, 16 parameters; lr 0.0003, frozen to step 5",
        "group head: kind head; 2 tensors, 170 parameters; weight_decay 0.5, constant",
        "group last: ndim 9; takes nothing",
    ]
    first = lines_of(tmp_path)[0]
    rates = {name: rate for name, rate in first.items() if name.startswith("lr")}
    assert [*rates] == ["lr", "lr/matrices", "lr/backbone", "lr/head"]
    assert rates["lr"] == rates["lr/matrices"] < 0.02
    assert rates["lr/head"] == 3e-3
    assert (tmp_path / "curves.png").is_file()


# Command line -> what the header says of the optimizer, then the groups with their values.
HEADERS: list[tuple[tuple[str, ...], str, list[str]]] = [
    (("scheduler=onecycle",), "AdamW, lr 0.003", []),
    (("recipe=digits/torch_per_parameter",), "SGD, lr 0.001", ["backbone: lr 0.01", "head: "]),
    (("+optimizer.param_groups.all={params: '*', lr: 0.5}",), "AdamW", ["all: lr 0.5"]),
    (
        ("optimizer/param_groups=layer_decay", "scheduler=cyclic", "scheduler.max_lr=[0.1,0.2]"),
        "AdamW, lr 0.003",
        ["layer_decay.0: lr 0.00225", "layer_decay.1: "],
    ),
    (
        (
            "optimizer/param_groups=layer_decay",
            "optimizer.param_groups.layer_decay.lr=1",
            "optimizer.param_groups.layer_decay.unfreeze_at=3",
            "+optimizer.param_groups.layer_decay.not={kind: head}",
            "optimizer.param_groups.layer_decay.params=null",
        ),
        "AdamW, lr 0.003",
        ["layer_decay.0: lr 0.75, frozen to step 3", "rest: "],
    ),
    (
        ("optimizer/param_groups=muon", "+optimizer.param_groups.others={params: '*', freeze: true}"),
        "Muon",
        [f"matrices: {MUON}", "others: frozen"],
    ),
    (
        ("~optimizer.lr", "optimizer/param_groups=backbone_head"),
        "AdamW",
        ["backbone: lr 0.0001", "head: "],
    ),
    (
        (
            *("plugins=[tests]", "optimizer._target_=tests.test_groups.any_adamw", "~optimizer.lr"),
            "+optimizer.param_groups.head={kind: head, lr_scale: 0.1}",
        ),
        "AdamW",
        ["head: lr_scale 0.1", "rest: "],
    ),
    (
        (
            "+optimizer.param_groups.head={kind: head, lr_scale: 0.5, optimizer: {_target_: "
            "optim_cli.optim.AdamW, lr: 0.02, weight_decay: 0.5, betas: [0.5, 0.999], eps: 1e-8}}",
            "+optimizer.param_groups.others={params: '*', weight_decay: 0.01, optimizer: {_target_: "
            "optim_cli.optim.SGD, momentum: 0.9}}",
        ),
        "AdamW and SGD",
        ["head: AdamW, lr 0.01, betas [0.5, 0.999], weight_decay 0.5", "others: SGD, lr 0.001, momentum 0.9"],
    ),
    (
        ("model=logistic", "optimizer/param_groups=muon"),
        "AdamW, lr 0.003",
        ["matrices: takes nothing", "rest: "],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("words", "optimizer", "groups"), HEADERS, ids=lambda x: str(x)[:60])
def test_the_header_has_rates_as_they_are_given(
    words: tuple[str, ...], optimizer: str, groups: list[str]
) -> None:
    """Whatever the schedule has made of them already."""
    hidden = () if "model=logistic" in words else ("model.hidden=[8]",)
    values = resolve(config_of(*words, *hidden))
    shown = plan(assemble(values, torch.device("cpu")), values, {"model": "mlp", "dataset": "digits"})
    assert shown.optimizer == optimizer
    said = [x.values if x.tensors else "takes nothing" for x in shown.groups]
    assert [f"{x.name}: {values}" for x, values in zip(shown.groups, said, strict=True)] == groups


def test_schedules_of_groups_in_words() -> None:
    def in_header(*words: str) -> str:
        values = resolve(config_of("optimizer/param_groups=backbone_head", *words))
        training = assemble(values, torch.device("cpu"))
        return plan(training, values, {"model": "mlp", "dataset": "digits"}).schedule

    cosine = f"{{_target_: {OURS}CosineAnnealingLR}}"
    head = f"optimizer.param_groups.head.scheduler={cosine}"
    assert in_header(head, "scheduler=onecycle") == "OneCycleLR; head: CosineAnnealingLR"
    assert in_header(head, "scheduler=none") == "constant; head: CosineAnnealingLR"
    backbone = f"optimizer.param_groups.backbone.scheduler={{chain: [{cosine}]}}"
    layers = ("optimizer.param_groups.backbone.layer_decay=0.5", backbone)
    assert in_header(head, *layers) == "backbone: CosineAnnealingLR; head: CosineAnnealingLR"
    swa = ("averaging=swa", "averaging.swa_lr=[0.1,0.1]")
    assert in_header(head, *swa) == "(OneCycleLR; head: CosineAnnealingLR), then SWALR"
    assert in_header("optimizer.param_groups.head.scheduler={}", "scheduler=none") == "constant learning rate"
