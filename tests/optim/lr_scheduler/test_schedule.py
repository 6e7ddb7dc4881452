"""What schedules are beyond torch's: functions of the step, held past their end, never dividing by zero."""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from optim_cli import optim
from optim_cli.optim.lr_scheduler import SCHEDULERS
from optim_cli.optim.lr_scheduler.cosine import CosineAnnealingLR
from optim_cli.optim.lr_scheduler.onecycle import OneCycleLR
from optim_cli.optim.lr_scheduler.schedule import per_group

ADAMW: Any = optim.ALGORITHMS["AdamW"]
SGD: Any = optim.ALGORITHMS["SGD"]


def adamw(lr: Any = 0.1, groups: int = 1) -> Any:
    return ADAMW([{"params": [nn.Parameter(torch.ones(1))]} for _ in range(groups)], lr=lr)


def stepped(optimizer: Any, scheduler: LRScheduler, count: int) -> list[float]:
    """Rates before the first step and after each."""
    rates = [float(optimizer.param_groups[-1]["lr"])]
    for _ in range(count):
        optimizer.step()
        scheduler.step()
        rates.append(float(optimizer.param_groups[-1]["lr"]))
    return rates


def test_schedulers_are_torch_s() -> None:
    assert SCHEDULERS
    for cls in SCHEDULERS.values():
        assert issubclass(cls, LRScheduler)
        assert getattr(optim.lr_scheduler, cls.__name__) is cls


@pytest.mark.parametrize("tensor", [False, True])
def test_value_is_what_stepping_gives(tensor: bool, seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(40):
        rate = generator.uniform(1e-3, 1)
        steps, share, factor = generator.randrange(2, 30), generator.random(), generator.uniform(1, 100)
        print(rate, steps, share, factor)
        for make in (
            lambda optimizer, n=steps: CosineAnnealingLR(optimizer, T_max=n, eta_min=1e-3),
            lambda optimizer, n=steps, x=share, y=factor: OneCycleLR(
                optimizer, max_lr=[0.3, 0.7], total_steps=3 * n, pct_start=x, div_factor=y
            ),
        ):
            optimizer = adamw(torch.tensor(rate, dtype=torch.float64) if tensor else rate, groups=2)
            scheduler = make(optimizer)
            rates = stepped(optimizer, scheduler, 3 * steps - 1)
            assert rates == pytest.approx(
                scheduler.table(3 * steps)["lr"][:, 1].tolist(), rel=1e-12, abs=1e-15
            )


def test_landmarks_of_a_cosine() -> None:
    optimizer = adamw(1.0)
    rates = stepped(optimizer, CosineAnnealingLR(optimizer, T_max=10, eta_min=0.2), 20)
    assert [rates[x] for x in (0, 5, 10, 15, 20)] == pytest.approx([1.0, 0.6, 0.2, 0.6, 1.0])


def test_landmarks_of_a_cycle() -> None:
    optimizer = adamw()
    scheduler = OneCycleLR(optimizer, max_lr=1.0, total_steps=20, pct_start=0.25)
    assert optimizer.param_groups[0]["betas"][0] == pytest.approx(0.95)
    rates = stepped(optimizer, scheduler, 4)
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[4] == max(rates) == pytest.approx(1.0)
    assert optimizer.param_groups[0]["betas"][0] == pytest.approx(0.85)
    assert stepped(optimizer, scheduler, 15)[-1] == pytest.approx(1 / 25 / 1e4)
    assert optimizer.param_groups[0]["betas"][0] == pytest.approx(0.95)


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize(("total", "share"), [(10, 0.1), (5, 0.2), (4, 0.25), (1, 1.0), (1, 0.3), (2, 0.5)])
def test_a_rise_of_one_step(total: int, share: float, three_phase: bool) -> None:
    """A deviation: torch divides by zero where `pct_start * total_steps` is 1."""
    optimizer = adamw()
    scheduler = OneCycleLR(optimizer, 1.0, total_steps=total, pct_start=share, three_phase=three_phase)
    rates = stepped(optimizer, scheduler, total - 1)
    if share * total == 1:
        assert rates[0] == 1.0, "the peak is the first step"
        with pytest.raises(ZeroDivisionError):
            torch.optim.lr_scheduler.OneCycleLR(
                adamw(), 1.0, total_steps=total, pct_start=share, three_phase=three_phase
            )
    assert all(0 < x <= 1 for x in rates)
    if total > 1:
        assert rates[-1] == pytest.approx(1 / 25 / 1e4)


def test_past_the_end_the_last_rate_is_held() -> None:
    """A deviation: torch extrapolates by one step and then raises ValueError."""
    optimizer = adamw()
    scheduler = OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    rates = stepped(optimizer, scheduler, 10)  # a run of ten steps takes the scheduler this far
    assert rates[9] == rates[10] == pytest.approx(1 / 25 / 1e4)
    optimizer.step()
    with pytest.warns(UserWarning, match=r"OneCycleLR: step 11 is past the end of the cycle of 10 steps"):
        scheduler.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(stepped(optimizer, scheduler, 20)) == {rates[10]}
    assert optimizer.param_groups[0]["betas"][0] == pytest.approx(0.95)


def test_stepping_the_schedule_first_warns() -> None:
    optimizer = adamw()
    scheduler = CosineAnnealingLR(optimizer, T_max=5)
    with pytest.warns(UserWarning, match=r"lr_scheduler.step\(\) is called before optimizer.step\(\)"):
        scheduler.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()  # told once


def test_a_rate_in_a_tensor_stays_that_tensor() -> None:
    """What was captured in a graph goes on reading the same memory."""
    rate = torch.tensor(0.5)
    optimizer = adamw(rate)
    held = optimizer.param_groups[0]["lr"]
    scheduler = CosineAnnealingLR(optimizer, T_max=4)
    stepped(optimizer, scheduler, 3)
    assert optimizer.param_groups[0]["lr"] is held
    [last] = scheduler.get_last_lr()
    assert isinstance(last, torch.Tensor)
    assert last is not held
    last.fill_(7)
    assert float(held) != 7


def test_momentum_is_left_alone_unless_cycled() -> None:
    optimizer = SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.5)
    scheduler = OneCycleLR(optimizer, max_lr=1.0, total_steps=10, cycle_momentum=False)
    stepped(optimizer, scheduler, 5)
    assert optimizer.param_groups[0]["momentum"] == 0.5
    assert "max_momentum" not in optimizer.param_groups[0]


