"""Chains and sequences: of sampled parts against torch's, nested, with a plateau, and resumed."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from optim_cli import optim
from optim_cli.optim import lr_scheduler as ours
from tests.optim.lr_scheduler.sampling import (
    LONGEST,
    SIMPLE,
    Pair,
    close,
    make,
    optimizer_of,
    rates_of,
    values_of,
)

Build = Callable[[Any, Any], Any]


def part(g: random.Random, groups: int, among: list[str] | None = None) -> Build:
    """A sampled part that lasts as long as it is wanted."""
    name = g.choice(among or list(SIMPLE))
    options = SIMPLE[name](g, groups)
    if name == "OneCycleLR":
        options |= {"total_steps": 3 * LONGEST}
        options = {x: y for x, y in options.items() if x not in ("epochs", "steps_per_epoch")}
    print(name, options)
    return lambda package, optimizer: make(package, name, optimizer, **options)


def chain_or_sequence(g: random.Random, groups: int, build: Callable[[], Build] | None = None) -> Build:
    """A sampled one; of sampled parts, unless others are given."""
    parts = [part(g, groups) if build is None else build() for _ in range(g.randint(1, 4))]
    milestones = sorted(g.sample(range(1, LONGEST), len(parts) - 1))
    chained = g.random() < 0.5
    print("chain" if chained else milestones)

    def made(package: Any, optimizer: Any) -> Any:
        schedules = [x(package, optimizer) for x in parts]
        if chained:
            return package.ChainedScheduler(schedules, optimizer)
        return package.SequentialLR(optimizer, schedules, milestones)

    return made


def test_same_values_at_every_step(seed: int) -> None:
    g = random.Random(seed)
    for _ in range(150):
        rates = rates_of(g)
        pair = Pair(chain_or_sequence(g, len(rates)), rates)
        by_hand = g.random() < 0.3
        pair.check()
        for _ in range(LONGEST):
            if by_hand and g.random() < 0.2:
                pair.scale(g.uniform(0.1, 3))
            pair.step()
            pair.check()


def test_states_go_both_ways(seed: int) -> None:
    g = random.Random(seed)
    for _ in range(40):
        rates = rates_of(g)
        pair = Pair(chain_or_sequence(g, len(rates)), rates)
        for _ in range(g.randrange(LONGEST)):
            pair.step()
        optimizers, schedules = ([x.state_dict() for x in y] for y in (pair.optimizers, pair.schedules))
        assert set(schedules[0]) == set(schedules[1])
        for index, other in ((0, 1), (1, 0)):
            pair.optimizers[index].load_state_dict(optimizers[other])
            pair.schedules[index].load_state_dict(schedules[other])
        for _ in range(LONGEST):
            pair.step()
            pair.check()


def test_nested_is_what_its_table_says(seed: int) -> None:
    """Steps and table are two ways to the same values, at any depth (torch cannot nest all of them)."""
    g = random.Random(seed)
    for _ in range(60):
        rates = rates_of(g)
        build = chain_or_sequence(g, len(rates), partial(chain_or_sequence, g, len(rates)))
        optimizer = optimizer_of(optim, "SGD", rates)
        schedule = build(ours, optimizer)
        table = schedule.table(LONGEST)
        optimizer.step()
        for t in range(LONGEST):
            for name, values in table.items():
                held = [group["lr" if name == "lr" else "momentum"] for group in optimizer.param_groups]
                assert close(held, values[t].tolist()), (name, t)
            assert schedule.last_epoch == t
            schedule.step()


def test_a_nested_state_is_taken_up(seed: int) -> None:
    g = random.Random(seed)
    for _ in range(20):
        rates = rates_of(g)
        build = chain_or_sequence(g, len(rates), partial(chain_or_sequence, g, len(rates)))
        first, second = (optimizer_of(optim, "SGD", rates) for _ in range(2))
        one, other = (build(ours, x) for x in (first, second))
        for optimizer in (first, second):
            optimizer.step()
        for _ in range(g.randrange(LONGEST)):
            one.step()
        second.load_state_dict(first.state_dict())
        other.load_state_dict(one.state_dict())
        for _ in range(LONGEST):
            assert values_of(first) == values_of(second)
            one.step()
            other.step()


def test_a_sequence_resumes_by_last_epoch(seed: int) -> None:
    """A deviation: in torch it goes on at a wrong rate (pytorch issue 162591)."""
    g = random.Random(seed)
    wrong = 0
    for _ in range(40):
        rates = rates_of(g)
        # Of others torch loses the initial rate already where they are made.
        among = ["StepLR", "LinearLR", "ConstantLR", "ExponentialLR", "CosineAnnealingLR", "PolynomialLR"]
        parts = [part(g, len(rates), among) for _ in range(3)]
        milestones = sorted(g.sample(range(1, LONGEST), 2))
        middle = g.randrange(LONGEST)
        ends = []
        for package in (ours, theirs):
            through, again = (optimizer_of(torch.optim, "SGD", rates) for _ in range(2))
            uninterrupted = package.SequentialLR(through, [x(package, through) for x in parts], milestones)
            for optimizer in (through, again):
                optimizer.step()
            for _ in range(middle + 1):
                uninterrupted.step()
            again.load_state_dict(through.state_dict())
            resumed = package.SequentialLR(
                again, [x(package, again) for x in parts], milestones, last_epoch=middle
            )
            assert resumed.last_epoch == uninterrupted.last_epoch
            again.step()
            ends.append([close(values_of(again), values_of(through), 1e-9)])
            for _ in range(LONGEST):
                uninterrupted.step()
                resumed.step()
                ends[-1].append(close(values_of(again), values_of(through), 1e-9))
        assert all(ends[0])
        wrong += not all(ends[1])
    assert wrong > 0, "torch is right now: the deviation can go"


@pytest.mark.parametrize("name", ["ChainedScheduler", "SequentialLR"])
def test_a_plateau_among_the_parts(name: str) -> None:
    """A deviation: refused by torch (pytorch issue 68978)."""

    def build(package: Any, optimizer: Any) -> Any:
        parts = [
            package.LinearLR(optimizer, start_factor=0.5, total_iters=4),
            package.ReduceLROnPlateau(optimizer, factor=0.1, patience=0),
        ]
        if name == "ChainedScheduler":
            return package.ChainedScheduler(parts, optimizer)
        return package.SequentialLR(optimizer, parts, [6])

    with pytest.raises(ValueError, match="does not support `ReduceLROnPlateau`"):
        build(theirs, optimizer_of(torch.optim, "SGD", [1.0]))
    optimizer = optimizer_of(optim, "SGD", [1.0])
    schedule = build(ours, optimizer)
    optimizer.step()
    rates = []
    for loss in (5.0, 4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 0.5, 0.5):
        schedule.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
        assert schedule.get_last_lr() == [rates[-1]]
    warm = [0.625, 0.75, 0.875, 1.0, 1.0]
    # Chained, it has seen the loss from the start; in a sequence, it sees the first loss at step 6.
    cold = [0.1, 0.01, 0.01, 0.001] if name == "ChainedScheduler" else [1.0, 0.1, 0.1, 0.01]
    assert rates == pytest.approx(warm + cold)
    before = rates[-1]
    for _ in range(5):
        schedule.step()  # no new value of the metric: time goes on, and the plateau waits
    assert optimizer.param_groups[0]["lr"] == before
    schedule.observe(9.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(before / 10)
    again = optimizer_of(optim, "SGD", [1.0])
    resumed = build(ours, again)
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    for x in (schedule, resumed):
        x.observe(9.0)
    assert values_of(again) == values_of(optimizer)
    assert again.param_groups[0]["lr"] == pytest.approx(before / 100)


def test_a_part_of_torch_s_is_stepped() -> None:
    """Parts of other packages are only known by their steps."""
    sides = []
    for package, parts_of in ((ours, theirs), (theirs, theirs)):
        optimizer = optimizer_of(torch.optim, "SGD", [0.3])
        parts = [parts_of.LinearLR(optimizer, 0.1, total_iters=5), parts_of.StepLR(optimizer, 3)]
        sides.append((optimizer, package.SequentialLR(optimizer, parts, [6])))
    for _ in range(20):
        assert values_of(sides[0][0]) == values_of(sides[1][0])
        for optimizer, schedule in sides:
            optimizer.step()
            schedule.step()
    with pytest.raises(TypeError, match="LinearLR does not say its values beforehand"):
        sides[0][1].table(3)


def test_a_schedule_given_by_get_lr() -> None:
    """A user's own, written as for torch."""

    class Halving(ours.LRScheduler):
        def get_lr(self) -> Any:
            return [base * 0.5**self.last_epoch for base in self.base_lrs]

    optimizer = optimizer_of(optim, "SGD", [0.8])
    schedule = Halving(optimizer)
    optimizer.step()
    schedule.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.2
    with pytest.raises(TypeError, match="Halving does not say its values beforehand"):
        schedule.table(3)


