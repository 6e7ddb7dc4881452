"""Warmup, stable, decay: landmarks, shapes, refusals, resume."""

from __future__ import annotations

import random
from math import sqrt
from typing import Any

import pytest

from optim_cli import optim
from optim_cli.optim import lr_scheduler
from tests.optim.lr_scheduler.sampling import close, optimizer_of, values_of


def shares(**options: Any) -> list[float]:
    """Rates of a schedule of 20 steps that starts from 1, and five steps on."""
    optimizer = optimizer_of(optim, "SGD", [1.0])
    table = lr_scheduler.WarmupStableDecayLR(optimizer, **{"total_iters": 20, **options}).table(25)
    found: list[float] = table["lr"].flatten().tolist()
    return found


def test_landmarks() -> None:
    found = shares(warmup_iters=4, decay_iters=5, start_factor=0.2, end_factor=0.1)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[4:16] == pytest.approx([1.0] * 12)
    assert found[15:21] == pytest.approx([1.0, 0.82, 0.64, 0.46, 0.28, 0.1])
    assert found[20:] == pytest.approx([0.1] * 5)


@pytest.mark.parametrize(
    ("decay", "middle"),
    [("linear", 0.55), ("cos", 0.55), ("sqrt", 0.1 + 0.9 * (1 - sqrt(0.5))), ("exponential", sqrt(0.1))],
)
def test_shapes(decay: str, middle: float) -> None:
    found = shares(decay_iters=4, end_factor=0.1, decay=decay)
    assert (found[16], found[18], found[20], found[24]) == pytest.approx((1.0, middle, 0.1, 0.1))
    assert found[16:21] == sorted(found[16:21], reverse=True)


def test_exponential_halves_as_in_the_paper() -> None:
    """MiniCPM's decay is 0.5 ** (s / T): five half-lives down to 1/32."""
    found = shares(decay_iters=10, end_factor=1 / 32, decay="exponential")
    assert found[10::2][:6] == pytest.approx([0.5**x for x in range(6)])


def test_from_nothing_and_to_nothing() -> None:
    optimizer = optimizer_of(optim, "SGD", [0.5, 2.0])
    schedule = lr_scheduler.WarmupStableDecayLR(optimizer, 6, warmup_iters=2, decay_iters=2)
    optimizer.step()
    rates = [values_of(optimizer)[::2]]
    for _ in range(8):
        schedule.step()
        rates.append(values_of(optimizer)[::2])
    expected = [0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0]
    assert [close(x, [0.5 * y, 2.0 * y]) for x, y in zip(rates, expected, strict=True)] == [True] * 9


def test_a_change_by_hand_stays(seed: int) -> None:
    g = random.Random(seed)
    optimizer = optimizer_of(optim, "SGD", [1.0])
    schedule = lr_scheduler.WarmupStableDecayLR(optimizer, 20, decay_iters=10)
    optimizer.step()
    factor, at = g.uniform(0.1, 3), g.randrange(18)
    table = schedule.table(20)["lr"].flatten()
    for t in range(20):
        if t == at:
            optimizer.param_groups[0]["lr"] *= factor
        assert values_of(optimizer)[0] == pytest.approx(float(table[t]) * (factor if t >= at else 1))
        schedule.step()


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"warmup_iters": 12, "decay_iters": 9},
        "warmup_iters=12 and decay_iters=9 are more than total_iters=20",
    ),
    ({"warmup_iters": -1}, "warmup_iters must be at least 0, but got -1"),
    ({"decay_iters": -1}, "decay_iters must be at least 0, but got -1"),
    ({"start_factor": 1.5}, "start_factor must be between 0 and 1, but got 1.5"),
    ({"end_factor": float("nan")}, "end_factor must be between 0 and 1, but got nan"),
    ({"decay": "round"}, "decay must be one of linear, cos, sqrt, exponential, but got 'round'"),
    ({"decay": "exponential"}, "an exponential decay never gets to 0: end_factor must be above 0"),
]


@pytest.mark.parametrize(("options", "told"), REFUSED, ids=str)
def test_refusals(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}$".replace("(", r"\(")):
        shares(**options)
