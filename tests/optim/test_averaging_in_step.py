"""Averages that end every step against torch's, updated by hand after it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import swa_utils as theirs

from optim_cli.optim import ALGORITHMS
from optim_cli.optim import swa_utils as ours
from optim_cli.optim.swa_utils import averaged_model
from tests.optim.oracle import NAMES, ran

STEPS = 5
DECAY = 0.7


class Model(nn.Module):
    """With what is trained, what is frozen, what misses gradients, and buffers of floats and of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
        self.rarely = nn.Parameter(torch.randn(2))
        self.wide = nn.Parameter(torch.randn(2, dtype=torch.float64))
        self.register_buffer("table", torch.arange(6).reshape(2, 3))

    def forward(self, inputs: Tensor, step: int) -> Tensor:
        out: Tensor = self.layers(inputs)
        out = out + self.rarely if step % 2 else out
        return (out + self.wide).square().sum()


def weigh_newest(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """An average of a program's own, which looks at the count."""
    return average * 0.25 + current * 0.75 + 0.0 * count


KINDS: dict[str, Callable[[Any, nn.Module], Any]] = {
    "ema": lambda package, model: package.AveragedModel(
        model, multi_avg_fn=package.get_ema_multi_avg_fn(DECAY)
    ),
    "ema, with buffers": lambda package, model: package.AveragedModel(
        model, multi_avg_fn=package.get_ema_multi_avg_fn(DECAY), use_buffers=True
    ),
    "equal": lambda package, model: package.AveragedModel(model),
    "own": lambda package, model: package.AveragedModel(model, avg_fn=weigh_newest),
}


def change(model: Any, step: int, generator: torch.Generator) -> Tensor:
    """What happens outside the optimizer, then a backward pass."""
    with torch.no_grad():
        model.frozen.add_(1)
        model.table.add_(7)
    model.zero_grad()
    inputs = torch.randn(8, 4, generator=generator)
    loss: Tensor = model(inputs, step)
    loss.backward()
    return loss


@pytest.mark.parametrize("implementation", ["for_loop", "foreach"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_as_torch_s_by_hand(name: str, kind: str, implementation: str, generator: torch.Generator) -> None:
    model = Model()
    averaged, expected = KINDS[kind](ours, model), KINDS[kind](theirs, model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer: Any = ALGORITHMS[name](trained, implementation=implementation)
    optimizer.average_into(averaged, model)
    for step in range(STEPS):
        change(model, step, generator)
        optimizer.step()
        expected.update_parameters(model)
        for (key, x), y in zip(averaged.state_dict().items(), expected.state_dict().values(), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6, msg=f"step {step}: {key}")
    assert set(ran(optimizer)) == {implementation}


def test_until_it_is_turned_off(generator: torch.Generator) -> None:
    model = Model()
    averaged = ours.AveragedModel(model)
    optimizer: Any = ALGORITHMS["SGD"]([p for p in model.parameters() if p.requires_grad])
    optimizer.average_into(averaged, model)
    optimizer.step()  # without any gradient: what is frozen may have changed
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step(lambda: change(model, 1, generator))
    assert int(averaged.n_averaged) == 2
    assert optimizer.state_dict().keys() == {"state", "param_groups"}
    optimizer.average_into(None)
    optimizer.step()
    assert int(averaged.n_averaged) == 2


def test_the_model_belongs_to_it() -> None:
    model = nn.Linear(2, 2)
    optimizer: Any = ALGORITHMS["SGD"](model.parameters())
    with pytest.raises(ValueError, match=r"wants the model, too: average_into\(averaged, model\)"):
        optimizer.average_into(ours.AveragedModel(model))


@pytest.mark.parametrize("of", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_float32_averages_of_other_models(of: torch.dtype, generator: torch.Generator) -> None:
    """Of a narrow model they remember more than it can say; torch refuses them."""
    model = nn.Linear(3, 2).to(of)
    averaged = ours.AveragedModel(model.float(), multi_avg_fn=ours.get_ema_multi_avg_fn(0.999))
    model.to(of)
    optimizer: Any = ALGORITHMS["SGD"](model.parameters(), lr=0.5)
    optimizer.average_into(averaged, model)
    seen = []
    for _ in range(STEPS):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator).to(of)
        optimizer.step()
        seen.append(model.weight.detach().double().clone())
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.999 * expected + 0.001 * weight
    assert averaged.module.weight.dtype == torch.float32
    torch.testing.assert_close(averaged.module.weight.double(), expected, rtol=1e-6, atol=1e-6)


def test_a_step_that_is_recorded_records_no_average(generator: torch.Generator) -> None:
    model = nn.Linear(2, 2)
    averaged = ours.AveragedModel(model, multi_avg_fn=ours.get_ema_multi_avg_fn(0.5))
    weight = torch.randn(2, 2, generator=generator, requires_grad=True)
    moved = weight.clone()
    moved.grad = torch.ones(2, 2)
    optimizer: Any = ALGORITHMS["SGD"]([moved], differentiable=True)
    optimizer.average_into(averaged, model)
    for _ in range(2):
        optimizer.step()
    assert moved.grad_fn is not None
    assert all(x.grad_fn is None for x in averaged.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_count_that_the_host_does_not_read(kind: str, generator: torch.Generator) -> None:
    """As where it lies on a device: the first one copies, all others average."""
    model = Model()
    averaged, expected = KINDS[kind](ours, model), KINDS[kind](theirs, model)
    for step in range(STEPS):
        change(model, step, generator)
        for averages, currents in averaged_model._alike(averaged.pairs(model)):
            averaged._begin_or_update(averages, currents)
        averaged_model.copy_pairs(averaged.copied(model))
        averaged.n_averaged += 1
        expected.update_parameters(model)
        for (key, x), y in zip(averaged.state_dict().items(), expected.state_dict().values(), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6, msg=f"step {step}: {key}")


def test_some_pairs_may_be_averaged_elsewhere(generator: torch.Generator) -> None:
    """By whoever has them in hand; the rest and the count are left to do."""
    model = Model()
    averaged = ours.AveragedModel(model, multi_avg_fn=ours.get_ema_multi_avg_fn(DECAY), use_buffers=True)
    expected = copy.deepcopy(averaged)
    in_hand = {id(p) for p in model.layers.parameters()}
    for step in range(STEPS):
        change(model, step, generator)
        pairs = averaged.pairs(model)
        rest = [pair for pair in pairs if id(pair[1]) not in in_hand]
        assert len(rest) == len(pairs) - len(in_hand)
        averaged.update_pairs(rest)
        averaged.update_pairs([pair for pair in pairs if id(pair[1]) in in_hand])
        averaged.n_averaged += 1
        expected.update_parameters(model)
        states = averaged.state_dict(), expected.state_dict()
        assert all(torch.equal(x, states[1][key]) for key, x in states[0].items())


def test_the_decay_can_be_read() -> None:
    function = ours.get_ema_multi_avg_fn(0.75)
    assert function.decay == 0.75
    assert copy.deepcopy(function) == function
