"""Averaged models against torch's: weights, buffers, states, refusals."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import swa_utils as theirs

from optim_cli.optim import swa_utils as ours

Make = Callable[[Any, nn.Module], Any]
STEPS = 8


def weigh_newest(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """An average of a program's own, which looks at the count."""
    return average * 0.25 + current * 0.75 + 0.0 * count


def weigh_newest_lists(averages: Any, currents: Any, count: Tensor | int) -> None:
    for average, current in zip(averages, currents, strict=True):
        average.copy_(weigh_newest(average, current, count))


# How an average is made, by a package (ours or torch's) and a model; equal but for the last bits.
KINDS: dict[str, Make] = {
    "equal": lambda package, model: package.AveragedModel(model),
    "ema": lambda package, model: package.AveragedModel(model, avg_fn=package.get_ema_avg_fn(0.9)),
    "ema, lists": lambda package, model: package.AveragedModel(
        model, multi_avg_fn=package.get_ema_multi_avg_fn(0.9)
    ),
    "ema, with buffers": lambda package, model: package.AveragedModel(
        model, avg_fn=package.get_ema_avg_fn(0.9), use_buffers=True
    ),
    "ema, lists, with buffers": lambda package, model: package.AveragedModel(
        model, multi_avg_fn=package.get_ema_multi_avg_fn(0.9), use_buffers=True
    ),
    "equal, with buffers": lambda package, model: package.AveragedModel(model, use_buffers=True),
    "swa": lambda package, model: package.AveragedModel(
        model, avg_fn=package.get_swa_avg_fn(), use_buffers=True
    ),
    "swa, lists": lambda package, model: package.AveragedModel(
        model, multi_avg_fn=package.get_swa_multi_avg_fn()
    ),
    "own": lambda package, model: package.AveragedModel(model, avg_fn=weigh_newest),
    "own, lists": lambda package, model: package.AveragedModel(
        model, multi_avg_fn=weigh_newest_lists, use_buffers=True
    ),
    "on a device": lambda package, model: package.AveragedModel(model, device=torch.device("cpu")),
}


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Module:
    """With batch normalization, so with float and integer buffers, and with two dtypes."""
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3).double())


def change(model: nn.Module, generator: torch.Generator) -> None:
    """Other weights and buffers, as training would give."""
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator))  # variances are positive
        else:
            value.add_(7)


