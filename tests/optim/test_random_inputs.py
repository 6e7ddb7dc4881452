"""Drawn at random: shapes, strides, missing gradients, hyperparameters; ours is torch, in both executions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optim_cli.optim import ALGORITHMS
from tests.optim.oracle import NAMES, Options, assert_close, give, like, parameters, params_of, ran, theirs_of

STEPS = 3
# A few steps in float64, where an option may make a division by something small.
TOLERANCE = (1e-9, 1e-9)
MODES = ("capturable", "differentiable")


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """0-d states in float64 too: torch's arithmetic on them is then as exact as ours."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


def numbers(hint: Any, default: float) -> st.SearchStrategy[float]:
    """The default, and eighths of the way from the lower bound (or 0) to the upper (or 1 more)."""
    found = {kind: bound for x in get_args(hint)[1:] for kind, bound in asdict(x).items()}
    low = float(found.get("ge", found.get("gt", 0)))
    high = float(found.get("le", found.get("lt", low + 1)))
    return st.sampled_from([default, *(low + (high - low) * k / 8 for k in range(1, 8))])


def values_of(hint: Any, default: Any) -> st.SearchStrategy[Any]:
    if hint is bool:
        return st.booleans()
    if get_origin(hint) is tuple:
        return st.tuples(*(values_of(x, y) for x, y in zip(get_args(hint), default, strict=True)))
    return numbers(hint, default)


def options_of(name: str) -> st.SearchStrategy[Options]:
    """Any arithmetic of an algorithm, contradictions too."""
    hints = get_type_hints(ALGORITHMS[name].__init__, include_extras=True)
    varied = {
        option: values_of(hints[option], default)
        for option, default in theirs_of(name)([torch.ones(1)]).defaults.items()
        if option in hints and default is not None and option not in MODES
    }
    return st.fixed_dictionaries(varied)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Up to three dimensions, empty ones too, in any order in memory, some with gaps."""
    sides = draw(st.lists(st.integers(0, 4), max_size=3))
    steps = [draw(st.integers(1, 2)) for _ in sides]
    order = draw(st.permutations(range(len(sides))))
    wide = torch.zeros([side * step for side, step in zip(sides, steps, strict=True)])
    return wide[tuple(slice(None, None, step) for step in steps)].permute(order)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_random_inputs(name: str, data: st.DataObject) -> None:
    options = data.draw(options_of(name), "options")
    shapes = data.draw(st.lists(tensors(), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32), "seed"))
    values = like(shapes, generator)
    try:
        theirs = theirs_of(name)(parameters(values), **options)
    except ValueError:
        with pytest.raises(ValueError, match=r"\w"):
            ALGORITHMS[name](parameters(values), **options)
        return
    loop, lists = (
        ALGORITHMS[name](parameters(values), **options, implementation=implementation)
        for implementation in ("for_loop", "foreach")
    )
    stepped = 0
    for _ in range(STEPS):
        present = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)), "present")
        gradients = [g if there else None for g, there in zip(like(values, generator), present, strict=True)]
        for optimizer in (loop, lists, theirs):
            give(params_of(optimizer), gradients)
            optimizer.step()
        stepped += any(present)
    assert_close(lists, theirs, TOLERANCE)
    assert_close(loop, lists, (0, 0))
    assert (set(ran(loop)), set(ran(lists))) == (({"for_loop"}, {"foreach"}) if stepped else (set(), set()))