def test_whole_numbers_are_fractions_too() -> None:
    """A deviation: torch wants a float."""
    optimizer = adamw()
    rates = stepped(optimizer, OneCycleLR(optimizer, max_lr=1.0, total_steps=9, pct_start=1), 8)
    assert rates == sorted(rates)


def test_per_group() -> None:
    assert per_group("x", 0.5, 3) == [0.5] * 3
    assert per_group("x", (1, 2), 2) == [1, 2]
    with pytest.raises(ValueError, match=r"^x must have the same length as optimizer.param_groups"):
        per_group("x", [1, 2, 3], 2)


def test_without_momentum_only_the_rate_cycles() -> None:
    rates: list[list[float]] = []
    for cycle_momentum in (True, False):
        optimizer = optim.ALGORITHMS["Adagrad"]([torch.ones(1)], lr=1.0)
        scheduler = OneCycleLR(optimizer, max_lr=1.0, total_steps=10, cycle_momentum=cycle_momentum)
        rates.append([])
        for _ in range(9):
            rates[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert "momentum" not in optimizer.param_groups[0]
    assert rates[0] == rates[1]
    assert len({*rates[0]}) > 5


WHOLE: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 2, "gamma": 1},
    "MultiStepLR": {"milestones": [2], "gamma": 2},
    "ExponentialLR": {"gamma": 1},
    "ConstantLR": {"factor": 1, "total_iters": 4},
    "LinearLR": {"start_factor": 1, "end_factor": 0, "total_iters": 4},
    "CosineAnnealingLR": {"T_max": 4, "eta_min": 0},
    "OneCycleLR": {"max_lr": 1, "total_steps": 9},
    "MultiplicativeLR": {"lr_lambda": lambda t: 2},
    "LambdaLR": {"lr_lambda": lambda t: torch.tensor(0.5)},
}


@pytest.mark.parametrize("rate", [1, 0.5])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_and_tensors_as_factors(name: str, rate: float) -> None:
    sides = []
    for package in (optim.lr_scheduler, torch.optim.lr_scheduler):
        optimizer = SGD([nn.Parameter(torch.ones(1))], lr=rate, momentum=0.9)
        scheduler = getattr(package, name)(optimizer, **WHOLE[name])
        sides.append(stepped(optimizer, scheduler, 6))
    assert sides[0] == pytest.approx(sides[1])


@pytest.mark.parametrize("name", ["LambdaLR", "CosineAnnealingWarmRestarts", "CyclicLR", "StepLR"])
def test_a_group_that_is_added_later(name: str) -> None:
    """What is known of each group does not fit any more; what is one number for all goes on."""
    options: dict[str, dict[str, Any]] = {
        "LambdaLR": {"lr_lambda": lambda t: 0.5**t},
        "CosineAnnealingWarmRestarts": {"T_0": 3},
        "CyclicLR": {"base_lr": 0.1, "max_lr": 1.0},
        "StepLR": {"step_size": 1, "gamma": 0.5},
    }
    for package in (optim.lr_scheduler, torch.optim.lr_scheduler):
        optimizer = SGD([nn.Parameter(torch.ones(1))], lr=1.0, momentum=0.9)
        scheduler = getattr(package, name)(optimizer, **options[name])
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
        optimizer.step()
        if name == "StepLR":
            scheduler.step()
            assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
            continue
        with pytest.raises(ValueError, match=r"parameter groups|shorter|longer"):
            scheduler.step()
