"""Gradients through a step: with respect to parameters, gradients, states and learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from optim_cli.optim import ALGORITHMS
from tests.optim.oracle import NAMES, Options, arithmetics, params_of, ran, theirs_of


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """Step counts in float64 too: torch's arithmetic on them is then as exact as ours."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


def after_three_steps(name: str, options: Options) -> dict[str, Tensor]:
    """What an optimizer keeps for a parameter."""
    probe = ALGORITHMS[name]([torch.ones(2)], **options)
    for _ in range(3):
        params_of(probe)[0].grad = torch.ones(2)
        probe.step()
    held: dict[str, Tensor] = probe.state[params_of(probe)[0]]
    return held


def initial_state(name: str, options: Options) -> list[str]:
    """Names of the states that have the parameter's shape."""
    return [key for key, value in after_three_steps(name, options).items() if value.dim()]


def stepped(
    cls: Any,
    options: Options,
    p: Tensor,
    g: Tensor,
    lr: Tensor,
    keys: list[str],
    states: tuple[Tensor, ...],
    steps: int,
) -> tuple[Tensor, ...]:
    """Parameter and states after some steps, as functions of everything before."""
    # The step changes p and its states in place: a view of a copy keeps autograd's leaves out of it.
    p = p.clone()
    optimizer = cls([p], **options | {"lr": lr, "differentiable": True})
    held = {key: x.clone() for key, x in zip(keys, states, strict=True)}
    kept = after_three_steps(cls.__name__, options).items()
    held |= {key: x.clone() for key, x in kept if not x.dim()}
    optimizer.state[p] = held
    for step in range(steps):
        p.grad = g / (1 + step)
        optimizer.step()
    if cls in ALGORITHMS.values():
        assert ran(optimizer) == {"for_loop": steps}
    return p, *(optimizer.state[p][key] for key in keys)


def inputs(keys: list[str], generator: torch.Generator) -> tuple[Tensor, ...]:
    """p, g, lr, states; second moments are positive, away from each other and above squares of averages."""
    p, g = (torch.randn(4, generator=generator, requires_grad=True) for _ in range(2))
    lr = torch.tensor(0.1, requires_grad=True)
    states = []
    for key in keys:
        size = 0.25 if key == "grad_avg" else 4.0 if key.startswith("max_") else 1.0
        states.append((size * (1 + torch.rand(4, generator=generator))).requires_grad_())
    return p, g, lr, *states


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck_through_steps(name: str, generator: torch.Generator) -> None:
    for options in arithmetics(name):
        keys = initial_state(name, options)

        def function(
            p: Tensor, g: Tensor, lr: Tensor, *states: Tensor, options: Options = options, keys: Any = keys
        ) -> tuple[Tensor, ...]:
            return stepped(ALGORITHMS[name], options, p, g, lr, keys, states, steps=2)

        assert torch.autograd.gradcheck(function, inputs(keys, generator)), options


def with_slopes(
    cls: Any,
    options: Options,
    given: tuple[Tensor, ...],
    lr: Tensor,
    keys: list[str],
    weights: list[Tensor],
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What one step leaves, and gradients of its weighted sum; of what the step does not read, zeros."""
    p, g, *states = (x for x in given if x is not lr)
    values = stepped(cls, options, p, g, lr, keys, tuple(states), steps=1)
    total = torch.stack([(x * w).sum() for x, w in zip(values, weights, strict=True)]).sum()
    return values, torch.autograd.grad(total, given, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_torch(name: str, generator: torch.Generator) -> None:
    """Of one step: through two, torch overwrites what the learning rate's gradient needs."""
    for options in arithmetics(name):
        keys = initial_state(name, options)
        given = p, g, lr, *states = inputs(keys, generator)
        weights = [torch.randn(4, generator=generator) for _ in range(1 + len(keys))]
        results = []
        for cls in (ALGORITHMS[name], theirs_of(name)):
            try:
                values, slopes = with_slopes(cls, options, given, lr, keys, weights)
            except TypeError:
                # torch's Adamax takes no gradient of its rate.
                assert cls is theirs_of(name)
                given = (p, g, *states)
                values, slopes = with_slopes(cls, options, given, lr.detach(), keys, weights)
            except RuntimeError:
                # torch's ASGD overwrites what its gradients need.
                assert cls is theirs_of(name)
                pytest.skip(f"torch's {name} gives no gradients")
            results.append((values, dict(zip(map(id, given), slopes, strict=True))))
        (ours, our_gradients), (theirs, their_gradients) = results
        slopes_of_both = [(our_gradients[key], their_gradients[key]) for key in their_gradients]
        for mine, torchs in (*zip(ours, theirs, strict=True), *slopes_of_both):
            torch.testing.assert_close(mine, torchs, rtol=1e-9, atol=1e-10, msg=str(options))


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_betas_carry_gradients(name: str, generator: torch.Generator) -> None:
    p, g = (torch.randn(4, generator=generator) for _ in range(2))

    def function(beta1: Tensor, beta2: Tensor, weight_decay: Tensor) -> Tensor:
        options: Options = {"betas": (beta1, beta2), "weight_decay": weight_decay}
        keys = ["exp_avg", "exp_avg_sq"]
        states = (torch.full((4,), 0.5), torch.full((4,), 0.25))
        return stepped(ALGORITHMS[name], options, p, g, torch.tensor(0.1), keys, states, steps=2)[0]

    given = [torch.tensor(x, requires_grad=True) for x in (0.9, 0.99, 0.1)]
    assert torch.autograd.gradcheck(function, given)


@pytest.mark.parametrize("name", NAMES)
def test_learning_rate_found_by_descent_on_it(name: str) -> None:
    """A step on a parabola: the derivative of the loss after it, by the learning rate."""

    def loss_after(lr: Tensor) -> Tensor:
        weight = torch.tensor(3.0, requires_grad=True)
        p = weight.clone()
        optimizer = ALGORITHMS[name]([p], lr=lr, differentiable=True)
        p.grad = weight.clone()  # of p**2 / 2
        optimizer.step()
        assert ran(optimizer) == {"for_loop": 1}
        return p**2 / 2

    lr = torch.tensor(0.1, requires_grad=True)
    (slope,) = torch.autograd.grad(loss_after(lr), [lr], allow_unused=True)
    if slope is None:
        # The first step has taken the rate from a state, which starts at its value, as with torch.
        (begins,) = ALGORITHMS[name]([torch.ones(1)]).param_groups
        cls = ALGORITHMS[name]
        assert begins["lr"] in (*cls.state_of(begins).values(), *cls.zero_dim_start(begins).values())
        return
    around = [loss_after(torch.tensor(0.1 + shift)).item() for shift in (-1e-6, 1e-6)]
    assert slope.item() == pytest.approx((around[1] - around[0]) / 2e-6, rel=1e-5)
