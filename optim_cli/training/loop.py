"""The training loop: batch, forward, backward, step, schedule, average; evaluate and save by epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from optim_cli.datasets.dataset import Dataset
from optim_cli.optim.swa_utils import AveragedModel
from optim_cli.training.checkpoint import CheckpointWriter, read_checkpoint
from optim_cli.training.evaluation import evaluate
from optim_cli.training.events import Metrics, Observer
from optim_cli.training.meter import Meter, Reading, means


@dataclass(frozen=True)
class Trainer:
    """How long to train and what to do on the way (config group `trainer`).

    Attributes:
        epochs: passes over the training set.
        max_steps: stop after this many steps, in the middle of an epoch too; None for no limit.
        evaluate_every: epochs between evaluations (and checkpoints); the last one always is.
        measure_every: steps between entries of training loss and learning rate in the metrics.
        deterministic: make the device repeat its results bit for bit, at some cost in speed.
    """

    epochs: Annotated[int, Ge(1)]
    max_steps: Annotated[int, Ge(1)] | None
    evaluate_every: Annotated[int, Ge(1)]
    measure_every: Annotated[int, Ge(1)]
    deterministic: bool

    def total_steps(self, steps_per_epoch: int) -> int:
        """The length of the run in optimizer steps."""
        steps = self.epochs * steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)


@dataclass
class Results:
    """What a run ends with: metric names and values of the last weights and of the best on val."""

    final: Metrics
    best: Metrics
    best_step: int
    steps: int
    epochs: int
    seconds: float


@dataclass
class Training:
    """One run: its parts and how far it is.

    Attributes:
        scheduler, averaging: None where the run has none.
        checkpoints: None writes none.
    """

    trainer: Trainer
    dataset: Dataset
    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler | None
    averaging: AveragedModel | None
    device: torch.device
    observer: Observer = field(default_factory=Observer)
    checkpoints: CheckpointWriter | None = None
    step: int = 0
    epoch: int = 0
    best: Metrics = field(default_factory=dict)
    best_step: int = 0

    def fit(self) -> Results:
        """Train to the end, then evaluate the last and the best weights on the test set, once.

        The best weights are those that the model holds afterwards, where checkpoints are kept.
        """
        start = perf_counter()
        total = self.trainer.total_steps(self.steps_per_epoch)
        final: Metrics = {}
        while self.step < total:
            self.epoch += 1
            train = self.train_epoch(total)
            if self.epoch % self.trainer.evaluate_every == 0 or self.step == total:
                final = train | self._evaluate()
                self.observer.evaluated(self.step, self.epoch, final)
                is_best = self._is_best(final)
                if is_best:
                    self.best, self.best_step = dict(final), self.step
                if self.checkpoints is not None:
                    self.checkpoints.save(self.state_dict(), self.step, is_best)
        final |= self._test()
        if self.best_step == self.step:
            self.best |= final
        elif self.checkpoints is not None:
            self._load_weights(read_checkpoint(self.checkpoints.best, self.device))
            self.best |= self._test()
        self.observer.finished(final, self.best)
        seconds = perf_counter() - start
        return Results(final, self.best, self.best_step, self.step, self.epoch, seconds)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the training set."""
        return self.dataset.train.num_batches(self.dataset.batch_size)

    def train_epoch(self, total: int) -> Metrics:
        """Train for one epoch, or to step `total` within it; the epoch's mean loss and accuracy."""
        model, optimizer = self.model, self.optimizer
        model.train()
        meter, readings = Meter(self.device), _Readings(self)
        for inputs, targets in self._batches(total):
            logits = model(inputs)
            loss = cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            meter.update(loss.detach(), logits, targets)
            self.step += 1
            if self.step % self.trainer.measure_every == 0:
                readings.add(meter.take())
            if self.scheduler is not None:
                self.scheduler.step()
            if self.averaging is not None:
                self.averaging.update_parameters(model)
            self.observer.stepped(self.step, self.epoch)
        return readings.finish(meter)

    def _batches(self, total: int) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self.dataset.train.batches(self.dataset.batch_size, self.device, self.epoch)
        # zip asks the range first, so that no batch is loaded beyond the last step.
        return (batch for _, batch in zip(range(total - self.step), batches, strict=False))

    def _evaluate(self) -> Metrics:
        if self.dataset.val is None:
            return {}
        return self._metrics_on("val")

    def _test(self) -> Metrics:
        return self._metrics_on("test")

    def _metrics_on(self, name: str) -> Metrics:
        split, size = getattr(self.dataset, name), self.dataset.batch_size
        metrics = evaluate(self.model, split, size, self.device, name)
        if self.averaging is not None:
            averaged = self.averaging.module
            metrics |= evaluate(averaged, split, size, self.device, f"{name}_averaged")
        return metrics

    def _is_best(self, metrics: Metrics) -> bool:
        """By validation accuracy, then loss; without a validation set the latest is the best."""
        if self.dataset.val is None or not self.best:
            return True
        new, old = ((x["val/accuracy"], -x["val/loss"]) for x in (metrics, self.best))
        return new > old

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on from here, in types that `weights_only=True` accepts."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "averaging": None if self.averaging is None else self.averaging.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
            "best": self.best,
            "best_step": self.best_step,
        }

    def _load_weights(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.averaging is not None:
            self.averaging.load_state_dict(state["averaging"])


class _Readings:
    """Training metrics of an epoch on their way from the device, told in order as they arrive."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.pending: list[tuple[int, float, Reading]] = []
        self.all: list[Reading] = []

    def add(self, reading: Reading) -> None:
        rate = float(self.training.optimizer.param_groups[0]["lr"])
        self.pending.append((self.training.step, rate, reading))
        self.all.append(reading)
        while self.pending and self.pending[0][2].ready():
            self._tell()

    def finish(self, meter: Meter) -> Metrics:
        """Tell the rest; the mean over the epoch."""
        while self.pending:
            self._tell()
        rest = meter.take()
        return means(self.all + [rest] * (rest.samples > 0), "train")

    def _tell(self) -> None:
        step, rate, reading = self.pending.pop(0)
        metrics = reading.metrics("train") | {"lr": rate}
        self.training.observer.measured(step, self.training.epoch, metrics)
