"""What holds of every algorithm, elementwise or not, on gradients of the kind it wants."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from optim_cli.optim import ALGORITHMS
from tests.optim.any_algorithm import (
    closure_of,
    made,
    matrices,
    names,
    names_after_loading,
    step,
    wants_sparse,
)
from tests.optim.oracle import params_of, takes, theirs_of
from tests.optim.test_state_dict import as_saved, shape_of
from tests.results import same_bits

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")


def loss_of(optimizer: torch.optim.Optimizer) -> float:
    return float(closure_of(optimizer)().detach())


def layout(optimizer: torch.optim.Optimizer) -> Any:
    """What is saved of states, but for values; and the groups."""
    saved = optimizer.state_dict()
    states = {
        index: {key: float if isinstance(x, int | float) else shape_of(x) for key, x in held.items()}
        for index, held in saved["state"].items()
    }
    return states, shape_of(saved["param_groups"])


def copied(source: torch.optim.Optimizer, target: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Carry parameters and state over, through the bytes of a checkpoint."""
    with torch.no_grad():
        for x, y in zip(params_of(target), params_of(source), strict=True):
            x.copy_(y)
    target.load_state_dict(as_saved(source.state_dict()))
    return target


@names
def test_goes_down_and_with_maximize_up(name: str) -> None:
    ours = made(name)
    before = loss_of(ours)
    step(ours, 3)
    assert loss_of(ours) < before
    if takes(name, "maximize"):
        ours = made(name, maximize=True)
        step(ours, 3)
        assert loss_of(ours) > before


@names
def test_state_has_torchs_layout_after_every_step(name: str) -> None:
    ours, theirs = made(name), theirs_of(name)(matrices())
    for _ in range(3):
        assert layout(ours) == layout(theirs)
        step(ours)
        step(theirs)
    assert layout(ours) == layout(theirs)


@names_after_loading
def test_a_state_that_was_loaded_is_the_one_saved(name: str) -> None:
    """Also in what torch.load takes for data."""
    ours = made(name)
    step(ours, 3)
    saved = copy.deepcopy(ours.state_dict())
    assert same_bits(as_saved(saved), saved)
    other = copied(ours, made(name))
    assert same_bits(other.state_dict(), saved)
    step(ours, 2)
    step(other, 2)
    assert all(map(torch.equal, params_of(other), params_of(ours)))
    assert same_bits(other.state_dict(), ours.state_dict())


@names_after_loading
def test_a_checkpoint_changes_hands_with_torch(name: str) -> None:
    classes: list[Any] = [ALGORITHMS[name], theirs_of(name)]
    for first, second in (classes, reversed(classes)):
        straight, begins, goes_on = first(matrices()), first(matrices()), second(matrices())
        step(straight, 5)
        step(begins, 2)
        step(copied(begins, goes_on), 3)
        for x, y in zip(params_of(goes_on), params_of(straight), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@names
def test_a_rate_in_a_tensor_is_read_and_left_alone(name: str) -> None:
    rate = torch.tensor(0.01)
    in_tensor, in_number = made(name, lr=rate), made(name, lr=0.01)
    for _ in range(3):
        step(in_tensor)
        step(in_number)
    for x, y in zip(params_of(in_tensor), params_of(in_number), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
    assert in_tensor.param_groups[0]["lr"] is rate
    assert rate == torch.tensor(0.01)


@names
def test_zero_gradients_move_what_they_move_with_torch(name: str) -> None:
    """Nothing, but for a decay that does not ask for gradients."""
    both = []
    for cls in (ALGORITHMS[name], theirs_of(name)):
        optimizer = cls(matrices())
        for p in params_of(optimizer):
            p.grad = torch.zeros_like(p).to_sparse() if wants_sparse(name) else torch.zeros_like(p)
        optimizer.step(lambda: torch.zeros(()))
        both.append(params_of(optimizer))
    for x, y, start in zip(*both, matrices(), strict=True):
        assert torch.equal(x, start) == torch.equal(y, start)
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


@names
def test_a_complex_parameter_is_a_pair_of_real_ones(name: str) -> None:
    start = torch.tensor([[1.0 + 2.0j, -0.5j], [3.0, 0.25 - 1.0j]])
    try:
        theirs = theirs_of(name)([start.clone().requires_grad_()])
        step(theirs)
    except (ValueError, RuntimeError):
        with pytest.raises((ValueError, RuntimeError), match="complex"):
            step(ALGORITHMS[name]([start.clone().requires_grad_()]))
        return
    whole = ALGORITHMS[name]([start.clone().requires_grad_()])
    pairs = ALGORITHMS[name]([torch.view_as_real(start).clone().requires_grad_()])
    for factor in (1.0, -0.5, 2.0):
        for optimizer, g in ((whole, start * factor), (pairs, torch.view_as_real(start * factor))):
            params_of(optimizer)[0].grad = g.clone()
            optimizer.step(lambda: torch.zeros(()))
    assert torch.equal(torch.view_as_real(params_of(whole)[0]), params_of(pairs)[0])
