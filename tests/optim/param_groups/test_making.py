"""From entries to optimizers: options of groups, algorithms of their own, what is frozen."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli import optim
from optim_cli.optim.lr_scheduler import ExponentialLR, StepLR
from optim_cli.optim.param_groups import (
    Structure,
    Unfreezing,
    WrongGroups,
    make_optimizer,
    make_scheduler,
    split,
)
from optim_cli.optim.param_groups.making import Make
from tests.optim.param_groups.real_models import PERCEPTRON, mlp, resnet18


def made(
    model: nn.Module, entries: dict[str, Any], optimizer: Make, structure: Structure = PERCEPTRON
) -> torch.optim.Optimizer:
    return make_optimizer(split(model, entries, structure), optimizer)


def described(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The groups with names in the place of parameters."""
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def test_bias_example_of_torch_optim() -> None:
    """The groups that the documentation of torch.optim makes by hand."""
    model = resnet18()
    ours = made(
        model,
        {"others": {"not": {"kind": "bias"}}, "bias": {"kind": "bias", "weight_decay": 0}},
        partial(optim.SGD, weight_decay=1e-2, lr=1e-2),
    )
    bias = [x for x in model.named_parameters() if "bias" in x[0]]
    others = [x for x in model.named_parameters() if "bias" not in x[0]]
    groups: list[dict[str, Any]] = [
        {"params": others, "name": "others"},
        {"params": bias, "weight_decay": 0, "name": "bias"},
    ]
    by_hand = torch.optim.SGD(groups, weight_decay=1e-2, lr=1e-2)
    assert described(ours) == described(by_hand)
    for group, expected in zip(ours.param_groups, by_hand.param_groups, strict=True):
        assert [*map(id, group["params"])] == [*map(id, expected["params"])]


def test_base_and_classifier_example_of_torch_optim() -> None:
    model = mlp()
    ours = made(
        model,
        {"base": {"not": {"kind": "head"}, "lr": 1e-2}},
        partial(optim.SGD, lr=1e-3, momentum=0.9),
    )
    base, head = model.get_submodule("body"), model.get_submodule("head")
    groups: list[dict[str, Any]] = [
        {"params": base.named_parameters(prefix="body"), "lr": 1e-2, "name": "base"},
        {"params": head.named_parameters(prefix="head"), "name": "rest"},
    ]
    by_hand = torch.optim.SGD(groups, lr=1e-3, momentum=0.9)
    assert described(ours) == described(by_hand)


def test_options_of_entries() -> None:
    entries = {
        "first": {"params": "body.1.*", "betas": [0.8, 0.9], "implementation": "for_loop"},
        "second": {"params": "body.4.*", "lr_scale": 0.25, "amsgrad": None},
        "layers": {"params": "*", "layer_decay": 0.5, "lr": 0.8},
    }
    optimizer = made(mlp(), entries, partial(optim.AdamW, lr=0.4, eps=1e-6))
    groups = {x["name"]: x for x in optimizer.param_groups}
    assert isinstance(optimizer, optim.AdamW)
    assert groups["first"]["betas"] == (0.8, 0.9)
    assert groups["first"]["foreach"] is False
    assert groups["second"]["lr"] == 0.1
    # The depth is counted over the whole model.
    assert {name: x["lr"] for name, x in groups.items() if "layers" in name} == {
        "layers.2": 0.4,
        "layers.3": 0.8,
    }
    assert {x["eps"] for x in groups.values()} == {1e-6}


def test_one_algorithm_with_several_values_is_one_optimizer() -> None:
    entries = {
        "wide": {
            "params": "body.*",
            "optimizer": partial(optim.AdamW, lr=0.5, weight_decay=0.0),
            "lr_scale": 0.5,
        },
        "other": {"params": "head.bias", "optimizer": partial(optim.AdamW, amsgrad=True), "eps": 1e-3},
    }
    optimizer = made(mlp(), entries, partial(optim.AdamW, lr=0.1, weight_decay=0.2))
    assert type(optimizer) is optim.AdamW
    values = [[x[key] for key in ("lr", "weight_decay", "amsgrad", "eps")] for x in optimizer.param_groups]
    assert values == [[0.25, 0.0, False, 1e-8], [1e-3, 1e-2, True, 1e-3], [0.1, 0.2, False, 1e-8]]