def compare(left: nn.Module, right: nn.Module, rtol: float = 1e-6) -> None:
    states = left.state_dict(), right.state_dict()
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        assert value.dtype == states[1][name].dtype, name
        torch.testing.assert_close(value, states[1][name], rtol=rtol, atol=rtol, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_as_torch_s(kind: str, generator: torch.Generator) -> None:
    model = network()
    left, right = KINDS[kind](ours, model), KINDS[kind](theirs, model)
    compare(left, right)
    for step in range(STEPS):
        change(model, generator)
        left.update_parameters(model)
        right.update_parameters(model)
        compare(left, right)
        assert int(left.n_averaged) == step + 1
    inputs = torch.ones(2, 4)
    layers = [x.module[:2] for x in (left.eval(), right.eval())]
    torch.testing.assert_close(layers[0](inputs), layers[1](inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_states_go_both_ways(kind: str, generator: torch.Generator) -> None:
    model = network()
    for first, second in ((ours, theirs), (theirs, ours)):
        one, other = KINDS[kind](first, model), KINDS[kind](second, network())
        for _ in range(3):
            change(model, generator)
            one.update_parameters(model)
        other.load_state_dict(one.state_dict())
        for _ in range(3):
            change(model, generator)
            one.update_parameters(model)
            other.update_parameters(model)
        compare(one, other)


def test_equal_weights_are_the_mean(generator: torch.Generator) -> None:
    model = nn.Linear(3, 2).double()
    averaged, seen = ours.AveragedModel(model), []
    for _ in range(STEPS):
        change(model, generator)
        averaged.update_parameters(model)
        seen.append(model.weight.detach().clone())
    torch.testing.assert_close(averaged.module.weight, torch.stack(seen).mean(0), rtol=1e-12, atol=1e-12)


def test_ema_is_a_geometric_sum(generator: torch.Generator) -> None:
    model, decay = nn.Linear(3, 2).double(), 0.7
    averaged, seen = ours.AveragedModel(model, multi_avg_fn=ours.get_ema_multi_avg_fn(decay)), []
    for _ in range(STEPS):
        change(model, generator)
        averaged.update_parameters(model)
        seen.append(model.weight.detach().clone())
    expected = decay ** (STEPS - 1) * seen[0]
    for age, weight in enumerate(reversed(seen[1:])):
        expected = expected + (1 - decay) * decay**age * weight
    torch.testing.assert_close(averaged.module.weight, expected, rtol=1e-12, atol=1e-12)


def test_the_model_is_copied() -> None:
    model = network()
    averaged = ours.AveragedModel(model)
    originals = {id(x) for x in (*model.parameters(), *model.buffers())}
    assert not originals & {id(x) for x in (*averaged.parameters(), *averaged.buffers())}
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        averaged.update_parameters(model)
    assert all(torch.equal(x, y) for x, y in zip(before.values(), model.state_dict().values(), strict=True))
    assert all(x.requires_grad and x.grad is None for x in averaged.parameters())


def test_deepcopy_is_independent(generator: torch.Generator) -> None:
    model = network()
    averaged = ours.AveragedModel(model, multi_avg_fn=ours.get_ema_multi_avg_fn(0.5))
    averaged.update_parameters(model)
    copied = copy.deepcopy(averaged)
    before = copy.deepcopy(copied.state_dict())
    change(model, generator)
    averaged.update_parameters(model)
    assert all(torch.equal(before[x], y) for x, y in copied.state_dict().items())
    copied.update_parameters(model)
    compare(copied, averaged)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_ends_of_the_range(decay: float, generator: torch.Generator) -> None:
    model = nn.Linear(2, 2)
    for function in ("avg_fn", "multi_avg_fn"):
        averaged = ours.AveragedModel(model, **{function: getattr(ours, f"get_ema_{function}")(decay)})
        averaged.update_parameters(model)
        first = model.weight.detach().clone()
        change(model, generator)
        averaged.update_parameters(model)
        torch.testing.assert_close(averaged.module.weight, model.weight if decay == 0 else first)


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("inf")])
@pytest.mark.parametrize("name", ["get_ema_avg_fn", "get_ema_multi_avg_fn"])
def test_refused_decays(name: str, decay: float) -> None:
    with pytest.raises(ValueError, match="Invalid decay value") as expected:
        getattr(theirs, name)(decay)
    with pytest.raises(ValueError, match="Invalid decay value") as raised:
        getattr(ours, name)(decay)
    assert str(raised.value) == str(expected.value)


def test_nan_is_no_decay() -> None:
    """A deviation: torch takes it."""
    with pytest.raises(ValueError, match="Invalid decay value nan"):
        ours.get_ema_avg_fn(float("nan"))


def test_what_is_no_function_is_named() -> None:
    with pytest.raises(TypeError, match=r"Invalid avg_fn: 0.9 \(.*get_ema_avg_fn"):
        ours.AveragedModel(nn.Linear(1, 1), avg_fn=0.9)  # type: ignore[arg-type]


def test_equal_weights_of_integer_buffers_in_lists(generator: torch.Generator) -> None:
    """torch's lists fail there; its other forms tell what they should hold."""
    model = network()
    averaged = ours.AveragedModel(model, multi_avg_fn=ours.get_swa_multi_avg_fn(), use_buffers=True)
    expected = theirs.AveragedModel(model, avg_fn=theirs.get_swa_avg_fn(), use_buffers=True)
    fails = theirs.AveragedModel(model, multi_avg_fn=theirs.get_swa_multi_avg_fn(), use_buffers=True)
    for _ in range(2 * STEPS):
        change(model, generator)
        averaged.update_parameters(model)
        expected.update_parameters(model)
        compare(averaged, expected)
    fails.update_parameters(model)
    with pytest.raises(RuntimeError, match="Integer division"):
        fails.update_parameters(model)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"multi_avg_fn": ours.get_swa_multi_avg_fn()},
        {"multi_avg_fn": ours.get_ema_multi_avg_fn(0.9)},
        {"avg_fn": ours.get_swa_avg_fn()},
        {"avg_fn": ours.get_ema_avg_fn(0.9)},
    ],
    ids=lambda x: next(iter(x), "neither"),
)
def test_boolean_buffers_are_the_newest(options: dict[str, Any], generator: torch.Generator) -> None:
    inner = network()
    model = nn.Sequential(inner)
    model.register_buffer("mask", torch.zeros(5, dtype=torch.bool))
    averaged = ours.AveragedModel(model, use_buffers=True, **options)
    for _ in range(STEPS):
        change(inner, generator)
        model.mask = torch.rand(5, generator=generator) < 0.5
        averaged.update_parameters(model)
        assert torch.equal(averaged.get_buffer("module.mask"), model.get_buffer("mask"))
    assert int(averaged.n_averaged) == STEPS


