"""Our schedules and torch's, side by side, for sampled configurations: rates, momenta and states."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as theirs

from optim_cli import optim
from optim_cli.optim import lr_scheduler as ours

Options = dict[str, Any]
NAMES = ["CosineAnnealingLR", "OneCycleLR"]
EXACT = 1e-12


def test_every_scheduler_is_compared() -> None:
    """One that torch lacks has nothing to be compared with."""
    assert {x for x in ours.SCHEDULERS if hasattr(theirs, x)} == set(NAMES)


def optimizer_of(package: Any, name: str, rates: list[float], tensor: torch.dtype | None = None) -> Any:
    """An optimizer of a group a rate, the rates in tensors if a dtype is given."""
    groups = [
        {
            "params": [nn.Parameter(torch.ones(1))],
            "lr": x if tensor is None else torch.tensor(x, dtype=tensor),
        }
        for x in rates
    ]
    return getattr(package, name)(groups, lr=0.1, **({"momentum": 0.9} if name == "SGD" else {}))


def options_of(generator: random.Random, name: str, groups: int) -> Options:
    """A configuration that torch accepts and can compute."""
    if name == "CosineAnnealingLR":
        return {
            "T_max": generator.choice([1, 2, 3, 7, 20, 50]),
            "eta_min": generator.choice([0.0, 1e-4, 0.03, 2.0]),
        }
    total = generator.choice([2, 3, 5, 10, 17, 40])
    # Where the rise takes exactly one step, torch divides by zero: see test_schedule.py.
    shares = [0.0, 0.1, 0.25, 0.3, 0.5, 0.77, 1.0, generator.random()]
    share = generator.choice([x for x in shares if x * total != 1 and 2 * x * total != 2])

    def one_or_many(low: float, high: float) -> Any:
        values = [generator.uniform(low, high) for _ in range(groups)]
        return values if generator.random() < 0.5 else values[0]

    options: Options = {
        "max_lr": one_or_many(1e-3, 2),
        "total_steps": total,
        "pct_start": share,
        "anneal_strategy": generator.choice(["cos", "linear"]),
        "cycle_momentum": generator.random() < 0.7,
        "base_momentum": one_or_many(0.1, 0.9),
        "max_momentum": one_or_many(0.1, 0.99),
        "div_factor": generator.choice([1.0, 10.0, 25.0]),
        "final_div_factor": generator.choice([1.0, 1e4]),
        "three_phase": generator.random() < 0.4,
    }
    if total == 40 and generator.random() < 0.5:
        del options["total_steps"]
        options |= {"epochs": 5, "steps_per_epoch": 8}
    return options


def length_of(name: str, options: Options) -> int:
    """Steps to compare: a cosine goes on past its end, a cycle does not."""
    if name == "CosineAnnealingLR":
        return int(options["T_max"] * 3 + 2)
    return int(options.get("total_steps") or options["epochs"] * options["steps_per_epoch"]) - 1


def values_of(optimizer: Any) -> list[float]:
    """Rates and momenta of all groups."""
    found = []
    for group in optimizer.param_groups:
        found += [float(group["lr"]), float(group["momentum"] if "momentum" in group else group["betas"][0])]
    return found


def close(left: list[float], right: list[float], rtol: float = EXACT) -> bool:
    return left == pytest.approx(right, rel=rtol, abs=rtol)


def pair_of(generator: random.Random, name: str) -> tuple[Any, Any, Any, Any, int, float]:
    """Both optimizers and schedulers, how many steps they may take, and the tolerance."""
    algorithm = generator.choice(["SGD", "Adam"])
    rates = [generator.uniform(1e-3, 1) for _ in range(generator.randrange(1, 4))]
    tensor = generator.choice([None, None, torch.float64, torch.float32])
    options = options_of(generator, name, len(rates))
    print(algorithm, rates, tensor, options)
    mine, yours = (optimizer_of(x, algorithm, rates, tensor) for x in (optim, torch.optim))
    left = getattr(ours, name)(mine, **options)
    right = getattr(theirs, name)(yours, **options)
    # The recurrence of a cosine divides by what is left near the lowest rate, which magnifies roundings
    # of 2^-24 a thousand times at 50 steps.
    single = 2e-3 if name == "CosineAnnealingLR" else 1e-5
    rtol = single if tensor is torch.float32 else EXACT
    return mine, yours, left, right, length_of(name, options), rtol


@pytest.mark.parametrize("name", NAMES)
def test_same_values_at_every_step(name: str, seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(200):
        mine, yours, left, right, length, rtol = pair_of(generator, name)
        by_hand = generator.random() < 0.3
        assert close(values_of(mine), values_of(yours), rtol)
        for step in range(length):
            if by_hand and generator.random() < 0.2:
                factor = generator.uniform(0.1, 3)
                for group in (*mine.param_groups, *yours.param_groups):
                    group["lr"] *= factor
            for optimizer, scheduler in ((mine, left), (yours, right)):
                if step == 0:  # once is enough for the schedule not to complain
                    optimizer.step()
                scheduler.step()
            assert close(values_of(mine), values_of(yours), rtol), step
            assert left.last_epoch == right.last_epoch == step + 1
            assert close(
                [float(x) for x in left.get_last_lr()], [float(x) for x in right.get_last_lr()], rtol
            )
            assert [type(x) for x in left.get_last_lr()] == [type(x) for x in right.get_last_lr()]


@pytest.mark.parametrize("name", NAMES)
def test_states_go_both_ways(name: str, seed: int) -> None:
    """In the middle, each goes on from the other's state, as a program does that changes its import."""
    generator = random.Random(seed)
    for _ in range(60):
        mine, yours, left, right, length, rtol = pair_of(generator, name)
        middle = generator.randrange(length + 1)
        for _ in range(middle):
            for optimizer, scheduler in ((mine, left), (yours, right)):
                optimizer.step()
                scheduler.step()
        states = [(x.state_dict(), y.state_dict()) for x, y in ((yours, right), (mine, left))]
        # One flag of torch's tells whether get_lr() is called by a user, which ours allows.
        assert set(states[1][1]) == set(states[0][1]) - {"_get_lr_called_within_step"}
        for optimizer, scheduler, (state, schedule) in ((mine, left, states[0]), (yours, right, states[1])):
            optimizer.load_state_dict(state)
            scheduler.load_state_dict(schedule)
        assert close(values_of(mine), values_of(yours), rtol)
        for _ in range(length - middle):
            for optimizer, scheduler in ((mine, left), (yours, right)):
                optimizer.step()
                scheduler.step()
            assert close(values_of(mine), values_of(yours), rtol)


