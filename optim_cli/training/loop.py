"""The training loop: batch, forward, backward, step and average, schedule; evaluate and save by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from time import perf_counter
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from optim_cli.datasets.dataset import Dataset, Split
from optim_cli.optim.param_groups import Group, Unfreezing
from optim_cli.training.around_step import AroundStep
from optim_cli.training.averaging import Average
from optim_cli.training.checkpoint import Checkpoints, Damaged, read_checkpoint
from optim_cli.training.evaluation import MODEL, evaluate, merit, prefix_of
from optim_cli.training.events import Metrics, Observer
from optim_cli.training.meter import EpochMeter
from optim_cli.training.randomness import random_state, set_random_state, undisturbed
from optim_cli.training.rates import rates_of
from optim_cli.training.scheduling import Pace
from optim_cli.training.step import step_of
from optim_cli.training.stop import Stopped, StopRequest, listening

# Attributes of a training that a checkpoint holds as they are.
POSITION = ("step", "epoch", "latest", "evaluated", "best", "best_step", "best_weights")
# Evaluation keeps nothing for a backward pass, so that larger batches fit than in training.
EVALUATION_SCALE = 4


@dataclass(frozen=True)
class Trainer:
    """How long to train and what to do on the way (config group `trainer`).

    Attributes:
        epochs: passes over the training set.
        max_steps: stop after this many steps, in the middle of an epoch too; None for no limit.
        evaluate_every: epochs between evaluations (and checkpoints); the last one always is.
        measure_every: steps between entries of training loss and learning rate in the metrics.
        deterministic: make the device repeat its results bit for bit, at some cost in speed.
        clip_norm: limit of the L2 norm of all gradients together, which is then measured; None for no limit.
        clip_value: limit of the absolute value of every element of a gradient, after that; None for no limit.
    """

    epochs: Annotated[int, Ge(1)]
    max_steps: Annotated[int, Ge(1)] | None
    evaluate_every: Annotated[int, Ge(1)]
    measure_every: Annotated[int, Ge(1)]
    deterministic: bool
    clip_norm: Annotated[float, Gt(0)] | None = None
    clip_value: Annotated[float, Gt(0)] | None = None

    def total_steps(self, steps_per_epoch: int) -> int:
        """The length of the run in optimizer steps."""
        steps = self.epochs * steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)


@dataclass
class Results:
    """What a run ends with: metric names and values of the last step and of the best one on val.

    `best_weights` are the best at that step: `model`, or the name of an average.
    """

    final: Metrics
    best: Metrics
    best_step: int
    best_weights: str
    steps: int
    epochs: int
    seconds: float

    @property
    def objective(self) -> float:
        """Accuracy of the best weights on val; without a validation set, of the last on test."""
        chosen = f"{prefix_of('val', self.best_weights)}/accuracy"
        return self.best.get(chosen, self.final["test/accuracy"])


@dataclass
class Training:
    """One run: its parts and how far it is.

    Attributes:
        scheduler: None where the run has none.
        averages: of the weights, by name; metrics of `averaged` are called val_averaged/...
        checkpoints: None writes none.
        stop: whether to stop before the end.
        pace: when the scheduler goes on.
        groups: how the parameters are dealt out; empty where all are trained alike.
        step, epoch: steps done, and the epoch of the last one; both count from 1.
        latest, evaluated: training and validation metrics of the last evaluation, and its step.
        best, best_step, best_weights: those of the best one, and which weights were the best then.
        around: what is done around the optimizer's steps.
        unfreezing: what of the parameters is not trained yet.
        epoch_meter: training metrics of `epoch`.
        unfinished: states of the averages from before they were finished, for a longer run to go on from;
            None before the last step.
        started: when the run began, on the clock of `perf_counter`; later by the time that it was stopped.
    """

    trainer: Trainer
    dataset: Dataset
    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler | None
    averages: Mapping[str, Average]
    device: torch.device
    observer: Observer = field(default_factory=Observer)
    checkpoints: Checkpoints | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    pace: Pace = field(default_factory=Pace)
    groups: Sequence[Group] = ()
    step: int = 0
    epoch: int = 0
    latest: Metrics = field(default_factory=dict)
    evaluated: int = 0
    best: Metrics = field(default_factory=dict)
    best_step: int = 0
    best_weights: str = MODEL
    around: AroundStep = field(init=False)
    unfreezing: Unfreezing = field(init=False)
    epoch_meter: EpochMeter = field(init=False)
    unfinished: dict[str, Any] | None = None
    started: float = field(default_factory=perf_counter)

    def __post_init__(self) -> None:
        limits = self.trainer.clip_norm, self.trainer.clip_value
        self.around = AroundStep(self.model, self.optimizer, self.averages.values(), *limits)
        self.unfreezing = Unfreezing(self.groups)
        self.epoch_meter = EpochMeter(self.device, self._tell)

    def fit(self) -> Results:
        """Train to the end, then evaluate the last and the best weights on the test set, once.

        The best weights are those that the model holds afterwards, where checkpoints are kept.

        Raises:
            Stopped: a signal asked for it; `state_dict` is saved as of the last step.
        """
        with listening(self.stop, self.observer.noted):
            try:
                self._train()
            except Stopped:
                self._save(best=False)
                raise
            final, best = self._test()
            self.observer.finished(final, best)
        seconds = perf_counter() - self.started
        return Results(final, best, self.best_step, self.best_weights, self.step, self.epoch, seconds)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the training set."""
        return self.dataset.train.num_batches(self.dataset.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.trainer.total_steps(self.steps_per_epoch)

    def _train(self) -> None:
        total = self.total_steps
        while True:
            if self._evaluation_is_due(total):
                self._evaluate()
            elif self.step < total:
                if self.step == self.epoch * self.steps_per_epoch:
                    self.epoch += 1
                self.train_epoch(total)
            else:
                return

    def train_epoch(self, total: int) -> None:
        """Train for the rest of the epoch, or to step `total` within it.

        Raises:
            Stopped: after a step, on request.
        """
        steps_per_epoch = self.steps_per_epoch
        first = self.step - (self.epoch - 1) * steps_per_epoch
        if first == 0:
            self.epoch_meter = EpochMeter(self.device, self._tell)
        model, optimizer, around, stop = self.model, self.optimizer, self.around, self.stop
        meter = self.epoch_meter.meter
        take_step = step_of(optimizer)
        model.train()
        for inputs, targets in self._batches(first, total):
            self.unfreezing.before_step(self.step + 1)
            around.before_step(self.step + 1)
            loss, logits = take_step(model, optimizer, around, inputs, targets)
            meter.update(loss, logits, targets)
            self.step += 1
            if self.step % self.trainer.measure_every == 0:
                self.epoch_meter.measure(self.step, rates_of(optimizer), around.grad_norm)
            if self.scheduler is not None:
                self.pace.after_step(self.scheduler, self.step, steps_per_epoch)
            self.observer.stepped(self.step, self.epoch)
            if stop.signum is not None:
                raise Stopped(self.step, total, stop.signum)
        self.epoch_meter.flush()

    def _batches(self, first: int, total: int) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self.dataset.train.batches(self.dataset.batch_size, self.device, self.epoch, first)
        # zip asks the range first, so that no batch is loaded beyond the last step.
        return (batch for _, batch in zip(range(total - self.step), batches, strict=False))

    def _tell(self, step: int, metrics: Metrics) -> None:
        self.observer.measured(step, self.epoch, metrics)

    def _evaluation_is_due(self, total: int) -> bool:
        at_the_end_of_an_epoch = self.step == self.epoch * self.steps_per_epoch
        asked_for = at_the_end_of_an_epoch and self.epoch % self.trainer.evaluate_every == 0
        return self.evaluated < self.step and (asked_for or self.step == total)

    def _evaluate(self) -> None:
        """Evaluate the weights as they are now, and save."""
        if self.step == self.total_steps:
            self._finish_averages()
        metrics = self.epoch_meter.mean()
        if self.dataset.val is not None:
            metrics |= self._metrics_on(self.dataset.val, "val")
        self.observer.evaluated(self.step, self.epoch, metrics)
        if self.scheduler is not None:
            self.pace.after_evaluation(self.scheduler, metrics)
        weights = self._best_weights(metrics)
        is_best = self._is_best(metrics, weights)
        self.latest, self.evaluated = metrics, self.step
        if is_best:
            self.best, self.best_step, self.best_weights = metrics, self.step, weights
        if self.checkpoints is not None:
            # Before the checkpoint: a run killed in between goes on from an earlier one and writes them anew.
            for name, average in self._begun():
                self.checkpoints.save_weights(name, average.module)
        self._save(is_best)

    def _begun(self) -> list[tuple[str, Average]]:
        """The averages that hold weights of some step already."""
        return [(name, average) for name, average in self.averages.items() if average.n_averaged > 0]

    def _finish_averages(self) -> None:
        measured = [name for name, average in self._begun() if average.update_bn]
        self.unfinished = {name: deepcopy(self.averages[name].state_dict()) for name in measured}
        # Shuffled and augmented as the last epoch was, which is the same in a run that was resumed.
        for _, average in self._begun():
            batches = self.dataset.train.batches(self.dataset.batch_size, self.device, self.epoch)
            with undisturbed():
                average.finish(self._until_stopped(batches))

    def _test(self) -> tuple[Metrics, Metrics]:
        """Metrics of the last and of the best weights, those on the test set among them.

        Without test metrics where the best weights are lost, which is told.
        """
        if self.unfinished is None:  # taken up after the last evaluation
            self._finish_averages()
        final = self.latest | self._metrics_on(self.dataset.test, "test")
        if self.best_step == self.step:
            return final, self.best | final
        if self.checkpoints is None:
            return final, self.best
        try:
            state = read_checkpoint(self.checkpoints.best, ("step", "model", "averages", "finished"))
            if state["step"] != self.best_step:
                raise Damaged(f"{self.checkpoints.best} is of step {state['step']}, not of {self.best_step}")
        except Damaged as error:
            self.observer.noted(f"warning: {error}; the best weights are not tested")
            return final, self.best
        self._load_weights(state | {"averages": state["averages"] | state["finished"]})
        return final, self.best | self._metrics_on(self.dataset.test, "test")

    def _metrics_on(self, split: Split, name: str) -> Metrics:
        def metrics_of(model: nn.Module, prefix: str) -> Metrics:
            batches = split.batches(EVALUATION_SCALE * self.dataset.batch_size, self.device)
            return evaluate(model, self._until_stopped(batches), self.device, prefix)

        with undisturbed():
            metrics = metrics_of(self.model, name)
            for weights, average in self._begun():
                metrics |= metrics_of(average.module, prefix_of(name, weights))
        return metrics

    def _until_stopped(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches:
            if self.stop.signum is not None:
                raise Stopped(self.step, self.total_steps, self.stop.signum)
            yield batch

    def _best_weights(self, metrics: Metrics) -> str:
        """Those with the highest merit on val; without a validation set, those that are trained."""
        if self.dataset.val is None:
            return MODEL
        return max([MODEL, *(name for name, _ in self._begun())], key=lambda name: merit(metrics, name))

    def _is_best(self, metrics: Metrics, weights: str) -> bool:
        """By merit on val; without a validation set the latest is the best."""
        if self.dataset.val is None or not self.best:
            return True
        return merit(metrics, weights) > merit(self.best, self.best_weights)

    def _save(self, best: bool) -> None:
        # So that what is told of the steps before a checkpoint is told before it is there.
        self.epoch_meter.flush()
        if self.checkpoints is not None:
            self.checkpoints.save(self.state_dict(), self.step, best)

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on from here, in types that `weights_only=True` accepts.

        `averages` are those to go on from, `finished` those of the last step as they are used, where that
        is not the same.
        """
        averages = {name: average.state_dict() for name, average in self.averages.items()}
        unfinished = self.unfinished or {}
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "averages": averages | unfinished,
            "finished": {name: averages[name] for name in unfinished},
            "random": random_state(),
            "epoch_sums": self.epoch_meter.state(),
            "total_steps": self.total_steps,
            "steps_per_epoch": self.steps_per_epoch,
            "seconds": perf_counter() - self.started,
        } | {name: getattr(self, name) for name in POSITION}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken, in a run of the same config.

        Random generators are set last: nothing may draw between this call and `fit`.

        Raises:
            RuntimeError, ValueError, KeyError: it is the state of other parts.
        """
        self._load_weights(state)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for name in POSITION:
            setattr(self, name, state[name])
        self.epoch_meter = EpochMeter(self.device, self._tell, state["epoch_sums"])
        self.started = perf_counter() - state["seconds"]
        set_random_state(state["random"])

    def _load_weights(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for name, average in self.averages.items():
            average.load_state_dict(state["averages"][name])
