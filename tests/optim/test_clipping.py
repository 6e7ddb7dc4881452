"""Clipping within the step against torch's functions before a plain step, and the norm against float64."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from optim_cli.optim import ALGORITHMS
from tests.optim.oracle import (
    NAMES,
    ONE_ROUNDING,
    TOLERANCES,
    Options,
    assert_close,
    difference,
    drift,
    entries,
    give,
    like,
    parameters,
    params_of,
    ran,
    takes,
    tensors,
)

STEPS = 3
# Limits of the norm and of the elements; the last ones are not reached.
LIMITS = [(0.5, None), (None, 0.3), (0.5, 0.05), (1e9, 1e9)]
MODES: list[Options] = [{}, {"lr": torch.tensor(0.125)}, {"capturable": True}, {"differentiable": True}]

names = pytest.mark.parametrize("name", NAMES)
implementations = pytest.mark.parametrize("implementation", ["for_loop", "foreach"])


def pair(name: str, values: Sequence[Tensor], options: Options) -> tuple[Any, Any]:
    """Two equal optimizers of ours: one to clip within its step, one to clip before it."""
    cls, recorded = ALGORITHMS[name], "differentiable" in options
    # A step that is recorded writes to no leaf that wants a gradient.
    one, other = (cls(parameters(values, not recorded), **options) for _ in range(2))
    return one, other


def clip(params: Sequence[Tensor], max_norm: float | None, max_value: float | None) -> Tensor | None:
    """What torch does before a step; the norm."""
    norm = None if max_norm is None else clip_grad_norm_(params, max_norm)
    if max_value is not None:
        clip_grad_value_(params, max_value)
    return norm


def norm_of(gradients: Sequence[Tensor | None]) -> float:
    """By hand, in float64."""
    wide = [torch.view_as_real(g) if g.is_complex() else g for g in gradients if g is not None]
    return float(torch.cat([g.double().flatten() for g in wide]).norm())


@implementations
@names
def test_as_with_torchs_functions_before_the_step(
    name: str, implementation: str, generator: torch.Generator
) -> None:
    for limits in LIMITS:
        values = tensors(generator, torch.float64)
        ours, plain = pair(name, values, {"implementation": implementation, "maximize": True})
        ours.clip_gradients(*limits)
        for step in range(STEPS):
            drawn = enumerate(like(values, generator))
            gradients = [None if step == 1 and i % 3 == 1 else g for i, g in drawn]
            for optimizer in (ours, plain):
                give(params_of(optimizer), gradients)
            expected = clip(params_of(plain), *limits)
            ours.step()
            plain.step()
            assert_close(ours, plain, drift(name), f"{limits} step {step}:")
            for p, g in zip(params_of(ours), gradients, strict=True):
                assert (p.grad is None) == (g is None)
                assert p.grad is None or g is None or torch.equal(p.grad, g), "gradients are borrowed"
            if expected is None:
                assert ours.grad_norm is None
            else:
                assert (ours.grad_norm.dtype, ours.grad_norm.shape) == (torch.float32, ())
                assert float(ours.grad_norm) == pytest.approx(norm_of(gradients), rel=1e-6)
        assert ran(ours) == ran(plain)


@pytest.mark.parametrize("mode", MODES, ids=str)
@names
def test_in_every_mode(name: str, mode: Options, generator: torch.Generator) -> None:
    if not all(takes(name, option) for option in mode):
        pytest.skip(f"{name} has no such mode")
    values = tensors(generator, torch.float64)
    ours, plain = pair(name, values, mode)
    ours.clip_gradients(0.5, 0.05)
    for _ in range(STEPS):
        gradients = like(values, generator)
        for optimizer in (ours, plain):
            give(params_of(optimizer), gradients)
        clip(params_of(plain), 0.5, 0.05)
        ours.step()
        plain.step()
        assert_close(ours, plain, drift(name))


@names
def test_the_norm_is_that_of_all_groups(name: str, generator: torch.Generator) -> None:
    values = tensors(generator)
    ours, plain = (
        ALGORITHMS[name]([{"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(parameters(values))])
        for _ in range(2)
    )
    ours.clip_gradients(max_norm=0.1)
    gradients = like(values, generator)
    for optimizer in (ours, plain):
        give(params_of(optimizer), gradients)
    clip(params_of(plain), 0.1, None)
    ours.step()
    plain.step()
    assert_close(ours, plain)
    assert float(ours.grad_norm) == pytest.approx(norm_of(gradients), rel=1e-6)


@names
def test_bfloat16(name: str, generator: torch.Generator) -> None:
    """The for-loop rounds once, also with clipping; foreach at every operation."""
    values = tensors(generator, torch.bfloat16)
    gradients = like(values, generator)
    lr = 2.0**-7  # without rounding, since Rprop keeps it in its state
    wide = ALGORITHMS[name](parameters([x.float() for x in values]), lr=lr)
    give(params_of(wide), [g.float() for g in gradients])
    wide.clip_gradients(1.0, 0.4)
    wide.step()
    for implementation, tolerance in (("for_loop", ONE_ROUNDING), ("foreach", TOLERANCES[torch.bfloat16])):
        ours = ALGORITHMS[name](parameters(values), lr=lr, implementation=implementation)
        ours.clip_gradients(1.0, 0.4)
        give(params_of(ours), gradients)
        ours.step()
        found = difference({"p": entries(ours)["p"]}, {"p": entries(wide)["p"]}, tolerance)
        assert found is None, f"{implementation}: {found}"
        assert float(ours.grad_norm) == pytest.approx(norm_of(gradients), rel=1e-6), "not in bfloat16"
        assert ran(ours) == {implementation: 1}


@implementations
@names
def test_complex_parameters(name: str, implementation: str, generator: torch.Generator) -> None:
    """A norm by absolute values; elements by real and imaginary part."""
    values = tensors(generator, torch.complex128)
    ours, plain = pair(name, values, {"implementation": implementation})
    ours.clip_gradients(1.0, 0.1)
    gradients = like(values, generator)
    give(params_of(ours), gradients)
    give(params_of(plain), gradients)
    norm = clip_grad_norm_(params_of(plain), 1.0)
    for p in params_of(plain):
        assert p.grad is not None
        torch.view_as_real(p.grad).clamp_(-0.1, 0.1)
    ours.step()
    plain.step()
    assert_close(ours, plain, drift(name))
    assert float(ours.grad_norm) == pytest.approx(float(norm), rel=1e-6)


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "SparseAdam"])
def test_sparse_gradients(name: str, generator: torch.Generator) -> None:
    """Entries of a row are added before they count."""
    with torch.sparse.check_sparse_tensor_invariants():
        values = [torch.randn(shape, generator=generator).double() for shape in ((6, 3), (4, 2, 2))]
        ours, plain = pair(name, values, {})
        ours.clip_gradients(0.7, 0.2)
        for _ in range(STEPS):
            summed = []
            for p, q in zip(params_of(ours), params_of(plain), strict=True):
                where = torch.randint(0, len(p), (1, 5), generator=generator)
                entered = torch.randn((5, *p.shape[1:]), generator=generator).double()
                p.grad = torch.sparse_coo_tensor(where, entered, p.shape)
                q.grad = p.grad.coalesce()
                summed.append(q.grad.values())
            norm = norm_of(summed)
            for values_of_rows in summed:
                values_of_rows.mul_(min(1.0, 0.7 / (norm + 1e-6))).clamp_(-0.2, 0.2)
            ours.step()
            plain.step()
            assert_close(ours, plain, (1e-12, 1e-12))
            assert float(ours.grad_norm) == pytest.approx(norm, rel=1e-6)
        assert ran(ours)["sparse"] == STEPS


@pytest.mark.parametrize("planted", [inf, -inf, nan])
@implementations
@names
def test_no_number_as_in_torch(
    name: str, implementation: str, planted: float, generator: torch.Generator
) -> None:
    """An infinite norm makes all others 0 and the infinity NaN, a NaN makes all NaN, limits or not."""
    values = tensors(generator)
    gradients = like(values, generator)
    gradients[2][1] = planted
    for limits in ((1.0, None), (None, 0.5), (1.0, 0.5)):
        ours, plain = pair(name, values, {"implementation": implementation})
        ours.clip_gradients(*limits)
        give(params_of(ours), gradients)
        give(params_of(plain), gradients)
        norm = clip(params_of(plain), *limits)
        ours.step()
        plain.step()
        assert_close(ours, plain)
        if norm is not None:
            assert repr(ours.grad_norm.item()) == repr(norm.item())


def test_without_gradients() -> None:
    optimizer: Any = ALGORITHMS["AdamW"]([torch.nn.Parameter(torch.ones(3))])
    optimizer.clip_gradients(1.0, 1.0)
    optimizer.step()
    assert torch.equal(optimizer.grad_norm, clip_grad_norm_(params_of(optimizer), 1.0))
    assert torch.equal(params_of(optimizer)[0], torch.ones(3))
    assert not optimizer.state
    assert ran(optimizer) == {}


def test_gradients_are_those_after_the_closure() -> None:
    optimizer: Any = ALGORITHMS["SGD"]([nn.Parameter(torch.zeros(4))], lr=1.0)
    optimizer.clip_gradients(max_norm=1.0)
    [p] = params_of(optimizer)

    def closure() -> Tensor:
        p.grad = torch.full((4,), -3.0)
        return p.sum()

    p.grad = torch.full((4,), torch.nan)
    optimizer.step(closure)
    assert float(optimizer.grad_norm) == 6
    torch.testing.assert_close(p.detach(), torch.full((4,), 0.5))


def test_gradients_flow_through_the_factor() -> None:
    """Of a step that is recorded, the norm is a part."""

    def after(g: Tensor) -> Tensor:
        start = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
        p = start.clone()
        p.retain_grad()
        optimizer: Any = ALGORITHMS["SGD"]([p], lr=0.5, differentiable=True)
        optimizer.clip_gradients(max_norm=1.0)
        p.grad = g.clone()
        optimizer.step()
        return p

    g = torch.tensor([0.5, -2.0, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(after, (g,))


def test_it_holds_until_it_is_turned_off() -> None:
    optimizer: Any = ALGORITHMS["SGD"]([nn.Parameter(torch.zeros(2))], lr=1.0)
    [p] = params_of(optimizer)
    before = optimizer.state_dict()
    optimizer.clip_gradients(max_norm=5.0)
    p.grad = torch.tensor([6.0, 8.0])
    for expected in ([-3.0, -4.0], [-6.0, -8.0]):
        optimizer.step()
        torch.testing.assert_close(p.detach(), torch.tensor(expected), rtol=1e-5, atol=0)
        optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state_dict() == before, "no part of the state"
    optimizer.clip_gradients()
    assert optimizer.grad_norm is None
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([-12.0, -16.0]), rtol=1e-5, atol=0)
    assert optimizer.grad_norm is None


@pytest.mark.parametrize("wrong", [0, 0.0, -1.0, -inf, nan, True, "1", torch.ones(())], ids=str)
@pytest.mark.parametrize("limit", ["max_norm", "max_value"])
def test_refused_limits(limit: str, wrong: Any) -> None:
    optimizer: Any = ALGORITHMS["SGD"]([nn.Parameter(torch.zeros(2))], lr=1.0)
    optimizer.clip_gradients(max_norm=5.0)
    with pytest.raises(ValueError, match=rf"Invalid {limit} value: .* \({limit} must be > 0, or None for no"):
        optimizer.clip_gradients(**{limit: wrong})
    [p] = params_of(optimizer)
    p.grad = torch.tensor([6.0, 8.0])
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([-3.0, -4.0]), msg="as before")