REFUSED: list[tuple[str, Callable[[Any, Any, Any], Any], type[Exception]]] = [
    ("no part", lambda p, o, _: p.SequentialLR(o, [], []), ValueError),
    ("no part", lambda p, o, _: p.ChainedScheduler([]), ValueError),
    ("milestones", lambda p, o, _: p.SequentialLR(o, [p.StepLR(o, 2)], [3]), ValueError),
    ("no part", lambda p, o, _: p.SequentialLR(o, [object()], []), TypeError),
    ("other", lambda p, o, other: p.SequentialLR(o, [p.StepLR(other, 2)], []), ValueError),
    ("other", lambda p, o, other: p.ChainedScheduler([p.StepLR(other, 2)], o), ValueError),
]


@pytest.mark.parametrize(("_", "build", "kind"), REFUSED)
def test_refused_as_by_torch(_: str, build: Any, kind: type[Exception]) -> None:
    told = []
    for package in (ours, theirs):
        optimizers = [optimizer_of(torch.optim, "SGD", [0.1]) for _ in range(2)]
        with pytest.raises(kind) as raised:
            build(package, *optimizers)
        told.append(str(raised.value))
    assert told[0].split("got")[0] == told[1].split("got")[0]


def test_nothing_warns(seed: int) -> None:
    """Neither making, stepping nor resuming, where the optimizer steps first."""
    optimizer = optimizer_of(optim, "SGD", [0.1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inner = ours.ChainedScheduler([ours.StepLR(optimizer, 2), ours.ExponentialLR(optimizer, 0.9)])
        schedule = ours.SequentialLR(optimizer, [inner, ours.CosineAnnealingLR(optimizer, 5)], [4])
        for _ in range(9):
            optimizer.step()
            schedule.step()


@pytest.mark.parametrize("form", ["ChainedScheduler", "SequentialLR"])
def test_other_hyperparameters_of_later_parts_wait(form: str) -> None:
    """What lies deep in a later part begins with that part, too."""
    optimizer = optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1, weight_decay=0.3)
    decay = ours.LinearLR(optimizer, 0.5, 1.0, 5, hyperparameter="weight_decay")
    if form == "ChainedScheduler":
        later = ours.ChainedScheduler([ours.CosineAnnealingLR(optimizer, 5), decay])
    else:
        later = ours.SequentialLR(optimizer, [decay], [])
    schedule = ours.SequentialLR(optimizer, [ours.ConstantLR(optimizer, 1.0, 5), later], [5])
    assert set(schedule.hyperparameters) == {"lr", "weight_decay"}
    table = schedule.table(10)["weight_decay"].flatten().tolist()
    assert table[:6] == pytest.approx([0.3] * 5 + [0.15])
    optimizer.step()
    for t in range(10):
        assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(table[t]), t
        schedule.step()


def test_a_momentum_that_a_later_cycle_has_set() -> None:
    """It is so from the start, though another schedule has noted the one before."""
    optimizer = optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=0.1, betas=(0.9, 0.99))
    eps, decay = (ours.ConstantLR(optimizer, 1.0, 9, hyperparameter=x) for x in ("eps", "weight_decay"))
    beta = ours.LinearLR(optimizer, 0.1, 1.0, 5, hyperparameter="betas.0")
    first = ours.SequentialLR(optimizer, [eps, beta], [4])
    cycle = ours.CyclicLR(optimizer, 0.01, 0.1, max_momentum=0.6, base_momentum=0.5)
    schedule = ours.ChainedScheduler([first, ours.SequentialLR(optimizer, [decay, cycle], [6])])
    table = schedule.table(8)["betas.0"].flatten().tolist()
    assert table == pytest.approx([0.6, 0.6, 0.6, 0.6, 0.09, 0.252, 0.6, 0.6], abs=1e-3)
    for t in range(8):
        assert optimizer.param_groups[0]["betas"][0] == pytest.approx(table[t]), t
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("package", [ours, theirs], ids=["ours", "torch's"])
def test_a_users_schedule_takes_over_in_a_sequence(package: Any) -> None:
    """Written as for torch, by get_lr; torch's sequence takes it as well."""

    class Halving(ours.LRScheduler):
        def get_lr(self) -> Any:
            return [group["lr"] * 0.5 for group in self.optimizer.param_groups]

    class Closed(Halving):
        def _get_closed_form_lr(self) -> Any:
            return [base * 0.5**self.last_epoch for base in self.base_lrs]

    for kind, expected in ((Halving, 0.4), (Closed, 0.8)):
        optimizer = optimizer_of(optim, "SGD", [0.8])
        first = package.ConstantLR(optimizer, 1.0, 99)
        later = kind(optimizer)
        schedule = package.SequentialLR(optimizer, [first, later], [2])
        optimizer.step()
        schedule.step()
        assert optimizer.param_groups[0]["lr"] == 0.8
        schedule.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        schedule.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected / 2)
