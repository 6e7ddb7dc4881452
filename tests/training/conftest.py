"""A small task that the tests of training share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from optim_cli.datasets.dataset import Dataset
from optim_cli.datasets.synthetic import synthetic
from optim_cli.training.events import Metrics, Observer, Plan


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def task() -> Callable[..., Dataset]:
    """83 training samples of 3 classes, an uneven last batch at any size but 83."""

    def make(**changes: Any) -> Dataset:
        options: dict[str, Any] = {
            "num_samples": 120,
            "num_classes": 3,
            "input_shape": [1, 4, 4],
            "noise": 1.0,
            "batch_size": 8,
            "val_fraction": 0.1,
            "test_fraction": 0.2,
            "seed": 0,
            "split_seed": 0,
            "data_seed": 0,
            "augmentation": None,
        }
        return synthetic(**(options | changes))

    return make


@dataclass
class Recorder(Observer):
    """Notes every call, in order."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def started(self, plan: Plan) -> None:
        self.calls.append(("started", plan))

    def stepped(self, step: int, epoch: int) -> None:
        self.calls.append(("stepped", step, epoch))

    def measured(self, step: int, epoch: int, metrics: Metrics) -> None:
        self.calls.append(("measured", step, epoch, metrics))

    def evaluated(self, step: int, epoch: int, metrics: Metrics) -> None:
        self.calls.append(("evaluated", step, epoch, metrics))

    def noted(self, text: str) -> None:
        self.calls.append(("noted", text))

    def finished(self, final: Metrics, best: Metrics) -> None:
        self.calls.append(("finished", final, best))

    def close(self) -> None:
        self.calls.append(("close",))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()
