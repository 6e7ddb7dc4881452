"""Clipping and averaging in a run, within the step or around it: the weights of a loop by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import swa_utils as theirs

from optim_cli.datasets.dataset import Dataset
from optim_cli.optim import ALGORITHMS
from optim_cli.optim.composition import Composition
from optim_cli.optim.swa_utils import AveragedModel
from optim_cli.training.averaging import EMA, SWA
from optim_cli.training.loop import Trainer, Training
from tests.experiments import train
from tests.results import lines_of

CPU = torch.device("cpu")
LIMITS: dict[str, float] = {"clip_norm": 0.6, "clip_value": 0.1}
# Elementwise ones do all of it in their step; others, and torch's own, let the loop do it.
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "AdamW": lambda params: ALGORITHMS["AdamW"](params, lr=0.01),
    "SGD": lambda params: ALGORITHMS["SGD"](params, lr=0.1, momentum=0.9),
    "Muon": lambda params: ALGORITHMS["Muon"](params, lr=0.01),
    "Adafactor": lambda params: ALGORITHMS["Adafactor"](params, lr=0.01),
    "torch's SGD": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_as_a_loop_written_by_hand(name: str, task: Callable[..., Dataset], recorder: Any) -> None:
    data, model = task(), network()
    trainer = Trainer(
        epochs=2, max_steps=None, evaluate_every=1, measure_every=4, deterministic=False, **LIMITS
    )
    optimizer, averages = OPTIMIZERS[name](model.parameters()), {"averaged": EMA(model, 0.9)}
    training = Training(trainer, data, model, optimizer, None, averages, CPU, recorder)
    training.fit()
    other = network()
    optimizer, norms = OPTIMIZERS[name](other.parameters()), []
    averaged = theirs.AveragedModel(other, multi_avg_fn=theirs.get_ema_multi_avg_fn(0.9), use_buffers=True)
    for epoch in (1, 2):
        for inputs, targets in data.train.batches(8, CPU, epoch):
            optimizer.zero_grad()
            cross_entropy(other(inputs), targets).backward()
            norms.append(float(clip_grad_norm_(other.parameters(), LIMITS["clip_norm"])))
            clip_grad_value_(other.parameters(), LIMITS["clip_value"])
            optimizer.step()
            averaged.update_parameters(other)
    assert sum(norm > LIMITS["clip_norm"] for norm in norms) > 2, "choose another limit"
    for found, expected in ((model, other), (training.averages["averaged"], averaged)):
        for x, y in zip(found.state_dict().values(), expected.state_dict().values(), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    told = {x[1]: x[3]["train/grad_norm"] for x in recorder.calls if x[0] == "measured"}
    assert told == pytest.approx({step: norms[step - 1] for step in range(4, 23, 4)}, rel=1e-3)


def test_one_average_is_taken_within_the_step(task: Callable[..., Dataset], recorder: Any) -> None:
    """One of every step, from its start on; an exponential one rather than another."""
    model = network()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    averages = {
        "averaged_swa": SWA(model, start=3, every=1),
        "averaged_ema": EMA(model, 0.9, start=7),
        "averaged_rare": EMA(model, 0.9, start=1, every=2),
    }
    assert isinstance(optimizer, Composition)
    told, original = [], optimizer.average_into

    def average_into(averaged: AveragedModel | None, model: nn.Module | None = None) -> None:
        told.append((training.step + 1, averaged))
        original(averaged, model)

    training = Training(Trainer(1, 10, 1, 1, False), task(), model, optimizer, None, averages, CPU, recorder)
    optimizer.average_into = average_into  # type: ignore[method-assign]
    training.fit()
    assert told == [(3, averages["averaged_swa"]), (7, averages["averaged_ema"])]
    assert [int(x.n_averaged) for x in averages.values()] == [8, 4, 5]


def test_in_a_closure(task: Callable[..., Dataset], recorder: Any) -> None:
    """Every gradient that LBFGS sees is clipped, and a step averages once."""
    model, seen = network(), []

    class Curious(torch.optim.Optimizer):
        def step(self, closure: Callable[[], Any]) -> None:  # type: ignore[override]
            for _ in range(3):
                closure()
                seen.append([p.grad.clone() for p in self.param_groups[0]["params"]])

    trainer = Trainer(1, 5, 1, 1, False, clip_norm=1e-3)
    optimizer = Curious(model.parameters(), {"lr": 0.1})
    training = Training(trainer, task(), model, optimizer, None, {"averaged": EMA(model, 0.9)}, CPU, recorder)
    training.fit()
    norms = [float(torch.cat([g.flatten() for g in gradients]).norm()) for gradients in seen]
    assert norms == pytest.approx([1e-3] * 15, rel=1e-3)
    assert int(training.averages["averaged"].n_averaged) == 5
    told = [x[3]["train/grad_norm"] for x in recorder.calls if x[0] == "measured"]
    assert len(told) == 5
    assert min(told) > 1e-2, "as it was before"


@pytest.mark.parametrize(
    "overrides",
    [("averaging=ema",), ("optimizer=muon", "model.bias=false", "averaging=ema"), ("optimizer=lbfgs",)],
    ids=str,
)
def test_a_run_tells_the_norm(overrides: tuple[str, ...], tmp_path: Path) -> None:
    shared = ("model.hidden=[16]", "trainer.max_steps=20", "trainer.measure_every=5", *overrides)
    done = train(tmp_path / "clipped", *shared, "trainer.clip_norm=1", "trainer.clip_value=0.5")
    lines = [x for x in lines_of(done.directory) if x["event"] == "measured"]
    assert len(lines) == 4
    assert all(0 < x["train/grad_norm"] < 100 for x in lines)
    assert ("val_averaged/accuracy" in done.results.final) == ("averaging=ema" in overrides)
    plain = train(tmp_path / "plain", *shared)
    assert not any("train/grad_norm" in x for x in lines_of(plain.directory))