class Mixed(nn.Module):
    """Parameters of three dtypes, two of them one, and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)).bfloat16()
        self.layers[2].weight = self.layers[0].weight
        self.wave = nn.Parameter(torch.randn(3, dtype=torch.complex64))

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.layers(inputs)
        return out


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("function", [None, "ema", "swa"])
def test_averages_of_a_dtype_of_their_own(
    function: str | None, use_buffers: bool, generator: torch.Generator
) -> None:
    """Those of a float32 model that takes the same values; what is no real number stays what it is."""
    model = Mixed()
    make: Any = getattr(ours, f"get_{function}_multi_avg_fn", lambda: None)
    kept: Any = ours.AveragedModel(model, None, None, make(), use_buffers, dtype=torch.float32)
    wide = Mixed().float()
    expected = theirs.AveragedModel(wide, None, getattr(theirs, f"get_{function}_avg_fn", lambda: None)())
    expected.use_buffers = use_buffers
    for _ in range(STEPS):
        change(model, generator)
        wide.load_state_dict(model.state_dict())
        kept.update_parameters(model)
        expected.update_parameters(wide)
        compare(kept, expected)
    assert {x.dtype for x in kept.module.parameters()} == {torch.float32, torch.complex64}
    assert kept.module.layers[2].weight is kept.module.layers[0].weight
    assert kept.eval()(torch.ones(2, 4)).dtype == torch.float32
    loaded = ours.AveragedModel(Mixed(), dtype=torch.float32)
    loaded.load_state_dict(expected.state_dict())
    compare(loaded, expected)
    expected.load_state_dict(kept.state_dict())
    copied = copy.deepcopy(kept)
    kept.update_parameters(model)
    compare(copied, expected)


def test_a_dtype_is_of_floating_point() -> None:
    with pytest.raises(ValueError, match=r"Invalid dtype: torch.int64 \(dtype must be one of floating point"):
        ours.AveragedModel(nn.Linear(1, 1), dtype=torch.int64)


def test_one_way_of_averaging_only() -> None:
    for package in (ours, theirs):
        make: Any = package.AveragedModel
        with pytest.raises(AssertionError, match="Only one of avg_fn and multi_avg_fn should be provided"):
            make(nn.Linear(1, 1), avg_fn=weigh_newest, multi_avg_fn=weigh_newest_lists)


def test_nothing_warns_or_records(generator: torch.Generator) -> None:
    model = nn.Linear(2, 2)
    averaged = ours.AveragedModel(model, avg_fn=ours.get_ema_avg_fn(0.9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            averaged.update_parameters(model)
    assert all(x.grad_fn is None for x in averaged.parameters())
