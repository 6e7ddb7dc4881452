"""Our schedules and torch's, side by side, for sampled configurations: rates, momenta and states."""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from optim_cli import optim
from optim_cli.optim import lr_scheduler as ours
from tests.optim.lr_scheduler.sampling import (
    SIMPLE,
    Options,
    Pair,
    close,
    drawn,
    length_of,
    make,
    optimizer_of,
    rates_of,
    values_of,
)

simple = pytest.mark.parametrize("name", SIMPLE)
# Compared elsewhere: test_plateau.py and test_parts.py.
OTHERS = {"ReduceLROnPlateau", "ChainedScheduler", "SequentialLR"}
# What torch lacks has nothing to be compared with.
OURS_ALONE = {"WarmupStableDecayLR", "GroupwiseLR"}


def test_every_scheduler_is_compared() -> None:
    assert set(ours.SCHEDULERS) == set(SIMPLE) | OTHERS | OURS_ALONE
    assert set(theirs.__all__) - {"LRScheduler"} <= set(ours.SCHEDULERS)


@simple
def test_same_values_at_every_step(name: str, seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(40):
        pair, length = drawn(generator, name)
        by_hand = generator.random() < 0.3
        pair.check()
        for step in range(length):
            if by_hand and generator.random() < 0.2:
                pair.scale(generator.uniform(0.1, 3))
            pair.step()
            pair.check()
            left, right = pair.schedules
            assert left.last_epoch == right.last_epoch == step + 1
            assert [type(x) for x in left.get_last_lr()] == [type(x) for x in right.get_last_lr()]


@simple
def test_states_go_both_ways(name: str, seed: int) -> None:
    """In the middle, each goes on from the other's state, as a program does that changes its import."""
    generator = random.Random(seed)
    for _ in range(15):
        pair, length = drawn(generator, name)
        middle = generator.randrange(length + 1)
        for _ in range(middle):
            pair.step()
        optimizers, schedules = ([x.state_dict() for x in y] for y in (pair.optimizers, pair.schedules))
        # One flag of torch's tells whether get_lr() is called by a user, which ours allows.
        assert set(schedules[0]) == set(schedules[1]) - {"_get_lr_called_within_step"}
        for index, other in ((0, 1), (1, 0)):
            pair.optimizers[index].load_state_dict(optimizers[other])
            pair.schedules[index].load_state_dict(saved_and_loaded(schedules[other]))
        pair.check()
        for _ in range(length - middle):
            pair.step()
            pair.check()


def saved_and_loaded(state: Any) -> Any:
    """As it comes out of a file that nothing is executed from."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@simple
def test_resuming_by_last_epoch(name: str, seed: int) -> None:
    """As torch where that is right: the values are those of a run that was not stopped."""
    generator = random.Random(seed)
    for _ in range(30):
        rates = rates_of(generator)
        options = SIMPLE[name](generator, len(rates))
        length = length_of(name, options)
        if length < 2:
            continue
        middle = generator.randrange(length - 1)
        print(rates, options, middle)
        through = optimizer_of(optim, "SGD", rates)
        uninterrupted = make(ours, name, through, **options)
        through.step()
        for _ in range(middle + 1):
            uninterrupted.step()
        again = optimizer_of(optim, "SGD", rates)
        again.load_state_dict(through.state_dict())
        resumed = make(ours, name, again, **options, last_epoch=middle)
        again.step()
        for _ in range(length - middle - 1):
            assert resumed.last_epoch == uninterrupted.last_epoch
            assert close(values_of(again), values_of(through))
            for schedule in (resumed, uninterrupted):
                schedule.step()
        assert close(values_of(again), values_of(through))


# What torch computes for others, which have no closed form, depends on where they are.
@pytest.mark.parametrize("name", sorted(SIMPLE.keys() - {"MultiplicativeLR", "SWALR"}))
def test_jumping_to_a_step(name: str, seed: int) -> None:
    """torch's deprecated argument of step()."""
    generator = random.Random(seed)
    for _ in range(10):
        pair, length = drawn(generator, name)
        target = generator.randrange(length + 1)
        for optimizer in pair.optimizers:
            optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for schedule in pair.schedules:
                schedule.step(target)
        left, right = map(values_of, pair.optimizers)
        # A cosine at its end is 0 in torch's closed form and 1e-17 by steps.
        assert close(left, right, max(pair.tolerance, 1e-9))


def test_a_jump_is_deprecated() -> None:
    for package in (ours, theirs):
        optimizer = optimizer_of(torch.optim, "SGD", [0.1])
        schedule = make(package, "ExponentialLR", optimizer, gamma=0.5)
        optimizer.step()
        with pytest.warns(UserWarning, match="epoch"):
            schedule.step(3)


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
    ("CosineAnnealingLR", {}),
    ("CosineAnnealingLR", {"T_max": 9, "last_epoch": 3}),
    ("CosineAnnealingLR", {"T_max": 9, "verbose": True}),
    ("LambdaLR", {"lr_lambda": [abs, abs]}),
    ("MultiplicativeLR", {"lr_lambda": [abs, abs]}),
    ("MultiplicativeLR", {"lr_lambda": 0.5}),
    ("ConstantLR", {"factor": 1.5}),
    ("ConstantLR", {"factor": -0.1}),
    ("LinearLR", {"start_factor": 0.0}),
    ("LinearLR", {"start_factor": 1.1}),
    ("LinearLR", {"end_factor": -0.1}),
    ("LinearLR", {"end_factor": 1.1}),
    ("CosineAnnealingWarmRestarts", {"T_0": 0}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 0}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 1.5}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "eta_min": "low"}),
    ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "mode": "round"}),
    ("CyclicLR", {"base_lr": [0.1, 0.2], "max_lr": 0.2}),
    ("CyclicLR", {"base_lr": 0.1, "max_lr": [0.1, 0.2]}),
    ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "base_momentum": [0.1, 0.2]}),
    ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "max_momentum": [0.1, 0.2]}),
    ("SWALR", {"swa_lr": [0.1, 0.2]}),
    ("SWALR", {"swa_lr": 0.1, "anneal_strategy": "step"}),
    ("SWALR", {"swa_lr": 0.1, "anneal_epochs": -1}),
    ("SWALR", {"swa_lr": 0.1, "anneal_epochs": 1.5}),
    ("ReduceLROnPlateau", {"factor": 1.0}),
    ("ReduceLROnPlateau", {"mode": "least"}),
    ("ReduceLROnPlateau", {"threshold_mode": "some"}),
    ("ReduceLROnPlateau", {"min_lr": [0.1, 0.2]}),
]


