"""Every algorithm, with its YAML's values, goes down a parabola, along a bent valley, to a classifier.

A problem sets the number of steps and how far down is enough; it holds for all algorithms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optim_cli.assemble import resolve
from optim_cli.datasets.digits import digits
from optim_cli.optim import ALGORITHMS
from tests.experiments import ROOT, config_of
from tests.optim.any_algorithm import wants_sparse

CHOICES = sorted(path.stem for path in (ROOT / "configs" / "optimizer").glob("*.yaml"))


@dataclass
class Problem:
    """What to minimise, from where, in how many steps.

    Attributes:
        start: a matrix, which every algorithm takes.
        enough: the part of the first loss that may be left.
    """

    loss: Callable[[Tensor], Any]
    start: Tensor
    steps: int
    enough: float


def parabola() -> Problem:
    """Curvatures from 0.1 to 1 in sixteen directions."""
    curvature = torch.logspace(-1, 0, 16).view(4, 4)
    return Problem(lambda x: (curvature * x.square()).sum() / 2, torch.full((4, 4), 0.2), 300, 0.1)


def valley() -> Problem:
    """Rosenbrock's function (1960), a tenth in size, its largest curvature on the way about 1.

    At the bottom of the valley beside the start, 0.165 of the loss is left: less is only along the valley.
    """

    def loss(x: Tensor) -> Any:
        a, b = 10 * x.flatten()
        return ((1 - a).square() + 100 * (b - a.square()).square()) / 1e5

    return Problem(loss, torch.tensor([[-0.12], [0.1]]), 1200, 0.14)


def classifier() -> Problem:
    """Logistic regression on 359 digits."""
    data = digits(batch_size=64, val_fraction=0.0, test_fraction=0.2, seed=0, split_seed=0, augmentation=None)
    images, labels = next(data.test.batches(len(data.test), torch.device("cpu")))
    images = images.flatten(1)
    # Not from zero: Adafactor's steps are as small as what they change.
    start = 0.1 * torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    return Problem(lambda weights: cross_entropy(images @ weights, labels), start, 200, 0.3)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("problem", [parabola, valley, classifier])
def test_loss_falls(problem: Callable[[], Problem], choice: str) -> None:
    given = problem()
    losses = minimise(given, resolve(config_of(f"optimizer={choice}"))["optimizer"])
    assert losses[-1] < given.enough * losses[0]


def minimise(problem: Problem, options: dict[str, Any]) -> list[float]:
    """Losses before each step."""
    name = options.pop("_target_").rpartition(".")[2]
    x = nn.Parameter(problem.start.clone())
    optimizer = ALGORITHMS[name]([x], **options)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = problem.loss(x)
        loss.backward()
        if wants_sparse(name):
            assert x.grad is not None
            x.grad = x.grad.to_sparse()
        return loss

    return [optimizer.step(closure).item() for _ in range(problem.steps)]
