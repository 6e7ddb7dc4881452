"""A step on one batch: who needs a closure, and what the closure leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optim_cli.datasets.dataset import Dataset
from optim_cli.optim import ALGORITHMS
from optim_cli.training.around_step import AroundStep
from optim_cli.training.events import Observer
from optim_cli.training.loop import Trainer, Training
from optim_cli.training.step import step_of, step_once, step_with_closure
from tests.experiments import train

CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.5), nn.Linear(8, 3))


def test_the_signature_says_who_needs_a_closure() -> None:
    theirs = {name: getattr(torch.optim, name) for name in ("Adam", "SGD", "Rprop", "LBFGS")}
    for known in (ALGORITHMS, theirs):
        needy = set()
        for name, cls in known.items():
            optimizer = cls([nn.Parameter(torch.ones(2, 2))])
            torch.optim.lr_scheduler.StepLR(optimizer, 1)  # wraps `step`
            if step_of(optimizer) is step_with_closure:
                needy.add(name)
            else:
                assert step_of(optimizer) is step_once
        assert needy == {"LBFGS"}


class Curious(torch.optim.Optimizer):
    """Evaluates three times, and moves the parameters in between."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})
        self.losses: list[float] = []
        self.norms: list[float] = []

    def step(self, closure: Callable[[], Any]) -> None:  # type: ignore[override]
        for move in (0.0, 0.0, 0.5):
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.add_(move)
            self.losses.append(float(closure().detach()))
            self.norms.append(float(self.param_groups[0]["params"][0].grad.norm()))


def test_evaluations_draw_the_same_numbers(seed: int) -> None:
    model = network()
    optimizer = Curious(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(32, 1, 4, 4, generator=generator)
    targets = torch.randint(0, 3, (32,), generator=generator)
    torch.manual_seed(1)
    expected = cross_entropy(model(inputs), targets)
    drawn_next = torch.rand(3)
    torch.manual_seed(1)
    around = AroundStep(model, optimizer, (), None, None)
    loss, logits = step_of(optimizer)(model, optimizer, around, inputs, targets)
    assert torch.equal(torch.rand(3), drawn_next), "as after one evaluation"
    same, again, moved = optimizer.losses
    assert same == again == float(expected.detach()) != moved
    assert optimizer.norms[0] == optimizer.norms[1], "gradients are cleared in between"
    assert torch.equal(loss, expected), "the first one is measured"
    assert not loss.requires_grad
    assert cross_entropy(logits, targets) == loss


def test_as_a_loop_written_by_hand(task: Callable[..., Dataset], recorder: Any) -> None:
    """Bit for bit, and every sample is counted once."""
    data = task()
    options: dict[str, Any] = dict(max_iter=3, line_search_fn="strong_wolfe")

    def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        # Without dropout: by hand, its numbers would be drawn anew at each evaluation.
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
        return model, ALGORITHMS["LBFGS"](model.parameters(), **options)

    model, optimizer = parts()
    trainer = Trainer(epochs=1, max_steps=None, evaluate_every=1, measure_every=100, deterministic=False)
    training = Training(trainer, data, model, optimizer, None, {}, CPU, recorder)
    training.fit()
    model, optimizer = parts()
    total = 0.0
    for inputs, targets in data.train.batches(data.batch_size, CPU, 1):

        def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Any:
            optimizer.zero_grad()
            loss = cross_entropy(model(inputs), targets)
            loss.backward()
            return loss

        first: Any = optimizer.step(closure)
        total += float(first.detach()) * len(targets)
    for x, y in zip(training.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(x, y)
    [metrics] = [x[3] for x in recorder.calls if x[0] == "evaluated"]
    assert metrics["train/loss"] == pytest.approx(total / len(data.train), rel=1e-6)


def test_torchs_own_trains_too(tmp_path: Path) -> None:
    overrides = ("optimizer=lbfgs", "optimizer._target_=torch.optim.LBFGS", "~optimizer.implementation")
    done = train(tmp_path / "run", *overrides, "model.hidden=[16]", "trainer.epochs=3")
    assert done.results.final["val/accuracy"] > 0.7


def test_a_run_may_end_in_a_closure_that_diverges(task: Callable[..., Dataset]) -> None:
    model = network()
    optimizer = ALGORITHMS["LBFGS"](model.parameters(), lr=1e30)
    trainer = Trainer(epochs=1, max_steps=3, evaluate_every=1, measure_every=1, deterministic=False)
    results = Training(trainer, task(), model, optimizer, None, {}, CPU, Observer()).fit()
    assert results.steps == 3
