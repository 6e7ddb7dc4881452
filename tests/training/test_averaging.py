"""The averages of a run: when they take weights, against torch's; which weights count as the best."""

from __future__ import annotations

import copy
import math
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import swa_utils as theirs

from optim_cli.datasets.dataset import Dataset
from optim_cli.optim import ALGORITHMS
from optim_cli.optim.lr_scheduler.cosine import CosineAnnealingLR
from optim_cli.training.averaging import EMA, SWA, Average, Custom
from optim_cli.training.checkpoint import Checkpoints
from optim_cli.training.evaluation import evaluate
from optim_cli.training.events import Observer
from optim_cli.training.loop import Results, Trainer, Training
from optim_cli.training.randomness import undisturbed
from optim_cli.training.stop import Stopped
from tests.results import same_bits

CPU = torch.device("cpu")
Task = Callable[..., Dataset]
# One that averages within its step, and one around whose steps the loop does it.
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "ours": lambda params: ALGORITHMS["SGD"](params, lr=0.1, momentum=0.9),
    "torch's": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
}
EPOCHS, STEPS_PER_EPOCH = 3, 11


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3))


def training_of(data: Dataset, name: str, averages: dict[str, Any], **changes: Any) -> Training:
    """Averages are given as class and arguments."""
    model = network()
    parts: dict[str, Any] = {
        "trainer": Trainer(EPOCHS, None, evaluate_every=1, measure_every=4, deterministic=False),
        "averages": {key: kind(model, **options) for key, (kind, options) in averages.items()},
    } | changes
    return Training(
        dataset=data,
        model=model,
        optimizer=OPTIMIZERS[name](model.parameters()),
        scheduler=None,
        device=CPU,
        **parts,
    )


