"""What a run tells its observers: progress displays, metric files, trackers."""

from __future__ import annotations

from dataclasses import dataclass

Metrics = dict[str, float]


@dataclass(frozen=True)
class GroupRow:
    """A parameter group for people to read.

    Attributes:
        takes: what its parameters have in common, in words.
        tensors, parameters: how many they are, which may be none, and how many numbers are in them.
        values: what differs from the optimizer's own, in words; empty where nothing does.
    """

    name: str
    takes: str
    tensors: int
    parameters: int
    values: str

    def __str__(self) -> str:
        counts = f"{self.tensors} tensor{'s' * (self.tensors != 1)}, {self.parameters:,} parameters"
        counts = counts if self.tensors else "takes nothing"
        return "; ".join(filter(None, (f"{self.name}: {self.takes}", counts, self.values)))


@dataclass(frozen=True)
class Plan:
    """What a run is about to do, known before its first step; `start` steps are done already."""

    device: str
    model: str
    parameters: int
    dataset: str
    synthetic: bool
    optimizer: str
    schedule: str
    averaging: str
    epochs: int
    steps: int
    batch_size: int
    start: int = 0
    groups: tuple[GroupRow, ...] = ()


class Observer:
    """Is told of a run's events; every method may be left as it is.

    `stepped` is called at every step, between launches: it must not wait for the device.
    """

    def started(self, plan: Plan) -> None:
        """The run begins."""

    def stepped(self, step: int, epoch: int) -> None:
        """`step` steps are done, the last of them in `epoch` (both count from 1)."""

    def measured(self, step: int, epoch: int, metrics: Metrics) -> None:
        """Training metrics over the steps since the last such event, and the learning rate."""

    def evaluated(self, step: int, epoch: int, metrics: Metrics) -> None:
        """An evaluation, with the training metrics of the epoch."""

    def noted(self, text: str) -> None:
        """Something that people should know, in a line: a warning, a signal. May come at any time."""

    def finished(self, final: Metrics, best: Metrics) -> None:
        """The run is complete."""

    def close(self) -> None:
        """The run is over, complete or not: give back what was opened."""


class Observers(Observer):
    """Several observers told as one."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def started(self, plan: Plan) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.started(plan)

    def stepped(self, step: int, epoch: int) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.stepped(step, epoch)

    def measured(self, step: int, epoch: int, metrics: Metrics) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.measured(step, epoch, metrics)

    def evaluated(self, step: int, epoch: int, metrics: Metrics) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.evaluated(step, epoch, metrics)

    def noted(self, text: str) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.noted(text)

    def finished(self, final: Metrics, best: Metrics) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.finished(final, best)

    def close(self) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.close()