@pytest.mark.parametrize("name", NAMES)
def test_resuming_by_last_epoch(name: str, seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(60):
        rates = [generator.uniform(1e-3, 1) for _ in range(generator.randrange(1, 4))]
        options = options_of(generator, name, len(rates))
        length = length_of(name, options)
        if length < 2:
            continue
        middle = generator.randrange(length - 1)
        print(rates, options, middle)
        sides = []
        for package, schedulers in ((optim, ours), (torch.optim, theirs)):
            first = optimizer_of(package, "SGD", rates)
            scheduler = getattr(schedulers, name)(first, **options)
            for _ in range(middle):
                first.step()
                scheduler.step()
            again = optimizer_of(package, "SGD", rates)
            again.load_state_dict(first.state_dict())
            sides.append((again, getattr(schedulers, name)(again, **options, last_epoch=middle)))
        for _ in range(length - middle - 1):
            assert sides[0][1].last_epoch == sides[1][1].last_epoch
            assert close(values_of(sides[0][0]), values_of(sides[1][0]))
            for optimizer, scheduler in sides:
                optimizer.step()
                scheduler.step()
        assert close(values_of(sides[0][0]), values_of(sides[1][0]))


def test_jumping_to_a_step(seed: int) -> None:
    """torch's deprecated argument of step()."""
    generator = random.Random(seed)
    for name in NAMES * 20:
        mine, yours, left, right, length, rtol = pair_of(generator, name)
        for optimizer in (mine, yours):
            optimizer.step()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            target = generator.randrange(length + 1)
            left.step(target)
            right.step(target)
        assert [x.category for x in caught] == [UserWarning] * 2
        # A cosine at its end is 0 in torch's closed form and 1e-17 by steps.
        assert close(values_of(mine), values_of(yours), max(rtol, 1e-9))


REFUSED: list[tuple[str, Options]] = [
    ("OneCycleLR", {"max_lr": 0.1}),
    ("OneCycleLR", {"max_lr": 0.1, "epochs": 3}),
    ("OneCycleLR", {"max_lr": 0.1, "steps_per_epoch": 3}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 0}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": -1}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 2.5}),
    ("OneCycleLR", {"max_lr": 0.1, "epochs": 0, "steps_per_epoch": 3}),
    ("OneCycleLR", {"max_lr": 0.1, "epochs": 3, "steps_per_epoch": 0}),
    ("OneCycleLR", {"max_lr": 0.1, "epochs": 3, "steps_per_epoch": 1.5}),
    ("OneCycleLR", {"max_lr": 0.1, "epochs": 3.5, "steps_per_epoch": 1}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 9, "pct_start": 1.1}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 9, "pct_start": -0.1}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 9, "anneal_strategy": "step"}),
    ("OneCycleLR", {"max_lr": [0.1, 0.2], "total_steps": 9}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 9, "max_momentum": [0.1, 0.2]}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 9, "base_momentum": [0.1, 0.2]}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 9, "last_epoch": 3}),
    ("OneCycleLR", {"total_steps": 9}),
    ("CosineAnnealingLR", {}),
    ("CosineAnnealingLR", {"T_max": 9, "last_epoch": 3}),
    ("CosineAnnealingLR", {"T_max": 9, "verbose": True}),
]