@pytest.mark.parametrize("option", ["differentiable", "initial_accumulator_value"])
def test_what_an_optimizer_has_as_a_whole_parts_one_algorithm(option: str) -> None:
    """What a group says of it has no effect."""
    entries = {
        "a": {"params": "body.1.*", "optimizer": partial(optim.Adagrad, **{option: True})},
        "b": {"params": "body.4.*", "optimizer": partial(optim.Adagrad, lr=0.5)},
    }
    optimizer = made(mlp(), entries, optim.Adagrad)
    assert isinstance(optimizer, optim.MultiOptimizer)
    parts = [(bool(x.defaults[option]), len(x.param_groups)) for x in optimizer.optimizers]
    assert parts == [(True, 1), (False, 2)]


def test_several_algorithms_are_parts_of_one_optimizer(seed: int) -> None:
    torch.manual_seed(seed)
    model = mlp()
    entries = {
        "head": {"kind": "head", "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9)},
        "matrices": {"ndim": 2, "optimizer": partial(optim.Muon, lr=0.02), "weight_decay": 0.0},
    }
    optimizer = made(model, entries, partial(optim.AdamW, lr=1e-3))
    assert isinstance(optimizer, optim.MultiOptimizer)
    assert [type(x) for x in optimizer.optimizers] == [torch.optim.SGD, optim.Muon, optim.AdamW]
    assert [x["name"] for x in optimizer.param_groups] == ["head", "matrices", "rest"]
    assert [x["weight_decay"] for x in optimizer.param_groups] == [0, 0.0, 1e-2]
    before = [p.detach().clone() for p in model.parameters()]
    loss: Tensor = model(torch.randn(8, 1, 4, 4)).square().sum()
    loss.backward()
    optimizer.step()
    assert not any(map(torch.equal, before, model.parameters()))


def test_the_runs_own_algorithm_is_not_made_where_entries_take_all() -> None:
    entries = {
        "matrices": {"ndim": 2, "optimizer": optim.Muon},
        "others": {"params": "*", "optimizer": optim.AdamW},
    }
    optimizer = made(mlp(), entries, optim.LBFGS)
    assert isinstance(optimizer, optim.MultiOptimizer)
    assert [type(x) for x in optimizer.optimizers] == [optim.Muon, optim.AdamW]


def test_frozen_parameters_leave_and_those_for_later_wait() -> None:
    model = mlp()
    entries = {
        "never": {"params": "body.1.*", "freeze": True},
        "later": {"params": "body.4.*", "unfreeze_at": 3},
        "both": {"params": "body.7.*", "freeze": True, "unfreeze_at": 4},
        "head": {"kind": "head", "freeze": False},
    }
    optimizer = made(model, entries, optim.AdamW)
    assert [x["name"] for x in optimizer.param_groups] == ["later", "both", "head"]
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    assert not any({"freeze", "unfreeze_at"} & x.keys() for x in optimizer.param_groups)


def test_frozen_parameters_lose_the_gradient_that_they_have() -> None:
    model = mlp()
    first = model.get_parameter("body.1.weight")
    groups = split(model, {"later": {"params": "body.1.*", "unfreeze_at": 3}})
    first.grad = torch.ones_like(first)
    optimizer, before = make_optimizer(groups, optim.AdamW), first.detach().clone()
    optimizer.step()
    assert torch.equal(first, before)
    unfreezing = Unfreezing(groups)
    unfreezing.before_step(4)
    first.grad = torch.ones_like(first)
    unfreezing.before_step(1)
    assert first.grad is None


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        (
            {"a": {"ndim": 2, "wieght_decay": 0}},
            {"a.wieght_decay": r"AdamW has no such option; did you mean weight_decay\?"},
        ),
        ({"a": {"ndim": 2, "lr": -1.0}}, {"a.lr": r"Invalid learning rate: -1.0 \(lr must be >= 0\)"}),
        ({"a": {"ndim": 2, "betas": [0.9]}}, {"a.betas": "betas must be 2 numbers"}),
        (
            {
                "a": {"ndim": 2, "optimizer": optim.Muon, "betas": [0.9, 0.9]},
                "b": {"ndim": 1, "lr": float("nan")},
            },
            {"a.betas": "Muon has no such option", "b.lr": "Invalid learning rate: nan"},
        ),
        ({"a": {"ndim": 2, "optimizer": torch.optim.SGD, "alpha": 1}}, {"a.alpha": "SGD has no such option"}),
        (
            {
                "a": {"ndim": 1, "optimizer": optim.Rprop, "lr_scale": 0.5},
                "b": {"params": "*", "freeze": True},
            },
            {},
        ),
        ({"a": {"params": "*", "freeze": True}}, {"": "every parameter is frozen"}),
    ],
)
def test_options_that_an_algorithm_does_not_take(entries: dict[str, Any], told: dict[str, str]) -> None:
    if not told:
        assert made(mlp(), entries, optim.AdamW).param_groups[0]["lr"] == 0.005
        return
    with pytest.raises(WrongGroups) as refused:
        made(mlp(), entries, optim.AdamW)
    found = dict(refused.value.mistakes)
    assert found.keys() == told.keys()
    for key, what in told.items():
        assert re.search(what, found[key]), found[key]


