"""The loop: the order of its calls, what it measures, when it evaluates and saves, which weights it tests."""

from __future__ import annotations

import copy
import inspect
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import swa_utils as theirs

from optim_cli import optim
from optim_cli.datasets.dataset import Dataset
from optim_cli.optim.lr_scheduler.cosine import CosineAnnealingLR
from optim_cli.training.averaging import EMA
from optim_cli.training.checkpoint import Checkpoints, read_checkpoint
from optim_cli.training.evaluation import evaluate
from optim_cli.training.events import Observer, Observers
from optim_cli.training.loop import Trainer, Training
from optim_cli.training.stop import Stopped
from tests.experiments import nested

CPU = torch.device("cpu")
SGD: Any = optim.ALGORITHMS["SGD"]
Task = Callable[..., Dataset]


def trainer(**changes: Any) -> Trainer:
    options = dict(epochs=2, max_steps=None, evaluate_every=1, measure_every=3, deterministic=False)
    return Trainer(**(options | changes))


def network(seed: int = 0) -> nn.Module:
    """With dropout and batch normalization, which tell training from evaluation."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))


def training_of(data: Dataset, observer: Observer, **changes: Any) -> Training:
    """SGD under a cosine with an average, unless changed."""
    model = changes.pop("model", None) or network()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    parts: dict[str, Any] = {
        "trainer": trainer(),
        "scheduler": CosineAnnealingLR(optimizer, T_max=22),
        "averages": {"averaged": EMA(model, 0.9)},
        "checkpoints": None,
    } | changes
    return Training(dataset=data, model=model, optimizer=optimizer, device=CPU, observer=observer, **parts)


def test_total_steps() -> None:
    assert trainer().total_steps(11) == 22
    assert trainer(max_steps=5).total_steps(11) == 5
    assert trainer(max_steps=22).total_steps(11) == 22
    assert trainer(max_steps=23).total_steps(11) == 22


def test_as_a_loop_written_by_hand(task: Task, recorder: Any) -> None:
    """Bit for bit, with torch's own average."""
    data = task()
    training = training_of(data, recorder)
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = CosineAnnealingLR(optimizer, T_max=22)
    averaged = theirs.AveragedModel(model, multi_avg_fn=theirs.get_ema_multi_avg_fn(0.9), use_buffers=True)
    torch.manual_seed(1)
    training.fit()
    torch.manual_seed(1)
    losses = []
    for epoch in (1, 2):
        model.train()
        for inputs, targets in data.train.batches(8, CPU, epoch):
            loss = cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            averaged.update_parameters(model)
            losses.append(loss.item())
    assert training.step == len(losses) == 22
    for (name, left), right in zip(
        training.model.state_dict().items(), model.state_dict().values(), strict=True
    ):
        assert torch.equal(left, right), name
    for (name, left), right in zip(
        training.averages["averaged"].state_dict().items(), averaged.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(left, right, rtol=0, atol=0, msg=name)
    # What is told of the way: the loss over the steps since the last telling, and the rate of that step.
    told = [x for x in recorder.calls if x[0] == "measured"]
    assert [x[1] for x in told] == [3, 6, 9, 12, 15, 18, 21]
    assert told[0][3]["train/loss"] == pytest.approx(sum(losses[:3]) / 3, rel=1e-6)
    rates = CosineAnnealingLR(SGD(model.parameters(), lr=0.1), T_max=22).table(22)["lr"].flatten().tolist()
    assert [x[3]["lr"] for x in told] == pytest.approx([rates[x[1] - 1] for x in told])


def test_order_of_events(task: Task, recorder: Any, tmp_path: Path) -> None:
    data = task()
    training = training_of(
        data, recorder, trainer=trainer(max_steps=17, measure_every=5), checkpoints=Checkpoints(tmp_path)
    )
    training.fit()
    expected: list[tuple[Any, ...]] = []
    for step in range(1, 18):
        if step % 5 == 0:
            expected.append(("measured", step, 1 + step // 12))
        expected.append(("stepped", step, 1 + step // 12))
        if step in (11, 17):
            expected.append(("evaluated", step, 1 + step // 12))
    expected.append(("finished",))
    assert [x[:3] if x[0] != "finished" else x[:1] for x in recorder.calls] == expected
    final, best = recorder.calls[-1][1:]
    assert final.keys() == best.keys()
    assert {x.partition("/")[0] for x in final} == {"train", "val", "val_averaged", "test", "test_averaged"}


def test_measurements_start_anew_each_epoch(task: Task, recorder: Any) -> None:
    """An evaluation tells the mean of its own epoch, every sample counted once."""
    data = task()
    training_of(data, recorder, trainer=trainer(measure_every=4, epochs=1), averages={}).fit()
    model = network()
    model.train()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = CosineAnnealingLR(optimizer, T_max=22)
    torch.manual_seed(0)
    network()  # as many draws as training_of makes
    total = count = 0.0
    for inputs, targets in data.train.batches(8, CPU, 1):
        loss = cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        total, count = total + loss.item() * len(targets), count + len(targets)
    [evaluated] = [x for x in recorder.calls if x[0] == "evaluated"]
    assert count == len(data.train)
    assert len(data.train) % 8 != 0
    assert evaluated[3]["train/loss"] == pytest.approx(total / count, rel=1e-6)


def test_no_batch_is_loaded_beyond_the_last_step(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    data = task()
    loaded = []
    original = type(data.train).batches

    def batches(self: Any, *arguments: Any, **options: Any) -> Any:
        for batch in original(self, *arguments, **options):
            if self is data.train:
                loaded.append(len(batch[1]))
            yield batch

    monkeypatch.setattr(type(data.train), "batches", batches)
    training_of(data, Observer(), trainer=trainer(max_steps=13)).fit()
    assert len(loaded) == 13


def test_checkpoints_follow_evaluations(task: Task, tmp_path: Path) -> None:
    writer = Checkpoints(tmp_path)
    saved = []
    original = writer.save

    def save(state: dict[str, Any], step: int, best: bool) -> Path:
        saved.append((step, best, copy.deepcopy(state)))
        return original(state, step, best)

    writer.save = save  # type: ignore[method-assign]
    training = training_of(
        task(), Observer(), trainer=trainer(epochs=7, evaluate_every=3), checkpoints=writer, averages={}
    )
    results = training.fit()
    assert [x[0] for x in saved] == [33, 66, 77]
    assert saved[0][1], "the first is the best so far"
    assert max(step for step, best, _ in saved if best) == results.best_step
    accuracies = [nested(x[2], ["best"])["val/accuracy"] for x in saved]
    assert accuracies == sorted(accuracies)
    assert results.steps == 77
    assert results.epochs == 7
    state = read_checkpoint(writer.best)
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, state["model"][name]), name


def test_best_by_accuracy_then_loss(task: Task) -> None:
    training = training_of(task(), Observer())
    for old, new, better in (
        ((0.5, 1.0), (0.6, 2.0), True),
        ((0.5, 1.0), (0.5, 0.9), True),
        ((0.5, 1.0), (0.5, 1.0), False),
        ((0.5, 1.0), (0.5, 1.1), False),
        ((0.5, 1.0), (0.4, 0.1), False),
    ):
        training.best = {"val/accuracy": old[0], "val/loss": old[1]}
        assert training._is_best({"val/accuracy": new[0], "val/loss": new[1]}, "model") is better
    training.best = {}
    assert training._is_best({"val/accuracy": 0.0, "val/loss": torch.nan}, "model")


def test_evaluation_is_exact_and_leaves_the_model_alone(task: Task) -> None:
    data = task()
    model = network()
    for mode in (True, False):
        model.train(mode)
        before = copy.deepcopy(model.state_dict())
        metrics = evaluate(model, data.test.batches(3, CPU), CPU, "test")
        assert model.training is mode
        assert all(torch.equal(before[x], y) for x, y in model.state_dict().items())
        (inputs, targets), *rest = data.test.batches(len(data.test), CPU)
        assert not rest
        with torch.no_grad():
            logits = copy.deepcopy(model).eval()(inputs)
        assert metrics["test/loss"] == pytest.approx(cross_entropy(logits, targets).item(), rel=1e-6)
        assert metrics["test/accuracy"] == (logits.argmax(1) == targets).double().mean().item()
    assert all(p.grad is None for p in model.parameters())


def test_evaluation_draws_nothing(task: Task) -> None:
    """So that evaluating more often does not change the training."""
    states = []
    for every in (1, 3):
        torch.manual_seed(0)
        training = training_of(task(), Observer(), trainer=trainer(epochs=3, evaluate_every=every))
        training.fit()
        states.append(training.model.state_dict())
    assert all(torch.equal(x, y) for x, y in zip(states[0].values(), states[1].values(), strict=True))


class Noise(nn.Module):
    """Draws in evaluation too, as a user's model may."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.rand_like(inputs)


def test_what_an_evaluation_draws_leaves_no_trace(task: Task) -> None:
    states = []
    for every in (1, 3):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), Noise(), nn.Linear(16, 3))
        training = training_of(
            task(), Observer(), model=model, trainer=trainer(epochs=3, evaluate_every=every)
        )
        training.fit()
        states.append(training.model.state_dict())
    assert all(torch.equal(x, y) for x, y in zip(states[0].values(), states[1].values(), strict=True))


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_signal_in_an_evaluation(
    task: Task, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """It ends after a batch; what is saved is the state from before it."""
    data = task()
    evaluated = getattr(data, part)
    original, loaded = type(evaluated).batches, []

    def batches(self: Any, size: int, *arguments: Any) -> Any:
        for batch in original(self, 2 if self is evaluated else size, *arguments):
            if self is evaluated:
                loaded.append(batch)
                if len(loaded) == 2:
                    signal.raise_signal(signal.SIGINT)
            yield batch

    monkeypatch.setattr(type(evaluated), "batches", batches)
    training = training_of(data, recorder, checkpoints=Checkpoints(tmp_path))
    with pytest.raises(Stopped) as stopped:
        training.fit()
    assert len(loaded) == 2
    step, known = {"val": (11, 0), "test": (22, 22)}[part]
    assert (stopped.value.step, stopped.value.total, stopped.value.signum) == (step, 22, signal.SIGINT)
    state = read_checkpoint(tmp_path / f"step-{step:08d}.pt")
    assert (state["step"], state["evaluated"]) == (step, known)
    assert [x[1] for x in recorder.calls if x[0] == "evaluated"] == [11, 22][: known // 11]
    assert recorder.calls[-1][0] == "noted"


def test_observers_pass_everything_on(recorder: Any) -> None:
    others = type(recorder)()
    told = Observers(recorder, others)
    methods = [name for name, _ in inspect.getmembers(Observer, inspect.isfunction)]
    assert len(methods) == 7
    for name in methods:
        count = len(inspect.signature(getattr(Observer, name)).parameters) - 1
        getattr(told, name)(*range(count))
        getattr(Observer(), name)(*range(count))  # every event may be left as it is
    assert recorder.calls == others.calls
    assert {x[0] for x in recorder.calls} == set(methods)