@pytest.mark.parametrize(
    ("start", "every", "due"),
    [
        (0, 1, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (1, 1, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (0, 4, [4, 8]),
        (1, 4, [1, 5, 9]),
        (7, 1, [7, 8, 9]),
        (3, 5, [3, 8]),
        (10, 1, []),
    ],
)
def test_which_steps_are_taken(start: int, every: int, due: list[int]) -> None:
    average = SWA(nn.Linear(1, 1), start, every)
    assert [step for step in range(1, 10) if average.is_due(step)] == due


def test_half_life() -> None:
    """After so many steps, weights count half as much, however many of them are taken."""
    for every in (1, 3):
        model = nn.Linear(1, 1, bias=False)
        average = EMA(model, half_life=12, every=every)
        with torch.no_grad():
            model.weight.fill_(1.0)
            average.update_parameters(model)
            model.weight.fill_(0.0)
            for _ in range(12 // every):
                average.update_parameters(model)
        assert average.module.get_parameter("weight").item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda model: EMA(model), "decay None and half_life None are given; give one"),
        (lambda model: EMA(model, 0.9, 5), "decay 0.9 and half_life 5 are given; give one"),
        (lambda model: Custom(model, print, print), "avg_fn and multi_avg_fn are given; give one"),  # type: ignore[arg-type]
    ],
)
def test_refused(make: Callable[[nn.Module], Average], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make(nn.Linear(1, 1))


def test_a_rate_for_each_group() -> None:
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    groups: list[dict[str, Any]] = [{"params": x.parameters()} for x in (first, second)]
    groups[0]["lr"] = 0.2
    optimizer = torch.optim.SGD(groups, lr=0.1)
    schedule = SWA(first, 2, 1, swa_lr=[0.02, 0.01], anneal=1).schedule(None, optimizer, 1)
    assert schedule is not None
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert rates == [pytest.approx(x) for x in ([0.2, 0.1], [0.2, 0.1], [0.2, 0.1], [0.02, 0.01])]


@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("scheduled", [True, False])
def test_the_rate_from_the_start_on(strategy: Any, scheduled: bool) -> None:
    """From what the schedule has come to, on to the rate of SWA; counted in steps or in epochs of 5."""
    for steps in (1, 5):
        model = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = CosineAnnealingLR(optimizer, T_max=20) if scheduled else None
        average = SWA(model, 8 * steps, 1, swa_lr=0.05, anneal=4 * steps, anneal_strategy=strategy)
        schedule = average.schedule(scheduler, optimizer, steps)
        assert schedule is not None
        rates = []
        for _ in range(16):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        before = [0.05 * (1 + math.cos(math.pi * t / 20)) if scheduled else 0.1 for t in range(8)]
        ways = [min(t / 4, 1) for t in range(8)]
        if strategy == "cos":
            ways = [(1 - math.cos(math.pi * x)) / 2 for x in ways]
        assert rates == pytest.approx([*before, *(before[-1] + (0.05 - before[-1]) * x for x in ways)])
    left_alone = SWA(model, 8, 1)
    assert left_alone.schedule(scheduler, optimizer, 1) is scheduler


def newest_half(average: torch.Tensor, current: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
    """Of no kind that the package knows."""
    return (average + current) / 2


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_as_a_loop_written_by_hand(name: str, task: Task, recorder: Any, seed: int, tmp_path: Path) -> None:
    """With torch's averages, at random steps; what is told of them, and what is saved."""
    generator = random.Random(seed)

    def when() -> dict[str, int]:
        return {"start": generator.randrange(25), "every": generator.choice([1, 1, 2, 5, STEPS_PER_EPOCH])}

    chosen = {"averaged_ema": when(), "averaged_swa": when(), "averaged_mine": when()}
    print(chosen)
    data = task()
    training = training_of(
        data,
        name,
        {
            "averaged_ema": (EMA, {"decay": 0.9, **chosen["averaged_ema"]}),
            "averaged_swa": (SWA, {"use_buffers": False, **chosen["averaged_swa"]}),
            "averaged_mine": (Custom, {"avg_fn": newest_half, **chosen["averaged_mine"]}),
        },
        observer=recorder,
        checkpoints=Checkpoints(tmp_path),
    )
    torch.manual_seed(seed)
    results = training.fit()

    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    averages = {
        "averaged_ema": theirs.AveragedModel(
            model, multi_avg_fn=theirs.get_ema_multi_avg_fn(0.9), use_buffers=True
        ),
        "averaged_swa": theirs.AveragedModel(model),
        "averaged_mine": theirs.AveragedModel(model, avg_fn=newest_half),
    }
    torch.manual_seed(seed)
    step = 0
    for epoch in range(1, EPOCHS + 1):
        model.train()
        for inputs, targets in data.train.batches(8, CPU, epoch):
            optimizer.zero_grad()
            cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            step += 1
            for key, when_due in chosen.items():
                if step >= when_due["start"] and (step - when_due["start"]) % when_due["every"] == 0:
                    averages[key].update_parameters(model)
        begun = {key: x for key, x in averages.items() if x.n_averaged > 0}
        if epoch == EPOCHS and "averaged_swa" in begun:
            with undisturbed():
                theirs.update_bn(data.train.batches(8, CPU, epoch), averages["averaged_swa"])
        [told] = [x[3] for x in recorder.calls if x[0] == "evaluated" and x[1] == step]
        assert {x.partition("/")[0] for x in told} == {"train", "val", *(f"val_{key}" for key in begun)}
        for key, average in begun.items():
            assert data.val is not None
            expected = evaluate(average.module, data.val.batches(32, CPU), CPU, f"val_{key}")
            assert {x: told[x] for x in expected} == pytest.approx(expected, rel=1e-5)

    final = torch.load(tmp_path / f"step-{step:08d}.pt", weights_only=True)
    for key, average in averages.items():
        for place, x in average.state_dict().items():
            torch.testing.assert_close(
                (final["averages"] | final["finished"])[key][place],
                x,
                rtol=1e-6,
                atol=1e-7,
                msg=f"{key} {place}",
            )
        saved = tmp_path / f"{key}.pt"
        assert saved.exists() is (key in begun)
        if key in begun:
            alone = network()
            alone.load_state_dict(torch.load(saved, weights_only=True))
            for x, y in zip(alone.state_dict().values(), average.module.state_dict().values(), strict=True):
                torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)
    scores = [
        ((line[3][f"{split}/accuracy"], -line[3][f"{split}/loss"]), line[1], split)
        for line in recorder.calls
        if line[0] == "evaluated"
        for split in ("val", *(f"val_{key}" for key in averages))
        if f"{split}/accuracy" in line[3]
    ]
    (accuracy, _), best_step, split = max(scores, key=lambda x: x[0])  # the first of equals
    weights = split.removeprefix("val").removeprefix("_") or "model"
    assert (results.best_step, results.best_weights) == (best_step, weights)
    assert results.objective == results.best[f"{split}/accuracy"] == accuracy
    assert f"{split.replace('val', 'test')}/accuracy" in results.best


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_going_on_at_any_step(name: str, task: Task, seed: int) -> None:
    """Two averages with starts and distances of their own, stopped and taken up by another training."""
    generator = random.Random(seed)
    at, start = generator.randint(1, EPOCHS * STEPS_PER_EPOCH - 1), generator.randrange(20)
    every = generator.choice([1, 2, 7])
    print(at, start, every)
    averages = {
        "averaged_ema": (EMA, {"half_life": 5, "start": start, "every": generator.choice([1, 3])}),
        "averaged_swa": (SWA, {"start": generator.randrange(20), "every": every, "update_bn": True}),
    }

    class Stopping(Observer):
        def stepped(self, step: int, epoch: int) -> None:
            if step == at:
                signal.raise_signal(signal.SIGINT)

    data = task()
    torch.manual_seed(seed)
    whole = training_of(data, name, averages)
    torch.manual_seed(seed)
    whole.fit()
    stopped = training_of(data, name, averages, observer=Stopping())
    torch.manual_seed(seed)
    with pytest.raises(Stopped):
        stopped.fit()
    state = copy.deepcopy(stopped.state_dict())
    taken_up = training_of(data, name, averages)
    taken_up.load_state_dict(state)
    taken_up.fit()
    left, right = whole.state_dict(), taken_up.state_dict()
    for key in left.keys() - {"seconds"}:
        assert same_bits(left[key], right[key]), key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_longer_run_goes_on_from_what_was_trained(name: str, task: Task, seed: int, tmp_path: Path) -> None:
    """Statistics that are measured at an end are used there and in best.pt, and trained on nowhere."""
    data, averages = task(), {"averaged": (EMA, {"decay": 0.9, "update_bn": True})}

    def fitted(epochs: int, folder: str, of: dict[str, Any] | None = None) -> tuple[dict[str, Any], Results]:
        length = Trainer(epochs, None, evaluate_every=1, measure_every=4, deterministic=False)
        checkpoints = Checkpoints(tmp_path / folder)
        training = training_of(data, name, averages, trainer=length, checkpoints=checkpoints)
        torch.manual_seed(seed)
        if of is not None:
            training.load_state_dict(copy.deepcopy(of))
        results = training.fit()
        return torch.load(max((tmp_path / folder).glob("step-*.pt")), weights_only=True), results

    whole, _ = fitted(EPOCHS, "whole")
    short, tested = fitted(1, "short")
    assert not same_bits(short["averages"], short["finished"])
    longer, _ = fitted(EPOCHS, "longer", short)
    for key in ("model", "optimizer", "averages", "finished", "random", "latest"):
        assert same_bits(whole[key], longer[key]), key
    _, again = fitted(1, "short", short)  # taken up for the test alone
    assert again.final == tested.final
    # The best is that of the first end, whatever comes later.
    unbeaten = {f"val{x}/{y}": z for x in ("", "_averaged") for y, z in (("accuracy", 2.0), ("loss", 0.0))}
    _, later = fitted(EPOCHS, "short", short | {"best": unbeaten})
    assert later.best_step == STEPS_PER_EPOCH
    on_test = {x: y for x, y in tested.final.items() if x.startswith("test")}
    assert on_test.items() <= later.best.items()


def test_without_validation_the_trained_weights_are_the_best(task: Task) -> None:
    results = training_of(task(val_fraction=0), "ours", {"averaged": (EMA, {"decay": 0.9})}).fit()
    assert (results.best_weights, results.best_step) == ("model", results.steps)
    assert results.objective == results.final["test/accuracy"]
