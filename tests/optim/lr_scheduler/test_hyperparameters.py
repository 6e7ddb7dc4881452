"""Schedules of other hyperparameters than the learning rate, and tables of all values."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from optim_cli import optim
from optim_cli.optim import lr_scheduler
from optim_cli.optim.lr_scheduler import place
from tests.optim.lr_scheduler.sampling import LONGEST, SIMPLE, close, make, optimizer_of, rates_of

CYCLING = ("CyclicLR", "OneCycleLR")


@pytest.mark.parametrize("name", SIMPLE)
def test_any_hyperparameter_goes_the_way_of_a_rate(name: str, seed: int) -> None:
    """The same numbers, wherever they lie: a rate, a number beside it, an item of a tuple, a tensor."""
    g = random.Random(seed)
    for _ in range(10):
        start = rates_of(g)
        options = SIMPLE[name](g, len(start)) | ({"cycle_momentum": False} if name in CYCLING else {})
        print(start, options)
        optimizer = optim.AdamW(
            [
                {
                    "params": [nn.Parameter(torch.ones(1))],
                    "lr": x,
                    "eps": x,
                    "betas": (0.5, x),
                    "weight_decay": torch.tensor(x, dtype=torch.float64),
                }
                for x in start
            ]
        )
        names = ("lr", "eps", "betas.1", "weight_decay")
        schedules = [make(lr_scheduler, name, optimizer, **options, hyperparameter=x) for x in names]
        optimizer.step()
        for _ in range(LONGEST if name != "OneCycleLR" else schedules[0].total_steps - 1):
            for schedule in schedules:
                schedule.step()
            held = [[float(place.read(group, x)) for group in optimizer.param_groups] for x in names]
            assert held[0] == held[1] == held[2]
            assert close(held[3], held[0])
            assert [group["betas"][0] for group in optimizer.param_groups] == [0.5] * len(start)
            assert [[float(x) for x in schedule.get_last_lr()] for schedule in schedules] == held


@pytest.mark.parametrize("name", SIMPLE)
def test_a_table_is_what_stepping_gives(name: str, seed: int) -> None:
    g = random.Random(seed)
    for _ in range(20):
        rates = rates_of(g)
        options = SIMPLE[name](g, len(rates))
        print(rates, options)
        algorithm, tensor = g.choice(["SGD", "Adam"]), g.choice([None, torch.float64])
        optimizer = optimizer_of(optim, algorithm, rates, tensor)
        schedule = make(lr_scheduler, name, optimizer, **options)
        steps = LONGEST if name != "OneCycleLR" else schedule.total_steps
        table = schedule.table(steps)
        momentum = "betas.0" if algorithm == "Adam" else "momentum"
        assert set(table) == {"lr"} | ({momentum} if options.get("cycle_momentum") else set())
        optimizer.step()
        for t in range(steps):
            for key, values in table.items():
                assert values.shape == (steps, len(rates))
                assert values.dtype == torch.float64
                held = [float(place.read(group, key)) for group in optimizer.param_groups]
                assert close(held, values[t].tolist())
            if t + 1 < steps:
                schedule.step()


def test_a_table_changes_nothing() -> None:
    optimizer = optimizer_of(optim, "SGD", [0.1])
    schedule = lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    schedule.step()
    before = schedule.state_dict() | {"groups": dict(optimizer.param_groups[0])}
    assert schedule.table(3)["lr"].flatten().tolist() == pytest.approx([0.1, 0.05, 0.025])
    assert schedule.state_dict() | {"groups": dict(optimizer.param_groups[0])} == before


def test_several_hyperparameters_in_a_chain() -> None:
    optimizer = optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0, weight_decay=0.1)
    schedule = lr_scheduler.ChainedScheduler(
        [
            lr_scheduler.ExponentialLR(optimizer, 0.5),
            lr_scheduler.ExponentialLR(optimizer, 0.1, hyperparameter="weight_decay"),
            lr_scheduler.ConstantLR(optimizer, 0.5, total_iters=2),
        ]
    )
    table = schedule.table(3)
    assert table["lr"].flatten().tolist() == pytest.approx([0.5, 0.25, 0.25])
    assert table["weight_decay"].flatten().tolist() == pytest.approx([0.1, 0.01, 0.001])
    optimizer.step()
    schedule.step()
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == pytest.approx((0.25, 0.01))
    assert schedule.get_last_lr() == pytest.approx([0.25])


@pytest.mark.parametrize("name", ["weight_decy", "betas", "betas.2", "amsgrad", "params", ""])
def test_an_unknown_hyperparameter_names_those_there_are(name: str) -> None:
    optimizer = optimizer_of(optim, "AdamW", [0.1])
    with pytest.raises(
        ValueError, match=r"is not one of AdamW's; it has lr, betas.0, betas.1, eps, weight_decay"
    ):
        lr_scheduler.ExponentialLR(optimizer, 0.5, hyperparameter=name)


def test_resuming_wants_the_initial_values() -> None:
    optimizer = optimizer_of(optim, "SGD", [0.1])
    with pytest.raises(KeyError, match=r"'initial_momentum' is not specified in param_groups\[0\]"):
        lr_scheduler.ExponentialLR(optimizer, 0.5, last_epoch=3, hyperparameter="momentum")


def test_tensors_keep_their_identity() -> None:
    """What was captured in a graph goes on reading the same memory."""
    held = torch.tensor(0.5)
    optimizer = optim.AdamW([nn.Parameter(torch.ones(1))], betas=(held, torch.tensor(0.999)))
    schedule = lr_scheduler.LinearLR(optimizer, 0.5, total_iters=2, hyperparameter="betas.0")
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["betas"][0] is held
    assert float(held) == 0.375
    assert [x is not held for x in schedule.get_last_lr()] == [True]