@pytest.mark.parametrize(("name", "options"), REFUSED, ids=str)
def test_refused_with_torch_s_types_and_words(name: str, options: Options) -> None:
    raised = [refusal(lambda s=s, p=p: getattr(s, name)(optimizer_of(p, "SGD", [0.1]), **options))  # type: ignore[misc]
              for s, p in ((ours, optim), (theirs, torch.optim))]  # fmt: skip
    assert type(raised[0]) is type(raised[1])
    if isinstance(raised[1], ValueError):
        assert str(raised[0]) == str(raised[1])


def test_refused_optimizers() -> None:
    for name, optimizer, options in (
        ("CosineAnnealingLR", object(), {"T_max": 3}),
        ("CosineAnnealingLR", None, {"T_max": 3}),
    ):
        raised = [
            refusal(lambda s=s, o=optimizer, x=options, n=name: getattr(s, n)(o, **x))  # type: ignore[misc]
            for s in (ours, theirs)
        ]
        assert type(raised[0]) is type(raised[1])


def refusal(call: Callable[[], Any]) -> Exception:
    """What a call raises."""
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing is refused")


def test_torch_s_optimizers_are_served_too() -> None:
    mine, yours = (optimizer_of(torch.optim, "AdamW", [0.1, 0.2]) for _ in range(2))
    left = ours.OneCycleLR(mine, max_lr=1.0, total_steps=10)  # type: ignore[attr-defined]
    right = theirs.OneCycleLR(yours, max_lr=1.0, total_steps=10)
    for _ in range(9):
        for optimizer, scheduler in ((mine, left), (yours, right)):
            optimizer.step()
            scheduler.step()
        assert close(values_of(mine), values_of(yours))
