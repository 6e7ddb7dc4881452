"""Rounding errors of a step over a million elements, beside torch's, both against the formula in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from optim_cli.optim import ALGORITHMS
from tests.optim.oracle import NAMES, Options, entries, give, parameters, params_of, ran, theirs_of

ELEMENTS = 1_000_000
STEPS = 3
# Our root mean square error over torch's, and our largest.
LIMIT = 1.05


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """0-d states and the arithmetic on them are exact on all sides."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


def stepped(
    cls: type[torch.optim.Optimizer], values: list[Tensor], options: Options
) -> torch.optim.Optimizer:
    start, *gradients = values
    optimizer = cls(parameters([start]), **options)
    for g in gradients:
        give(params_of(optimizer), [g])
        optimizer.step()
    return optimizer


def errors(optimizer: torch.optim.Optimizer, exact: torch.optim.Optimizer) -> tuple[float, float]:
    """Of the parameters: root mean square, and the largest: a mean of a hundred, since one is chance."""
    off = entries(optimizer)["p"][0].double() - entries(exact)["p"][0]
    return off.square().mean().sqrt().item(), off.abs().topk(100).values.mean().item()


@pytest.mark.parametrize("foreach", [True, False], ids=["foreach", "for_loop"])
@pytest.mark.parametrize("name", NAMES)
def test_no_less_accurate_than_torch(name: str, foreach: bool, generator: torch.Generator) -> None:
    values = [torch.randn(ELEMENTS, generator=generator, dtype=torch.float32) for _ in range(1 + STEPS)]
    exact = stepped(theirs_of(name), [x.double() for x in values], {"foreach": False})
    ours = stepped(ALGORITHMS[name], values, {"foreach": foreach})
    theirs = stepped(theirs_of(name), values, {"foreach": foreach})
    assert ran(ours) == {"foreach" if foreach else "for_loop": STEPS}
    for mine, torchs in zip(errors(ours, exact), errors(theirs, exact), strict=True):
        assert mine <= torchs * LIMIT
