"""What must hold between algorithms, and under changes that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from optim_cli.optim import ALGORITHMS
from tests.optim.oracle import (
    NAMES,
    arithmetics,
    assert_close,
    give,
    like,
    parameters,
    params_of,
    takes,
    tensors,
)

STEPS = 5
names = pytest.mark.parametrize("name", NAMES)


def trained(
    name: str, values: list[Tensor], gradients: list[list[Tensor]], **options: Any
) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = ALGORITHMS[name](parameters(values), **options)
    for now in gradients:
        give(params_of(optimizer), now)
        optimizer.step()
    return optimizer


@pytest.fixture
def values(generator: torch.Generator) -> list[Tensor]:
    return tensors(generator, torch.float64)


@pytest.fixture
def gradients(values: list[Tensor], generator: torch.Generator) -> list[list[Tensor]]:
    return [like(values, generator) for _ in range(STEPS)]


def test_adamw_without_decay_is_adam(values: list[Tensor], gradients: list[list[Tensor]]) -> None:
    adamw = trained("AdamW", values, gradients, weight_decay=0)
    assert_close(adamw, trained("Adam", values, gradients, weight_decay=0), (0, 0))


def test_nadam_without_decay_of_momentum_keeps_it(
    values: list[Tensor], gradients: list[list[Tensor]]
) -> None:
    nadam = trained("NAdam", values, gradients, betas=(0.9, 0.99), momentum_decay=0)
    (product,) = {state["mu_product"].item() for state in nadam.state.values()}
    assert product == pytest.approx(0.45**STEPS, rel=1e-6)


def test_rmsprop_is_adam_without_momentum_and_correction(
    values: list[Tensor], gradients: list[list[Tensor]]
) -> None:
    """Adam divides by sqrt(v / c) + eps: the same is RMSprop with lr * sqrt(c) and eps * sqrt(c)."""
    adam = ALGORITHMS["Adam"](parameters(values), lr=0.1, betas=(0.0, 0.9), eps=1e-3)
    rmsprop = ALGORITHMS["RMSprop"](parameters(values), alpha=0.9)
    for step, now in enumerate(gradients, start=1):
        root = (1 - 0.9**step) ** 0.5
        rmsprop.param_groups[0] |= {"lr": 0.1 * root, "eps": 1e-3 * root}
        for optimizer in (adam, rmsprop):
            give(params_of(optimizer), now)
            optimizer.step()
    for x, y in zip(params_of(adam), params_of(rmsprop), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("exponent", [-20, 3, 30])
def test_rprop_sees_signs_only(values: list[Tensor], gradients: list[list[Tensor]], exponent: int) -> None:
    scaled = trained("Rprop", values, [[g * 2.0**exponent for g in now] for now in gradients])
    for x, y in zip(params_of(scaled), params_of(trained("Rprop", values, gradients)), strict=True):
        assert torch.equal(x, y)


@names
def test_ascent_is_descent_on_the_negative(
    name: str, values: list[Tensor], gradients: list[list[Tensor]]
) -> None:
    negated = [[-g for g in now] for now in gradients]
    for options in arithmetics(name):
        if options["maximize"]:
            descent = trained(name, values, negated, **options | {"maximize": False})
            assert_close(trained(name, values, gradients, **options), descent, (0, 0), str(options))


@names
def test_the_order_of_parameters_means_nothing(
    name: str, values: list[Tensor], gradients: list[list[Tensor]]
) -> None:
    for options in arithmetics(name):
        straight = trained(name, values, gradients, **options)
        turned = trained(name, values[::-1], [now[::-1] for now in gradients], **options)
        assert all(map(torch.equal, params_of(straight), params_of(turned)[::-1])), options


@names
def test_a_group_may_be_split(name: str, values: list[Tensor], gradients: list[list[Tensor]]) -> None:
    for options in arithmetics(name):
        whole = trained(name, values, gradients, **options)
        params = parameters(values)
        split = ALGORITHMS[name]([{"params": params[:2]}, {"params": params[2:]}], **options)
        for now in gradients:
            give(params, now)
            split.step()
        assert_close(split, whole, (0, 0), str(options))


@names
def test_a_rate_of_zero_moves_nothing(name: str, values: list[Tensor], gradients: list[list[Tensor]]) -> None:
    # The smallest step size of Rprop holds whatever the rate is.
    options = {"step_sizes": (0.0, 1.0)} if takes(name, "step_sizes") else {}
    still = trained(name, values, gradients, lr=0.0, **options)
    assert all(map(torch.equal, params_of(still), values))
