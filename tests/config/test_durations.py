"""Durations in words, counted in steps and in epochs."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Annotated, Any

import pytest
import torch
from annotated_types import Ge

from optim_cli.config.describe import describe
from optim_cli.config.durations import RunLength, counted, is_counted, is_duration, is_total, stand_in
from optim_cli.optim.lr_scheduler.schedule import Duration, Steps, Total


@pytest.mark.parametrize(
    ("text", "steps", "epochs"),
    [
        ("500 steps", 500, 23),
        ("1 step", 1, 1),
        ("0 steps", 0, 0),
        ("5 epochs", 105, 5),
        ("1 epoch", 21, 1),
        ("0.5 epochs", 10, 1),
        ("1.5 epoch", 31, 1),
        ("10%", 42, 2),
        ("0.5 %", 2, 1),
        ("0.1%", 1, 1),
        ("0.0%", 0, 0),
        (" 100 % ", 420, 20),
        (7, 7, 7),
    ],
)
def test_words(text: str | int, steps: int, epochs: int) -> None:
    """Of a run of 420 steps, 20 epochs."""
    assert RunLength(420, 21).count(text) == steps
    assert RunLength(420, 21, "epoch").count(text) == epochs


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "5",
            "steps",
            "5 epocks",
            "1.5 steps",
            "-5 steps",
            "5e2 steps",
            "10 %%",
            "10% steps",
            "٣ steps",
        ),
        *("nan%", "inf epochs", ".5 epochs", "5. epochs", "9" * 5000 + " steps", 5, None, ["10%"], True),
    ],
)
def test_what_is_none(value: Any) -> None:
    assert not is_duration(value)


def test_an_epoch_that_is_cut_short_counts() -> None:
    assert RunLength(50, 21, "epoch").total == 3
    assert RunLength(42, 21, "epoch").total == 2
    assert RunLength(50, 21).total == 50


def test_shares_of_a_run_never_exceed_it(seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(300):
        run = RunLength(
            generator.randint(1, 10_000), generator.randint(1, 300), generator.choice(["step", "epoch"])
        )
        cuts = sorted(generator.sample(range(1, 1000), generator.randint(1, 5)))
        shares = [b - a for a, b in zip([0, *cuts], [*cuts, 1000], strict=True)]
        counts = [run.count(f"{share / 10}%") for share in shares]
        for share, count in zip(shares, counts, strict=True):
            exact = Fraction(share, 1000) * run.total
            assert count == max(1, exact.numerator // exact.denominator)
        assert sum(counts) <= run.total or 1 in counts
        epochs = Fraction(generator.randint(1, 9999), 100)
        text = f"{float(epochs)} epochs"
        assert abs(RunLength(run.steps, run.steps_per_epoch).count(text) - epochs * run.steps_per_epoch) <= 1
        assert RunLength(run.steps, run.steps_per_epoch, "epoch").count(text) == max(1, int(epochs))


def test_which_parameters_take_them() -> None:
    for hint in (Steps, Total, Total | None, list[Steps], Steps | list[Steps] | None):
        assert is_counted(hint)
    for hint in (int, list[int], Annotated[int, Ge(1)], None, Any, torch.Tensor | float):
        assert not is_counted(hint)
    assert is_total(Total | None)
    assert not is_total(list[Steps])
    words = "a whole number greater than or equal to 1, or text such as '500 steps', '5 epochs', '10%'"
    assert describe(Steps | None) == f"{words} or null"
    assert describe(Annotated[int, Duration()]) == words.replace(" greater than or equal to 1", "")


def test_arguments() -> None:
    hints = {"step_size": Steps, "milestones": list[Steps], "T_max": Total | None, "name": str}
    values = {
        "step_size": "2 epochs",
        "milestones": ["10%", 50, "75%"],
        "T_max": None,
        "name": "10%",
        "x": None,
    }
    run = RunLength(200, 20)
    expected = {"step_size": 40, "milestones": [20, 50, 150], "T_max": 200, "name": "10%", "x": None}
    assert counted(values, hints, run) == expected
    assert counted(values, hints, run, total=33) == expected | {"T_max": 33}
    assert stand_in(["10%", "0%", 7, None, "x"]) == [1, 0, 7, None, "x"]
