"""Functions to minimize, and runs of L-BFGS on them: ours and torch's, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS

LBFGS: Any = ALGORITHMS["LBFGS"]
Function = Callable[..., Tensor]


def rosenbrock(x: Tensor) -> Tensor:
    """A curved valley in any number of dimensions, 0-d."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def far_from_it(size: int, **place: Any) -> Tensor:
    """The customary start [size], -1.2 and 1 in turns."""
    return torch.tensor([-1.2, 1.0], dtype=torch.float64, **place).repeat(size // 2)


def least_squares(generator: torch.Generator, size: int = 20) -> Function:
    """A badly conditioned quadratic of a vector [size]."""
    matrix = torch.randn(2 * size, size, generator=generator, dtype=torch.float64)
    matrix *= torch.logspace(0, -2, size, dtype=torch.float64)
    goal = torch.randn(2 * size, generator=generator, dtype=torch.float64)
    return lambda x: (matrix @ x - goal).square().sum()


class Run:
    """One optimizer on parameters of its own.

    Attributes:
        evaluated: the parameters at each evaluation of the function.
    """

    def __init__(self, cls: Any, function: Function, values: Sequence[Tensor], **options: Any) -> None:
        self.params = [nn.Parameter(x.clone()) for x in values]
        self.optimizer = cls(self.params, **options)
        self.function = function
        self.evaluated: list[Tensor] = []

    def closure(self) -> Tensor:
        self.evaluated.append(self.where())
        self.optimizer.zero_grad()
        loss = self.function(*self.params)
        loss.backward()
        return loss

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.optimizer.step(self.closure)

    def where(self) -> Tensor:
        """All parameters as one vector, copied; complex ones as pairs."""
        return torch.cat(
            [
                torch.view_as_real(p.detach().clone()).flatten() if p.is_complex() else p.detach().flatten()
                for p in self.params
            ]
        ).clone()

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.optimizer.state[self.params[0]]
        return found


def both(function: Function, values: Sequence[Tensor], **options: Any) -> tuple[Run, Run]:
    """Ours and torch's, from the same start."""
    return Run(LBFGS, function, values, **options), Run(torch.optim.LBFGS, function, values, **options)


def assert_same_way(ours: Run, theirs: Run, tolerance: float) -> None:
    """The function was evaluated at the same points, in the same order."""
    assert len(ours.evaluated) == len(theirs.evaluated)
    for x, y in zip(ours.evaluated, theirs.evaluated, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours.where(), theirs.where(), rtol=tolerance, atol=tolerance)