def test_what_an_algorithm_refuses_of_parameters_is_told_as_it_says_it() -> None:
    with pytest.raises(ValueError, match=r"Muon only supports 2D parameters"):
        made(mlp(), {"all": {"params": "*", "optimizer": optim.Muon}}, optim.AdamW)


def test_a_refusal_leaves_the_model_as_it_was() -> None:
    model = mlp()
    entries = {"x": {"params": "body.1.*", "freeze": True}, "y": {"kind": "head", "lrr": 3}}
    with pytest.raises(WrongGroups, match=r"y\.lrr: AdamW has no such option"):
        made(model, entries, optim.AdamW)
    assert all(p.requires_grad for p in model.parameters())
    del entries["y"]["lrr"]
    made(model, entries, optim.AdamW)
    assert not model.get_parameter("body.1.weight").requires_grad


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"a": {"params": "*", "momentum": 0.0}}, {"a": "Nesterov momentum requires"}),
        ({"a": {"ndim": 2, "freeze": True, "lrr": 1}}, {"a.lrr": "SGD has no such option"}),
        ({"a": {"ndim": 2, "unfreeze_at": "3 epochs"}}, {"a.unfreeze_at": "'3 epochs' is not allowed"}),
        ({"a": {"ndim": 2, "implementation": "quick"}}, {"a": "Invalid implementation: 'quick'"}),
        ({"a": {"ndim": 2, "optimizer": partial(optim.AdamW, lr=-1)}}, {"a.optimizer": "Invalid learning"}),
        ({"a": {"ndim": 1, "optimizer": optim.Muon}}, {"a": "Muon only supports 2D"}),
        ({"a": {"ndim": 2, "optimizer": torch.optim.SGD, "lr": "x", "layer_decay": 0.5}}, {"a": "non-int"}),
        (
            {
                "a": {
                    "ndim": 2,
                    "optimizer": partial(optim.Muon, lr=1e300),
                    "lr_scale": 1e300,
                    "layer_decay": 1e-5,
                }
            },
            {"a": "its learning rate times 1e+285 is inf; lower lr or lr_scale"},
        ),
        ({"a": {"ndim": 2, "optimizer": optim.LBFGS}}, {"a.optimizer": "LBFGS evaluates a closure"}),
        ({"a": {"ndim": 2, "optimizer": optim.Muon, "implementation": "fused"}}, {"a": "has no fused"}),
    ],
)
def test_what_an_algorithm_refuses_is_told_of_the_entry(
    entries: dict[str, Any], told: dict[str, str]
) -> None:
    with pytest.raises(WrongGroups) as refused:
        made(mlp(), entries, partial(optim.SGD, lr=0.1, momentum=0.9, nesterov=True))
    found = dict(refused.value.mistakes)
    assert found.keys() == told.keys()
    assert all(what in found[key] for key, what in told.items()), found


