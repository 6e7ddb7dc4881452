"""Sizes, layouts, alignments, values that are no numbers, and what has to run otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS
from tests.optim.execution.fused.interpreted.side_by_side import SOME, assert_same, both, values_of
from tests.optim.oracle import NAMES, entries, give, like, params_of, ran, step_both

STEPS = 3
names = pytest.mark.parametrize("name", NAMES)
some = pytest.mark.parametrize("name", SOME)


def on_buffers(optimizer: Any, offset: int) -> None:
    """Move parameters to views that begin `offset` elements into buffers of their own."""
    for p in params_of(optimizer):
        p.data = torch.empty(p.numel() + offset, dtype=p.dtype)[offset:].view_as(p).copy_(p.data)


@pytest.mark.parametrize("size", [0, 1, 15, 17, 1023, 1024, 1025, 2049])
def test_odd_sizes(size: int, generator: torch.Generator) -> None:
    fused, loop = both("Adam", values_of(generator, [(size,)], torch.float32))
    for _ in range(STEPS):
        step_both(fused, loop, values_of(generator, [(size,)], torch.float32))
        assert_same(fused, loop)
    assert ran(fused) == {"fused": STEPS}


def test_many_tensors(generator: torch.Generator) -> None:
    """More than the prologue has lanes, and blocks to search among."""
    shapes = [(i % 3,) for i in range(200)] + [(2500,)]
    fused, loop = both("SGD", values_of(generator, shapes, torch.float32), {"lr": 0.1, "momentum": 0.9})
    for _ in range(2):
        step_both(fused, loop, values_of(generator, shapes, torch.float32))
        assert_same(fused, loop)
    assert fused.launches == {"prologue": 2, "update": 2}


@some
def test_dense_in_another_order(name: str, generator: torch.Generator) -> None:
    """Parameters are walked as they lie, and gradients and states in another order are copied to that."""
    images = values_of(generator, [(2, 3, 4, 5)])[0].to(memory_format=torch.channels_last)
    values = [images, values_of(generator, [(3, 4)])[0].t(), *values_of(generator, [(5, 6), (1, 7)])]
    fused, loop = both(name, values)
    for step in range(STEPS):
        gradients = like(values, generator)
        if step % 2:
            gradients = [g.contiguous() for g in gradients]
            gradients[2] = torch.stack([gradients[2]] * 2, dim=-1)[..., 0]
            gradients[3] = gradients[3].expand(2, 1, 7)[0]
        for optimizer in (fused, loop):
            for p, g in zip(params_of(optimizer), gradients, strict=True):
                p.grad = g
            optimizer.step()
        assert_same(fused, loop)
    assert ran(fused) == {"fused": STEPS}


@some
def test_views_that_are_not_aligned(name: str, generator: torch.Generator) -> None:
    values = values_of(generator, [(17,), (5, 3), (1030,), (2,)], torch.float32)
    fused, loop = both(name, values)
    on_buffers(fused, 1)
    fused.param_groups[0]["params"][1].data = values[1].clone()
    for _ in range(STEPS):
        step_both(fused, loop, like(values, generator))
        assert_same(fused, loop)
    assert fused.launches["update"] == 2 * STEPS, "one for those that are aligned, one for the others"
    assert ran(fused) == {"fused": 2 * STEPS}


def test_gradients_that_are_not_aligned(generator: torch.Generator) -> None:
    """Those of one step are, those of the next one are not: all at addresses of their own."""
    values = values_of(generator, [(17,), (6,)], torch.float32)
    fused, loop = both("AdamW", values)
    kept = []
    for step in range(4):
        for optimizer in (fused, loop):
            for p, g in zip(params_of(optimizer), values, strict=True):
                p.grad = torch.cat([torch.zeros(step % 2), g * (1 + step)])[step % 2 :]
                kept.append(p.grad)
            optimizer.step()
        assert_same(fused, loop)
    assert fused.launches["update"] == 4


@some
def test_holes_and_overlaps_run_otherwise(name: str, generator: torch.Generator) -> None:
    values = values_of(generator, [(4, 6), (5,)])
    values.append(values_of(generator, [(4, 6)])[0][:, ::2])
    fused, loop = both(name, values)
    with pytest.warns(UserWarning, match="no fused execution for these tensors, foreach runs instead"):
        step_both(fused, loop, like(values, generator))
    for _ in range(STEPS - 1):
        step_both(fused, loop, like(values, generator))
        assert_same(fused, loop)
    assert ran(fused) == {"fused": STEPS, "foreach": STEPS}


def test_subclasses_run_otherwise(generator: torch.Generator) -> None:
    class Own(nn.Parameter):
        pass

    value = values_of(generator, [(5,)])[0]
    optimizer: Any = ALGORITHMS["SGD"]([Own(value.clone())], lr=0.5, implementation="fused")
    give(params_of(optimizer), [torch.ones_like(value)])
    with pytest.warns(UserWarning, match="no fused execution for these tensors"):
        optimizer.step()
    torch.testing.assert_close(params_of(optimizer)[0].detach(), value - 0.5)
    assert "fused" not in ran(optimizer)


@some
def test_mixed_dtypes_are_a_launch_each(name: str, generator: torch.Generator) -> None:
    kinds = (torch.float32, torch.float64, torch.complex64)
    values = [values_of(generator, [(6,)], dtype)[0] for dtype in kinds] * 2
    fused, loop = both(name, values)
    for _ in range(STEPS):
        step_both(fused, loop, like(values, generator))
        for x, y in zip(params_of(fused), params_of(loop), strict=True):
            torch.testing.assert_close(x, y)
    # A complex number is a pair of real ones.
    assert fused.launches["update"] == 2 * STEPS
    assert ran(loop) == {"for_loop": 3 * STEPS}


def test_a_gradient_of_another_dtype(generator: torch.Generator) -> None:
    values = values_of(generator, [(6,), (3, 2)], torch.float32)
    fused, loop = both("AdamW", values)
    for _ in range(STEPS):
        gradients = like(values, generator)
        for optimizer in (fused, loop):
            for p, g in zip(params_of(optimizer), gradients, strict=True):
                p.grad_dtype = None
                p.grad = g.double()
            optimizer.step()
        assert_same(fused, loop)
    assert ran(fused) == {"fused": STEPS}


def test_lazy_conjugates(generator: torch.Generator) -> None:
    values = values_of(generator, [(6,)], torch.complex64)
    fused, loop = both("Adam", values)
    for step in range(STEPS):
        [g] = like(values, generator)
        lazy = g.conj() if step % 2 else g
        params_of(fused)[0].grad, params_of(loop)[0].grad = lazy, lazy.resolve_conj()
        fused.step()
        loop.step()
        assert_same(fused, loop)


@names
@pytest.mark.parametrize("where", ["p", "g", "state"])
def test_no_numbers_spread_as_in_the_for_loop(name: str, where: str, generator: torch.Generator) -> None:
    """Infinities and NaN, at equal places at every step."""
    planted = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0])
    values = values_of(generator, [(9,)], torch.float32)
    fused, loop = both(name, values, {"weight_decay": 0.1} if name != "Rprop" else {})

    def plant(found: list[Tensor]) -> None:
        for x in found:
            if x.dim():
                x.detach()[: len(planted)] = planted

    for step in range(STEPS):
        gradients = like(values, generator)
        if where == "g" and step:
            plant(gradients)
        for optimizer in (fused, loop):
            held = entries(optimizer)
            parameters = held.pop("p")
            if step == 1 and where == "p":
                plant(parameters)
            if step == 1 and where == "state":
                plant([x for found in held.values() for x in found])
        step_both(fused, loop, gradients)
        assert_same(fused, loop, f"step {step}:")
