"""Groups that differ: in what hyperparameters they have, in their momentum, in their own rate."""

from __future__ import annotations

from math import isnan
from typing import Any

import pytest
import torch
from torch import nn

from optim_cli import optim
from optim_cli.optim import lr_scheduler as ours
from optim_cli.optim.lr_scheduler.device_table import DeviceTable
from tests.optim.lr_scheduler.mixing import numbers_of, optimizer_of
from tests.optim.lr_scheduler.sampling import optimizer_of as uniform


def test_what_only_some_groups_have() -> None:
    """The others are left alone, in steps and in tables, and NaN is told for them."""
    optimizer = optimizer_of(("AdamW", "SGD", "SGD"), (0.1, 0.2, 0.3))
    schedule = ours.ExponentialLR(optimizer, 0.5, hyperparameter="momentum")
    before = {x: y for x, y in optimizer.param_groups[0].items() if x != "params"}
    optimizer.step()
    schedule.step()
    assert [x.get("momentum") for x in optimizer.param_groups] == [None, 0.35, 0.35]
    assert {x: y for x, y in optimizer.param_groups[0].items() if x != "params"} == before
    lacking, *there = schedule.get_last_lr()
    assert isnan(lacking)
    assert there == [0.35, 0.35]
    table = schedule.table(2)["momentum"]
    assert table[:, 1:].tolist() == [[0.7, 0.7], [0.35, 0.35]]
    assert table[:, 0].isnan().all()


def test_a_number_here_and_a_tuple_there() -> None:
    optimizer = optimizer_of(("AdamW", "Adafactor"), (0.1, 0.2))
    left, right = optimizer.param_groups
    schedules = [ours.ExponentialLR(optimizer, 0.5, hyperparameter=x) for x in ("eps", "eps.1")]
    optimizer.step()
    for schedule in schedules:
        schedule.step()
    assert (left["eps"], right["eps"]) == (0.5e-8, (None, 0.5e-3))


def test_numbers_in_tensors_beside_groups_without() -> None:
    optimizer = optimizer_of(("AdamW", "SGD"), (0.1, 0.2))
    held = torch.tensor(0.8, dtype=torch.float64)
    optimizer.param_groups[1]["momentum"] = held
    schedule = ours.ExponentialLR(optimizer, 0.5, hyperparameter="momentum")
    table = DeviceTable(schedule, 3)
    table.step()
    assert optimizer.param_groups[1]["momentum"] is held
    assert float(held) == 0.4
    optimizer.step()
    schedule.step()
    assert float(held) == 0.2
    assert "momentum" not in optimizer.param_groups[0]


def test_resuming_asks_only_groups_that_have_it() -> None:
    optimizer = optimizer_of(("AdamW", "SGD"), (0.1, 0.2))
    with pytest.raises(KeyError, match=r"'initial_momentum' is not specified in param_groups\[1\]"):
        ours.ExponentialLR(optimizer, 0.5, 3, hyperparameter="momentum")


@pytest.mark.parametrize(
    "make",
    [
        lambda x: ours.OneCycleLR(x, total_steps=9, base_momentum=0.5, max_momentum=0.75, pct_start=0.5),
        lambda x: ours.CyclicLR(x, 0.0, None, 4, base_momentum=0.5, max_momentum=0.75),
    ],
)
def test_each_group_cycles_its_own_momentum(make: Any) -> None:
    """Beta1, a momentum, or nothing: as in an optimizer of its own."""
    kinds, rates = ("AdamW", "SGD", "Adagrad"), (0.1, 0.2, 0.3)
    together = optimizer_of(kinds, rates)
    alone = [optimizer_of([kind], [rate]) for kind, rate in zip(kinds, rates, strict=True)]
    schedules = [make(x) for x in (together, *alone)]
    table = schedules[0].table(8)
    assert set(table) == {"lr", "betas.0", "momentum"}
    resumed = optimizer_of(kinds, rates)
    again = make(resumed)
    for x in (together, resumed, *alone):
        x.step()
    for t in range(8):
        kept = [numbers_of(x) for x in together.param_groups]
        assert kept == [numbers_of(x.param_groups[0]) for x in alone]
        assert table["betas.0"][t, 0] == kept[0]["betas"][0]
        assert table["momentum"][t, 1] == kept[1]["momentum"]
        assert table["momentum"][t].isnan().tolist() == [True, False, True]
        if t == 3:
            resumed.load_state_dict(together.state_dict())
            again.load_state_dict(schedules[0].state_dict())
        if t >= 3:
            assert [numbers_of(x) for x in resumed.param_groups] == kept
            again.step()
        for schedule in schedules:
            schedule.step()
    assert table["betas.0"][:, 0].min() < 0.6


