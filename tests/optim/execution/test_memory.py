"""How many temporary lists the printed foreach form of an algorithm holds at once."""

from __future__ import annotations

import re

import pytest

from optim_cli.optim import ALGORITHMS
from optim_cli.optim.elementwise import Elementwise
from optim_cli.optim.execution.printer import print_in_place
from tests.optim.oracle import NAMES, Options, arithmetics


def temporaries(name: str, options: Options) -> int:
    """The most lists that are alive at once beside parameters, gradients and states."""
    cls = ALGORITHMS[name]
    assert issubclass(cls, Elementwise)
    group = cls([{"params": []}], **options).param_groups[0]
    source = print_in_place(cls.variant_of(group).program, "foreach", "update")
    alive: set[str] = set()
    peak = 0
    for line in source.splitlines():
        if made := re.match(r"    (\w+) = ", line):
            alive.add(made[1])
        peak = max(peak, len(alive))
        if dropped := re.match(r"    del (\w+)", line):
            alive.remove(dropped[1])
    return peak


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("SGD", {"weight_decay": 0}, 0),
        ("SGD", {"momentum": 0.9}, 0),
        ("SGD", {"momentum": 0.9, "weight_decay": 0.1}, 1),
        ("SGD", {"momentum": 0.9, "nesterov": True}, 1),
        ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True}, 1),
        ("Adam", {}, 1),
        ("Adam", {"weight_decay": 0.1}, 1),
        ("Adam", {"amsgrad": True}, 1),
        ("AdamW", {}, 1),
        ("AdamW", {"amsgrad": True, "maximize": True}, 1),
    ],
)
def test_temporaries(name: str, options: Options, expected: int) -> None:
    assert temporaries(name, options) == expected


@pytest.mark.parametrize("name", NAMES)
def test_no_algorithm_holds_more_than_three_temporaries(name: str) -> None:
    """As torch's forms do: Adadelta, which divides two roots, beside a gradient with weight decay."""
    grid = arithmetics(name)
    assert grid
    for options in grid:
        assert temporaries(name, options) <= 3, options
