"""Averages whose decay depends on the count, and whose dtype is their own, in the one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS
from optim_cli.optim.swa_utils import (
    AveragedModel,
    ExponentialAverage,
    InverseGammaWarmup,
    PowerWarmup,
    Warmup,
    get_ema_multi_avg_fn,
)
from tests.optim.execution.fused.interpreted.side_by_side import SOME, values_of
from tests.optim.oracle import give, like, params_of, ran

STEPS = 4
WARMUPS: list[Warmup] = [InverseGammaWarmup(2.5, 0.75), PowerWarmup(3.0), PowerWarmup(0.0)]


@dataclass(frozen=True)
class Hyperbolic(Warmup):
    """One of a program's own."""

    @staticmethod
    def formula(count: Any) -> Any:
        """TensorFlow's decay."""
        return (1 + count) / (10 + count)


WARMUPS.append(Hyperbolic())


class Model(nn.Module):
    """What is trained, and what is not."""

    def __init__(self, values: list[Tensor]) -> None:
        super().__init__()
        self.trained = nn.ParameterList([nn.Parameter(x.clone()) for x in values])
        self.frozen = nn.Parameter(torch.ones(3, dtype=values[0].dtype), requires_grad=False)


def averaging(
    model: Model, name: str, implementation: str, average: ExponentialAverage, dtype: torch.dtype | None
) -> tuple[AveragedModel, Any]:
    """A model's average, and the optimizer that takes its weights into it."""
    averaged = AveragedModel(model, multi_avg_fn=average, dtype=dtype)
    optimizer: Any = ALGORITHMS[name](model.trained.parameters(), lr=0.1, implementation=implementation)
    optimizer.average_into(averaged, model)
    return averaged, optimizer


def step(model: Model, optimizer: Any, gradients: list[Tensor]) -> None:
    """What happens outside the optimizer, too."""
    model.frozen.data.add_(1)
    give(params_of(optimizer), gradients)
    optimizer.step()


@pytest.mark.parametrize(("name", "warmup"), [*zip([*SOME, "SGD"], WARMUPS, strict=True)], ids=str)
def test_warmups(name: str, warmup: Warmup, generator: torch.Generator) -> None:
    """The decay is the smaller one; another one takes over in the middle."""
    values = values_of(generator, [(5,), (2, 3)])
    sides = [
        (model := Model(values), *averaging(model, name, x, get_ema_multi_avg_fn(0.6, warmup=warmup), None))
        for x in ("fused", "for_loop")
    ]
    for number in range(2 * STEPS):
        gradients = like(values, generator)
        for model, averaged, optimizer in sides:
            if number == STEPS:
                averaged.multi_avg_fn = get_ema_multi_avg_fn(0.95, warmup=WARMUPS[0])
            step(model, optimizer, gradients)
        found, expected = (averaged.state_dict() for _, averaged, _ in sides)
        for key, x in expected.items():
            torch.testing.assert_close(found[key], x, rtol=1e-6, atol=1e-6, msg=f"step {number}: {key}")
    fused = sides[0][2]
    assert ran(fused) == {"fused": 2 * STEPS}
    assert len(fused._plans[0].averages) == len(values), "in the kernels"


@pytest.mark.filterwarnings("ignore:SGD. no fused execution here")
def test_what_kernels_cannot_say(generator: torch.Generator) -> None:
    """Is averaged all the same, beside another execution; an average that decays in its own way, too."""

    class Rounded(Hyperbolic):
        @staticmethod
        def formula(count: Any) -> Any:
            return round(count) / 100

    class Halved(ExponentialAverage):
        def decay_at(self, count: Tensor | int) -> float | Tensor:
            return 0.5

    averages = {"foreach": get_ema_multi_avg_fn(0.9, warmup=Rounded()), "fused": Halved(0.9)}
    for execution, average in averages.items():
        values = values_of(generator, [(5,), (2, 3)])
        model = Model(values)
        averaged, optimizer = averaging(model, "SGD", "fused", average, None)
        expected = model.trained[0].detach().clone()
        for count in range(STEPS):
            step(model, optimizer, like(values, generator))
            decay = float(average.decay_at(count)) if count else 0.0
            expected = decay * expected + (1 - decay) * model.trained[0].detach()
        found = dict(averaged.module.named_parameters())["trained.0"].detach()
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        assert ran(optimizer) == {execution: STEPS}


@pytest.mark.parametrize("warmup", [None, WARMUPS[0]], ids=str)
@pytest.mark.parametrize("of", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_averages_of_a_dtype_of_their_own(
    dtype: torch.dtype, of: torch.dtype, warmup: Warmup | None, generator: torch.Generator
) -> None:
    """In the kernels, unless their arithmetic is narrower than the average."""
    values = values_of(generator, [(5,), (2, 3)], of)
    model, average = Model(values), get_ema_multi_avg_fn(0.999, warmup=warmup)
    averaged, optimizer = averaging(model, "SGD", "fused", average, dtype)
    expected = model.trained[0].detach().to(torch.float64)
    for count in range(STEPS):
        step(model, optimizer, like(values, generator))
        decay = 0.0 if count == 0 else float(average.decay_at(count))
        expected = decay * expected + (1 - decay) * model.trained[0].detach().double()
    assert ran(optimizer) == {"fused": STEPS}
    assert bool(optimizer._plans[0].averages) == (dtype == torch.float32)
    close = 1e-6 if dtype == torch.float32 else 1e-12
    trained = dict(averaged.module.named_parameters())["trained.0"]
    torch.testing.assert_close(trained.detach().double(), expected, rtol=close, atol=close)
    assert trained.dtype == dtype