@pytest.mark.parametrize(
    "cycle",
    [
        lambda x: ours.OneCycleLR(x, total_steps=9, hyperparameter="momentum"),
        lambda x: ours.CyclicLR(x, 0.1, None, 4, hyperparameter="momentum"),
    ],
)
def test_a_cycle_of_a_momentum_leaves_one_that_goes_along_with_the_rate(cycle: Any) -> None:
    """Both keep their values in the groups."""
    kinds, rates = ("AdamW", "SGD"), (0.1, 0.2)
    together = optimizer_of(kinds, rates)
    rate = ours.OneCycleLR(together, total_steps=9)
    both = ours.ChainedScheduler([rate, cycle(together)], together)
    alone = ours.OneCycleLR(optimizer_of(kinds, rates), total_steps=9).table(9)
    table = both.table(9)
    assert table["betas.0"][:, 0].tolist() == alone["betas.0"][:, 0].tolist()
    assert not torch.allclose(table["momentum"][:, 1], alone["momentum"][:, 1])


@pytest.mark.parametrize("tensor", [None, torch.float64])
@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_no_highest_rate_is_each_groups_own(name: str, tensor: torch.dtype | None) -> None:
    """A deviation: torch wants `max_lr`. What is set is the same as with the rates themselves."""
    rates = [0.1, 0.7]
    options: dict[str, Any] = (
        {"total_steps": 9} if name == "OneCycleLR" else {"base_lr": 0.01, "step_size_up": 3}
    )
    sides = []
    for given in (None, rates):
        optimizer = uniform(optim, "AdamW", rates, tensor)
        sides.append((optimizer, getattr(ours, name)(optimizer, max_lr=given, **options)))
    seen = []
    for _ in range(8):
        left, right = ([(float(x["lr"]), x["betas"]) for x in y.param_groups] for y, _ in sides)
        assert left == right
        seen.append(left[1][0])
        for optimizer, schedule in sides:
            optimizer.step()
            schedule.step()
    assert 0.5 < max(seen) <= 0.7


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_a_groups_own_rate_is_known_when_resuming(name: str) -> None:
    """What it starts from is another one by then."""
    options: dict[str, Any] = (
        {"total_steps": 9} if name == "OneCycleLR" else {"base_lr": 0.01, "step_size_up": 3}
    )
    left, right = (uniform(optim, "SGD", [0.5]) for _ in range(2))
    one = getattr(ours, name)(left, **options)
    left.step()
    one.step()
    with pytest.raises(KeyError, match="'initial_lr' is not specified"):
        getattr(ours, name)(right, **options, last_epoch=0)
    right.load_state_dict(left.state_dict())
    other = getattr(ours, name)(right, **options, last_epoch=one.last_epoch)
    right.step()
    for _ in range(4):
        one.step()
    for _ in range(3):
        other.step()
    assert left.param_groups[0]["lr"] == right.param_groups[0]["lr"]


def test_a_rate_that_is_set_before() -> None:
    """`initial_lr` is a group's own rate, where another schedule has begun already."""
    optimizer = optim.SGD([nn.Parameter(torch.ones(1))], lr=0.5)
    ours.ConstantLR(optimizer, 0.1)
    assert ours.OneCycleLR(optimizer, total_steps=9).table(9)["lr"].max() <= 0.5
    assert optimizer.param_groups[0]["max_lr"] == 0.5
