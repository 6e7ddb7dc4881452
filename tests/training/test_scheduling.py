"""When a run steps its scheduler, and what it tells it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as torchs

from optim_cli.datasets.dataset import Dataset
from optim_cli.optim import lr_scheduler as ours
from optim_cli.optim.algorithms.sgd import SGD
from optim_cli.optim.lr_scheduler.exponential import ExponentialLR
from optim_cli.optim.lr_scheduler.parts import ChainedScheduler
from optim_cli.optim.lr_scheduler.plateau import ReduceLROnPlateau
from optim_cli.training.loop import Trainer, Training
from optim_cli.training.scheduling import Pace, in_words, takes_metric
from tests.experiments import train
from tests.results import unlike
from tests.training.interruptions import broken_off

Task = Callable[..., Dataset]
CPU = torch.device("cpu")


def trained(
    data: Dataset,
    scheduler: Callable[[Any], Any],
    pace: Pace,
    epochs: int,
    max_steps: int | None,
    **rest: Any,
) -> Training:
    """A training that is over; 11 steps an epoch."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    optimizer = SGD(model.parameters(), lr=0.5)
    training = Training(
        trainer=Trainer(epochs, max_steps, evaluate_every=1, measure_every=3, deterministic=False),
        dataset=data,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler(optimizer),
        averages={},
        device=CPU,
        pace=pace,
        **rest,
    )
    training.fit()
    return training


@pytest.mark.parametrize(("interval", "times"), [("step", 25), ("epoch", 2)])
def test_steps_and_whole_epochs(task: Task, interval: Any, times: int) -> None:
    """The third epoch is cut short, and is none."""
    training = trained(task(), lambda x: ExponentialLR(x, 0.9), Pace(interval), 3, 25)
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * 0.9**times)


@pytest.mark.parametrize(
    "plateau",
    [
        lambda x: ReduceLROnPlateau(x, patience=0, factor=0.3, threshold=0.05),
        lambda x: torchs.ReduceLROnPlateau(x, patience=0, factor=0.3, threshold=0.05),
        lambda x: ChainedScheduler([ReduceLROnPlateau(x, patience=0, factor=0.3, threshold=0.05)], x),
    ],
    ids=["ours", "torch's", "a part"],
)
def test_a_metric(task: Task, recorder: Any, plateau: Callable[[Any], Any]) -> None:
    """It is told after every evaluation, those in the middle of an epoch too."""
    training = trained(task(), plateau, Pace("step", "val/loss"), 7, 70, observer=recorder)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.5)
    expected = torchs.ReduceLROnPlateau(optimizer, patience=0, factor=0.3, threshold=0.05)
    losses = [call[3]["val/loss"] for call in recorder.calls if call[0] == "evaluated"]
    assert len(losses) == 7
    for loss in losses:
        expected.step(loss)
    assert optimizer.param_groups[0]["lr"] < 0.5
    assert training.optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_an_average_that_has_not_begun(task: Task) -> None:
    training = trained(task(), lambda x: ReduceLROnPlateau(x), Pace("step", "val_averaged/loss"), 1, 3)
    assert training.scheduler is not None
    assert training.scheduler.last_epoch == 0


def test_what_takes_a_metric() -> None:
    for scheduler in (ReduceLROnPlateau, torchs.ReduceLROnPlateau):
        assert takes_metric(scheduler.step)
    for other in (ChainedScheduler, ExponentialLR, torchs.StepLR):
        assert not takes_metric(other.step)


def test_stopped_and_resumed(tmp_path: Path) -> None:
    """Between an epoch's steps, and in the evaluation whose metric a schedule follows."""
    plateau = "{_target_: optim_cli.optim.lr_scheduler.ReduceLROnPlateau, patience: 0, threshold: 0.3}"
    overrides = (
        *("dataset=synthetic", "dataset.num_samples=260", "dataset.batch_size=16", "model.hidden=[8]"),
        *("trainer.epochs=5", "optimizer=sgd", "scheduler=warmup_cosine", "scheduler.interval=epoch"),
        *("scheduler.sequence.warmup.length=2", "+scheduler.sequence.cosine.length=1"),
        *(f"+scheduler.sequence.plateau={plateau}", "+scheduler.metric=train/loss"),
    )
    train(tmp_path / "whole", *overrides)
    assert broken_off(tmp_path / "parts", *overrides, how="stop", at=17)
    assert broken_off(tmp_path / "parts", *overrides, how="evaluation", at=48, resume=True)
    train(tmp_path / "parts", *overrides, resume=True)
    assert unlike(tmp_path / "whole", tmp_path / "parts") == []


def test_schedules_in_words() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    line, steps = ours.LinearLR(optimizer), ours.StepLR(optimizer, 3)
    assert in_words(steps) == "StepLR"
    chain = ours.ChainedScheduler([line, steps])
    assert in_words(chain) == "LinearLR and StepLR"
    last = ours.CosineAnnealingLR(optimizer, 9)
    assert in_words(ours.SequentialLR(optimizer, [chain, last], [3])) == (
        "(LinearLR and StepLR), then CosineAnnealingLR"
    )