def test_options_stay_with_their_entry() -> None:
    """Also those that torch lacks, and where the entry comes first."""
    entries = {"first": {"params": "body.*", "optimizer": partial(optim.Adagrad, lr=0.5, capturable=True)}}
    optimizer = made(mlp(), entries, partial(optim.Adagrad, lr=0.1))
    assert [bool(x.get("capturable")) for x in optimizer.param_groups] == [True, False]
    assert optimizer.defaults["lr"] == 0.1
    optimizer.add_param_group({"params": [("more", nn.Parameter(torch.zeros(2)))]})
    assert optimizer.param_groups[-1]["lr"] == 0.1


def test_schedules_of_entries_beside_that_of_the_others() -> None:
    entries: dict[str, dict[str, Any]] = {
        "still": {"params": "body.1.*", "scheduler": {}},
        "head": {"kind": "head", "scheduler": partial(StepLR, step_size=1, gamma=0.5)},
        "layers": {"ndim": 2, "layer_decay": 0.5, "scheduler": partial(ExponentialLR, gamma=0.1)},
    }
    model = mlp()
    groups = split(model, entries, PERCEPTRON)
    optimizer = make_optimizer(groups, partial(optim.SGD, lr=1.0))
    schedule = make_scheduler(groups, optimizer, partial(StepLR, step_size=1, gamma=0.9))
    assert schedule is not None
    optimizer.step()
    schedule.step()
    rates = {x["name"]: x["lr"] for x in optimizer.param_groups}
    assert rates == pytest.approx({"still": 1, "head": 0.5, "layers.1": 0.025, "layers.2": 0.05, "rest": 0.9})
    only_still = split(mlp(), {"still": entries["still"]})
    assert make_scheduler(only_still, make_optimizer(only_still, optim.SGD)) is None
    wrong = split(mlp(), {"a": {"ndim": 2, "scheduler": "cosine"}})
    with pytest.raises(WrongGroups, match=r"a\.scheduler: 'cosine' is not allowed; allowed: a function"):
        make_scheduler(wrong, make_optimizer(wrong, optim.SGD))


def test_what_is_wrong_with_several_entries_is_told_together() -> None:
    entries = {
        "a": {"params": "body.1.*", "optimizer": partial(optim.SGD, nesterov=True)},
        "b": {"params": "body.4.*", "optimizer": partial(optim.SGD, lr=-1)},
        "c": {"kind": "head", "lr": "x"},
        "d": {"params": "*", "optimizer": optim.Muon, "layer_decay": 0.5},
    }
    with pytest.raises(WrongGroups) as refused:
        made(mlp(), entries, optim.AdamW)
    assert [key for key, _ in refused.value.mistakes] == ["a.optimizer", "b.optimizer", "c.lr", "d"]


def test_options_of_an_entry_count_for_its_parameters() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(3, 2))
    optimizer = made(
        model, {"all": {"ndim": [2, 4], "flatten": True}, "not": {"ndim": 1, "freeze": True}}, optim.Muon
    )
    assert [x["name"] for x in optimizer.param_groups] == ["all"]


def test_schedules_want_the_optimizer_of_the_groups() -> None:
    model = mlp()
    groups = split(model, {"head": {"kind": "head", "scheduler": {}}}, PERCEPTRON)
    with pytest.raises(ValueError, match="called None, and the groups are head, rest; take the optimizer"):
        make_scheduler(groups, optim.AdamW(model.parameters()), partial(StepLR, step_size=1))
