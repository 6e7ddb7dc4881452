"""The numbers of the fused execution: against float64, with NaN and infinities, and in a second run."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from tests.optim.gpu.device import (
    DEVICE,
    ON_GPU,
    SHAPES,
    assert_close,
    assert_equal,
    drawn,
    follow,
    held,
    made,
    names,
    reference,
    step,
)
from tests.optim.oracle import TOLERANCES, arithmetics, drift, entries, params_of, ran

pytestmark = ON_GPU

STEPS = 4
# What storing in fewer bits adds to float32 arithmetic: half a unit in the last place.
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11}
DTYPES = [*TOLERANCES, torch.float16]
SPECIAL = (torch.nan, torch.inf, -torch.inf, 0.0)


def tolerance_of(name: str, dtype: torch.dtype) -> tuple[float, float]:
    """(rtol, atol) of a step from equal values against float64."""
    wide = torch.float32 if dtype in ROUNDING else dtype
    rtol, atol = (max(pair) for pair in zip(TOLERANCES[wide], drift(name), strict=True))
    return rtol + ROUNDING.get(dtype, 0.0), atol


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@names
def test_a_step_is_that_of_float64(name: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    values = drawn(generator, dtype)
    for options in arithmetics(name):
        ours, expected = made(name, values, **options), reference(name, values, **options)
        follow(ours, expected)  # Adagrad's sums begin with a number that may need rounding
        for count in range(STEPS):
            step([ours, expected], drawn(generator, dtype))
            assert_close(ours, expected, tolerance_of(name, dtype), f"{options} step {count}:")
            follow(ours, expected)
        assert ran(ours) == {"fused": STEPS}
        assert ours.launches["update"] == STEPS
        assert 1 <= ours.launches["prologue"] <= STEPS
        assert not ours.launches["norm"]


@names
def test_float16_and_float32_in_one_optimizer(name: str, generator: torch.Generator) -> None:
    """A launch for each dtype."""
    values = [x.to(dtype) for x in drawn(generator) for dtype in (torch.float16, torch.float32)]
    ours, expected = made(name, values), reference(name, values)
    for count in range(STEPS):
        gradients = [g.to(dtype) for g in drawn(generator) for dtype in (torch.float16, torch.float32)]
        step([ours, expected], gradients)
        assert_close(ours, expected, tolerance_of(name, torch.float16), f"step {count}:")
        follow(ours, expected)
    assert ran(ours) == {"fused": 2 * STEPS}
    assert ours.launches["update"] == 2 * STEPS


@names
def test_groups_share_one_launch(name: str, generator: torch.Generator) -> None:
    """Whatever their numbers; also where one has no weight decay, which infinite parameters would show."""
    values = drawn(generator)
    values[0][0, 0] = torch.inf
    ours, expected = made(name, values[:1]), reference(name, values[:1])
    for optimizer in (ours, expected):
        p = params_of(optimizer)[0]
        for i, x in enumerate(values[1:]):
            more = x.to(p.device, p.dtype, copy=True).requires_grad_()
            optimizer.add_param_group({"params": [more], "lr": 0.03 * (i + 1), "weight_decay": 0.1 * (i + 1)})
        optimizer.param_groups[0]["weight_decay"] = 0.0
    for count in range(STEPS):
        gradients = drawn(generator)
        step([ours, expected], gradients)
        assert_close(ours, expected, tolerance_of(name, torch.float32), f"step {count}:")
        follow(ours, expected)
        for optimizer in (ours, expected):
            optimizer.param_groups[1]["lr"] *= 0.5
    assert ran(ours) == {"fused": STEPS}
    assert ours.launches["update"] == STEPS


@names
def test_nan_where_the_for_loop_has_it(name: str, generator: torch.Generator) -> None:
    """NaN, infinities and 0 in parameters, gradients and states, each alone and two at a time."""
    (p,), (first,), (second,) = (drawn(generator, shapes=[(1025,)]) for _ in range(3))
    for options in arithmetics(name):
        ours = made(name, [p], **options)
        expected = made(name, [p.cpu()], **options | {"implementation": "for_loop"})
        step([ours, expected], [first])
        columns = {key: of_one[0].clone() for key, of_one in entries(ours).items() if of_one[0].dim()}
        columns["g"] = second.clone()
        plant(list(columns.values()))
        gradient = columns.pop("g")
        with torch.no_grad():
            for optimizer in (ours, expected):
                for key, (x, *_) in entries(optimizer).items():
                    x.copy_(columns.get(key, x))
        for count in range(2):
            step([ours, expected], [gradient])
            for key, (x,) in held(ours).items():
                (y,) = held(expected)[key]
                for kind in (torch.isnan, torch.isposinf, torch.isneginf):
                    where = kind(x) != kind(y)
                    assert not where.any(), f"{options} step {count}: {key} {x[where]} instead of {y[where]}"
    assert ran(ours) == {"fused": 3}


def plant(columns: list[Tensor]) -> None:
    """Put special numbers where few others are."""
    places = iter(range(len(columns[0])))
    for x, value in product(columns, SPECIAL):
        x[next(places)] = value
    for (x, y), (one, other) in product(combinations(columns, 2), product(SPECIAL, SPECIAL)):
        place = next(places)
        x[place], y[place] = one, other


@names
def test_a_second_run_is_the_same_bit_for_bit(name: str, generator: torch.Generator) -> None:
    """With the norm of gradients that many programs add up."""
    shapes = [*SHAPES, (300, 1000), (2000, 1000)]
    values = drawn(generator, shapes=shapes)
    gradients = [drawn(generator, shapes=shapes) for _ in range(3)]
    norms, found = [], []
    for _ in range(2):
        ours = made(name, values)
        ours.clip_gradients(max_norm=1.0, max_value=0.01)
        for of_step in gradients:
            step([ours], of_step)
        norms.append(ours.grad_norm)
        found.append(held(ours))
    assert norms[0].device.type == DEVICE
    assert torch.equal(*norms)
    assert_equal(*found)
    by_hand = torch.cat([g.double().flatten() for g in gradients[-1]]).norm()
    torch.testing.assert_close(norms[0].double(), by_hand, rtol=1e-6, atol=0)


def test_auto_and_fused_are_the_same_here(generator: torch.Generator) -> None:
    values, gradients = drawn(generator), drawn(generator)
    optimizers = [made("Adam", values, implementation=x) for x in ("auto", "fused")]
    step(optimizers, gradients)
    assert_equal(*map(held, optimizers))
    assert [ran(optimizer) for optimizer in optimizers] == [{"fused": 1}] * 2
