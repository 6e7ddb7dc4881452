"""Where schedules of torch go wrong and ours do not; each is a line in docs/deviations.md."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from optim_cli import optim
from optim_cli.optim import lr_scheduler as ours
from tests.optim.lr_scheduler.sampling import make, optimizer_of


def followed(package: Any, build: Any, steps: int) -> list[float]:
    """Rates at every step."""
    optimizer = optimizer_of(optim if package is ours else torch.optim, "SGD", [1.0])
    schedule = build(package, optimizer)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return rates


def test_from_nothing_a_constant_share_comes_back() -> None:
    def build(package: Any, optimizer: Any) -> Any:
        return package.ConstantLR(optimizer, factor=0.0, total_iters=2)

    assert followed(ours, build, 4) == [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(ZeroDivisionError):
        followed(theirs, build, 4)


def test_a_share_for_no_time() -> None:
    def build(package: Any, optimizer: Any) -> Any:
        return package.ConstantLR(optimizer, factor=0.5, total_iters=0)

    assert followed(ours, build, 3) == [1.0] * 3
    assert followed(theirs, build, 3) == [0.5] * 3


def test_a_line_of_no_length_is_at_its_end() -> None:
    def build(package: Any, optimizer: Any) -> Any:
        return package.LinearLR(optimizer, start_factor=0.25, end_factor=0.5, total_iters=0)

    assert followed(ours, build, 3) == [0.5] * 3
    assert followed(theirs, build, 3) == [0.25] * 3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("StepLR", {"step_size": 5}),
        ("MultiStepLR", {"milestones": [5]}),
        ("ConstantLR", {"factor": 0.5, "total_iters": 5}),
    ],
)
def test_a_decay_at_the_step_of_resuming_counts_once(name: str, options: Any) -> None:
    rates = []
    for package in (ours, theirs):
        optimizer = optimizer_of(torch.optim, "SGD", [1.0])
        schedule = getattr(package, name)(optimizer, **options)
        optimizer.step()
        for _ in range(5):
            schedule.step()
        before = optimizer.param_groups[0]["lr"]
        getattr(package, name)(optimizer, **options, last_epoch=4)
        rates.append((before, optimizer.param_groups[0]["lr"]))
    assert rates[0][0] == rates[0][1] == rates[1][0]
    assert rates[1][1] != rates[1][0], "torch is right now: the deviation can go"


def test_warm_restarts_resume_after_several_restarts() -> None:
    rates = []
    for package in (ours, theirs):
        optimizer = optimizer_of(torch.optim, "SGD", [1.0])
        schedule = package.CosineAnnealingWarmRestarts(optimizer, 2, T_mult=2)
        optimizer.step()
        for _ in range(9):
            schedule.step()
        before = optimizer.param_groups[0]["lr"]
        package.CosineAnnealingWarmRestarts(optimizer, 2, T_mult=2, last_epoch=8)
        rates.append((before, optimizer.param_groups[0]["lr"]))
    assert rates[0][0] == rates[0][1] == pytest.approx(rates[1][0])
    assert rates[1][1] != pytest.approx(rates[1][0]), "torch is right now: the deviation can go"


def test_an_anneal_resumes_where_it_was() -> None:
    """torch counts from its construction, whatever step it is told to resume after."""
    options: Any = {"swa_lr": 0.1, "anneal_epochs": 10, "anneal_strategy": "linear"}
    rates = []
    for package in (ours, theirs):
        optimizer = optimizer_of(torch.optim, "SGD", [1.0])
        schedule = make(package, "SWALR", optimizer, **options)
        optimizer.step()
        for _ in range(5):
            schedule.step()
        make(package, "SWALR", optimizer, **options, last_epoch=4).step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(1 - 0.9 * 6 / 10)
    assert rates[1] != pytest.approx(rates[0]), "torch is right now: the deviation can go"


def test_an_anneal_jumps_to_the_step_that_it_is_told() -> None:
    """From the rate that it finds, as far as that step goes; torch takes its next step in any case."""

    def jumped(package: Any, step: int) -> float:
        optimizer = optimizer_of(torch.optim, "SGD", [1.0])
        options: Any = {"swa_lr": 0.1, "anneal_epochs": 10, "anneal_strategy": "linear"}
        schedule = make(package, "SWALR", optimizer, **options)
        optimizer.step()
        with pytest.warns(UserWarning, match="epoch"):
            schedule.step(step)
        return float(optimizer.param_groups[0]["lr"])

    assert jumped(ours, 3) == pytest.approx(0.1 + 0.9 * 7 / 8)
    assert jumped(ours, 10) == pytest.approx(0.1)
    assert jumped(theirs, 3) == jumped(theirs, 10) == pytest.approx(1 - 0.9 / 10)


def test_without_momentum_only_the_rate_cycles() -> None:
    def build(package: Any, optimizer: Any) -> Any:
        return package.CyclicLR(optimizer, base_lr=0.0, max_lr=1.0, step_size_up=2)

    rates = []
    optimizer = optim.ALGORITHMS["Adagrad"]([torch.ones(1)], lr=1.0)
    schedule = build(ours, optimizer)
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [0.0, 0.5, 1.0, 0.5, 0.0]
    assert "momentum" not in optimizer.param_groups[0]
    with pytest.raises(ValueError, match="must support momentum"):
        build(theirs, torch.optim.Adagrad([torch.ones(1)], lr=1.0))


def test_a_cycle_after_another_schedule_starts_at_its_lowest() -> None:
    """In torch it takes its first step at the rate that the optimizer was made with."""
    rates: list[list[float]] = []
    for package in (ours, theirs):
        optimizer = optimizer_of(torch.optim, "SGD", [0.5])
        parts = [package.LambdaLR(optimizer, lambda t: 0.9**t), package.CyclicLR(optimizer, 0.125, 1.0, 1)]
        schedule = package.ChainedScheduler(parts, optimizer)
        rates.append([])
        for _ in range(3):
            rates[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
    assert rates[0] == [0.125, 1.0, 0.125]
    assert rates[1] == [0.5, 1.0, 0.125], "torch is right now: the deviation can go"


def test_a_chain_within_a_sequence_starts_once() -> None:
    """In torch, its parts take their first step twice, and as a later part it cannot start at all."""

    def first(package: Any, optimizer: Any) -> Any:
        inner = package.ChainedScheduler([package.ExponentialLR(optimizer, 0.5)], optimizer)
        return package.SequentialLR(optimizer, [inner, package.ConstantLR(optimizer, 0.1, 99)], [3])

    def later(package: Any, optimizer: Any) -> Any:
        inner = package.ChainedScheduler([package.ExponentialLR(optimizer, 0.5)], optimizer)
        return package.SequentialLR(optimizer, [package.ConstantLR(optimizer, 0.1, 99), inner], [2])

    assert followed(ours, first, 4) == [1.0, 0.5, 0.25, 0.1]
    assert followed(ours, later, 4) == [0.1, 0.1, 1.0, 0.5]
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        assert followed(theirs, first, 4)[0] == 0.5
    with pytest.raises(NotImplementedError):
        followed(theirs, later, 4)


def test_a_sequence_within_a_chain_leaves_the_others_alone() -> None:
    def build(package: Any, optimizer: Any) -> Any:
        half = package.ConstantLR(optimizer, 0.5, total_iters=99)
        parts = [package.ConstantLR(optimizer, 0.1, 99), package.ConstantLR(optimizer, 0.2, 99)]
        return package.ChainedScheduler([half, package.SequentialLR(optimizer, parts, [2])], optimizer)

    # The part that takes over starts from the initial rate, so that it undoes what was before it.
    assert followed(ours, build, 4) == pytest.approx([0.05, 0.05, 0.2, 0.2])
    assert followed(theirs, build, 4) == pytest.approx([0.1, 0.1, 0.2, 0.2])
