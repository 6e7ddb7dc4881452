"""A rate that another schedule takes over, while the rest goes on."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

from optim_cli import optim
from optim_cli.assemble import assemble, refusals, resolve
from optim_cli.optim import lr_scheduler as ours
from optim_cli.optim.lr_scheduler.swa import SWALR
from optim_cli.training.taking_over import TakingOver
from tests.experiments import config_of, train
from tests.optim.lr_scheduler.sampling import close

STEPS = 30


def adamw(rate: Any = 0.1) -> Any:
    return optim.AdamW([nn.Parameter(torch.ones(1))], lr=rate, weight_decay=0.3)


def before(g: random.Random, optimizer: Any) -> Any:
    """Rate, momentum and weight decay, each on its way."""
    kind = g.choice(["cycle", "cosine", "sequence"])
    if kind == "cycle":
        rate = ours.OneCycleLR(optimizer, 1.0, total_steps=3 * STEPS)
    elif kind == "cosine":
        rate = ours.CosineAnnealingLR(optimizer, STEPS)
    else:
        parts = [ours.LinearLR(optimizer), ours.ExponentialLR(optimizer, 0.9)]
        rate = ours.SequentialLR(optimizer, parts, [6])
    decay = ours.LinearLR(optimizer, 1.0, 0.1, STEPS, hyperparameter="weight_decay")
    return ours.ChainedScheduler([rate, decay])


def values(optimizer: Any) -> dict[str, float]:
    group = optimizer.param_groups[0]
    return {"lr": float(group["lr"]), "betas.0": group["betas"][0], "weight_decay": group["weight_decay"]}


@pytest.mark.parametrize("tensor", [False, True])
def test_only_the_rate_is_taken_over(tensor: bool, seed: int) -> None:
    for number in range(40):
        start = random.Random(f"{seed} {number}").randrange(STEPS)
        optimizers = [adamw(torch.tensor(0.1, dtype=torch.float64) if tensor else 0.1) for _ in range(2)]
        alone, first = (before(random.Random(f"{seed} {number}"), x) for x in optimizers)
        left, right = optimizers
        held = right.param_groups[0]["lr"]
        both = TakingOver(right, first, SWALR(right, 0.05, 4), start)
        table = both.table(STEPS)
        for optimizer in optimizers:
            optimizer.step()
        for t in range(STEPS):
            expected, found = values(left), values(right)
            if t >= start + 4:
                assert found["lr"] == pytest.approx(0.05)
            elif t <= start and start > 0:
                assert found["lr"] == pytest.approx(expected["lr"] if t < start else found["lr"])
            assert {x: y for x, y in found.items() if x != "lr"} == {
                x: y for x, y in expected.items() if x != "lr"
            }
            assert all(close([found[name]], rows[t].tolist()) for name, rows in table.items()), t
            alone.step()
            both.step()
        assert (right.param_groups[0]["lr"] is held) == tensor


def test_it_goes_on_from_its_state(seed: int) -> None:
    g = random.Random(seed)
    for _ in range(10):
        start, middle, which = g.randrange(STEPS), g.randrange(STEPS), g.random()
        sides = []
        for _ in range(2):
            optimizer = adamw()
            first = before(random.Random(which), optimizer)
            sides.append((optimizer, TakingOver(optimizer, first, SWALR(optimizer, 0.05, 4), start)))
            optimizer.step()
        (left, one), (right, other) = sides
        for _ in range(middle):
            one.step()
        right.load_state_dict(left.state_dict())
        other.load_state_dict(one.state_dict())
        for _ in range(STEPS):
            assert values(left) == values(right)
            one.step()
            other.step()


def test_a_plateau_acts_until_then() -> None:
    optimizer = adamw(1.0)
    plateau = ours.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    schedule = TakingOver(optimizer, plateau, SWALR(optimizer, 0.01, 1), 3)
    optimizer.step()
    rates = []
    for _ in range(6):
        schedule.observe(1.0)
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
        assert schedule.get_last_lr() == [rates[-1]]
    assert rates == pytest.approx([1.0, 0.5, 0.25, 0.01, 0.01, 0.01])


def test_a_momentum_that_a_later_cycle_has_set_stays() -> None:
    """Though a schedule of it that comes later, too, has noted the one before."""
    found = []
    for taken_over in (False, True):
        optimizer = adamw(1.0)
        beta = ours.CosineAnnealingLR(optimizer, 9, hyperparameter="betas.0")
        levels = [ours.ConstantLR(optimizer, 1.0, 9, hyperparameter=x) for x in ("eps", "weight_decay")]
        first = ours.SequentialLR(optimizer, [levels[0], beta], [4])
        cycle = ours.CyclicLR(optimizer, 0.1, 1.0, base_momentum=0.5, max_momentum=0.6)
        later = ours.SequentialLR(optimizer, [levels[1], cycle], [6])
        schedule: ours.LRScheduler = ours.ChainedScheduler([first, later])
        if taken_over:
            schedule = TakingOver(optimizer, schedule, SWALR(optimizer, 0.05, 3), 5)
        optimizer.step()
        betas = []
        for _ in range(9):
            betas.append(optimizer.param_groups[0]["betas"][0])
            schedule.step()
        found.append(betas)
    assert found[0][0] == 0.6
    assert found[1] == found[0]


def test_in_a_run(tmp_path: Any) -> None:
    """Weight decay goes on to its end, the rate is the average's; torch's plateau is told before."""
    average = ("averaging=swa", "averaging.start=50%", "averaging.swa_lr=0.01", "averaging.anneal=2")
    decay = ("scheduler=linear", "scheduler.hyperparameter=weight_decay", "scheduler.end_factor=0.5")
    training = assemble(resolve(config_of(*average, *decay, "trainer.epochs=2")), torch.device("cpu"))
    assert training.scheduler is not None
    table = training.scheduler.table(42)  # type: ignore[attr-defined]
    assert table["lr"][-1, 0] == pytest.approx(0.01)
    assert table["weight_decay"][-1, 0] < table["weight_decay"][21, 0] < table["weight_decay"][0, 0]
    assert train(tmp_path, *average, *decay, "trainer.epochs=2", "model.hidden=[8]").results.steps == 42
    torchs = "{_target_: torch.optim.lr_scheduler.ReduceLROnPlateau}"
    values = resolve(
        config_of(*average, "scheduler=none", f"+scheduler={torchs}", "+scheduler.metric=val/loss")
    )
    [mistake] = refusals(values)
    assert mistake.key == "averaging.swa_lr"
    assert "use optim_cli.optim.lr_scheduler.ReduceLROnPlateau" in mistake.what