@pytest.mark.parametrize(("name", "options"), REFUSED, ids=str)
def test_refused_with_torch_s_types_and_words(name: str, options: Options) -> None:
    raised = [
        refusal(lambda s=s, p=p: make(s, name, optimizer_of(p, "SGD", [0.1]), **options))  # type: ignore[misc]
        for s, p in ((ours, optim), (theirs, torch.optim))
    ]
    assert type(raised[0]) is type(raised[1])
    if isinstance(raised[1], ValueError):
        assert str(raised[0]) == str(raised[1])


@simple
@pytest.mark.parametrize("optimizer", [object(), None])
def test_refused_optimizers(name: str, optimizer: Any) -> None:
    options = SIMPLE[name](random.Random(0), 1)
    raised = refusal(lambda: make(ours, name, optimizer, **options))
    assert isinstance(raised, TypeError)
    assert str(raised) == f"{type(optimizer).__name__} is not an Optimizer"


def refusal(call: Callable[[], Any]) -> Exception:
    """What a call raises."""
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing is refused")


def test_torch_s_optimizers_are_served_too() -> None:
    optimizers = [optimizer_of(torch.optim, "AdamW", [0.1, 0.2]) for _ in range(2)]
    pair = Pair(lambda x, y: make(x, "OneCycleLR", y, max_lr=1.0, total_steps=10), [0.1, 0.2], "AdamW")
    pair.optimizers = optimizers
    pair.schedules = [
        make(x, "OneCycleLR", y, max_lr=1.0, total_steps=10)
        for x, y in zip((ours, theirs), optimizers, strict=True)
    ]
    for _ in range(9):
        pair.step()
        pair.check()
