"""ReduceLROnPlateau against torch's, for sampled configurations and metrics."""

from __future__ import annotations

import random
from math import inf, nan
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from optim_cli import optim
from optim_cli.optim import lr_scheduler as ours
from tests.optim.lr_scheduler.sampling import Options, Pair, optimizer_of, rates_of, values_of


def drawn(g: random.Random) -> Pair:
    rates = rates_of(g)
    options: Options = {
        "mode": g.choice(["min", "max"]),
        "factor": g.uniform(0.1, 0.9),
        "patience": g.randint(0, 4),
        "threshold": g.choice([0.0, 1e-4, 0.1]),
        "threshold_mode": g.choice(["rel", "abs"]),
        "cooldown": g.randint(0, 3),
        "min_lr": g.choice([0, 1e-3, [g.uniform(0, 0.1) for _ in rates]]),
        "eps": g.choice([0.0, 1e-8, 1e-2]),
    }
    tensor = g.choice([None, None, torch.float64, torch.float32])
    print(rates, tensor, options)
    return Pair(lambda x, y: x.ReduceLROnPlateau(y, **options), rates, "SGD", tensor)


def metric(g: random.Random) -> Any:
    value = g.choice([g.uniform(-1, 1), 0.5, g.choice([inf, -inf, nan])])
    return torch.tensor(value) if g.random() < 0.2 else value


def step(pair: Pair, value: Any) -> None:
    for schedule in pair.schedules:
        schedule.step(value)


def test_same_values_at_every_step(seed: int) -> None:
    g = random.Random(seed)
    for _ in range(200):
        pair = drawn(g)
        for _ in range(25):
            if g.random() < 0.05:
                pair.scale(g.uniform(0.1, 3))
            step(pair, metric(g))
            pair.check()
            left, right = pair.schedules
            for name in ("last_epoch", "num_bad_epochs", "cooldown_counter", "in_cooldown", "best"):
                assert getattr(left, name) == getattr(right, name) or getattr(left, name) != getattr(
                    left, name
                )


def test_states_go_both_ways(seed: int) -> None:
    g = random.Random(seed)
    for _ in range(40):
        pair = drawn(g)
        for _ in range(g.randrange(20)):
            step(pair, metric(g))
        optimizers, schedules = ([x.state_dict() for x in y] for y in (pair.optimizers, pair.schedules))
        assert set(schedules[0]) == set(schedules[1])
        for index, other in ((0, 1), (1, 0)):
            pair.optimizers[index].load_state_dict(optimizers[other])
            pair.schedules[index].load_state_dict(schedules[other])
        for _ in range(20):
            step(pair, metric(g))
            pair.check()


def test_a_group_that_is_added_later() -> None:
    for package, optimizers in ((ours, optim), (theirs, torch.optim)):
        for lowest in (0.05, [0.05]):
            optimizer = optimizer_of(optimizers, "SGD", [1.0])
            schedule = package.ReduceLROnPlateau(optimizer, patience=0, min_lr=lowest)
            optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.2})
            schedule.step(1.0)
            if isinstance(lowest, list):
                with pytest.raises(
                    RuntimeError, match=r"The number of param groups in the `optimizer` \(2\)"
                ):
                    schedule.step(1.0)
            else:
                schedule.step(1.0)
                assert values_of(optimizer)[::2] == pytest.approx([0.1, 0.05])


def test_another_hyperparameter() -> None:
    optimizer = optimizer_of(optim, "Adam", [1.0])
    schedule = ours.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, hyperparameter="betas.0")
    for _ in range(3):
        schedule.step(1.0)
    assert optimizer.param_groups[0]["betas"] == (0.9 / 4, 0.999)
    assert optimizer.param_groups[0]["lr"] == 1.0
    assert schedule.get_last_lr() == [0.9 / 4]


def test_a_jump_is_deprecated() -> None:
    schedule = ours.ReduceLROnPlateau(optimizer_of(optim, "SGD", [1.0]))
    with pytest.warns(UserWarning, match="epoch"):
        schedule.step(1.0, epoch=7)
    assert schedule.last_epoch == 7
