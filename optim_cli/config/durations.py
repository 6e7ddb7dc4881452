"""Durations in configs: a whole number, `500 steps`, `5 epochs`, or `10%` of the run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

Interval = Literal["step", "epoch"]
WORDS = "text such as '500 steps', '5 epochs', '10%'"
# Few enough digits for any arithmetic.
_TEXT = re.compile(r"\s*(?:([0-9]{1,15}) *(steps?)|([0-9]{1,15}(?:\.[0-9]{1,15})?) *(epochs?|%))\s*")


@dataclass(frozen=True)
class RunLength:
    """How long a run is.

    Attributes:
        steps: of the optimizer, in the whole run.
        steps_per_epoch: of the optimizer, in one pass over the training set.
        interval: what durations are counted in.
    """

    steps: int
    steps_per_epoch: int
    interval: Interval = "step"

    @property
    def total(self) -> int:
        """The run in units of `interval`; an epoch that is cut short counts."""
        return self.steps if self.interval == "step" else -(-self.steps // self.steps_per_epoch)

    def count(self, duration: int | str) -> int:
        """A duration in units of `interval`; the fraction of a unit is dropped, but something stays 1.

        Args:
            duration: a whole number of units, or a text for which `is_duration` is true.
        """
        exact = self.exact(duration)
        return max(int(exact), int(exact > 0))

    def exact(self, duration: int | str) -> Fraction:
        """The same with the fraction of a unit."""
        if isinstance(duration, int):
            return Fraction(duration)
        amount, unit = _parsed(duration)
        if unit == "%":
            return amount * Fraction(self.total, 100)
        if unit == self.interval:
            return amount
        return amount * (
            self.steps_per_epoch if self.interval == "step" else Fraction(1, self.steps_per_epoch)
        )


def is_duration(value: Any) -> bool:
    """Whether a value is a text that says how long something takes."""
    return isinstance(value, str) and _TEXT.fullmatch(value) is not None


def stand_in(value: Any) -> Any:
    """A value with a number in place of each duration in words, for checks of type and range."""
    if isinstance(value, list | tuple):
        return type(value)(map(stand_in, value))
    return int(_parsed(value)[0] > 0) if is_duration(value) else value


def is_counted(hint: Any) -> bool:
    """Whether a parameter with this annotation counts steps, so that it takes durations."""
    return bool(_marks(hint))


def is_total(hint: Any) -> bool:
    """Whether a parameter is the length of a schedule, so that the run's length is its natural value."""
    return any(mark.total for mark in _marks(hint))


def is_moment(hint: Any) -> bool:
    """Whether all that a schedule does comes after the time that a parameter says."""
    return any(mark.moment for mark in _marks(hint))


def counted(
    values: Mapping[str, Any], hints: Mapping[str, Any], run: RunLength, total: int | None = None
) -> dict[str, Any]:
    """Arguments of a constructor with durations as numbers of `run.interval`.

    Args:
        values: parameter name -> value.
        hints: parameter name -> annotation.
        total: what a length of the whole schedule becomes that is left open; None takes the run's.
    """
    whole = run.total if total is None else total
    # The other form in which OneCycleLR takes its length.
    epochs, steps_per_epoch = values.get("epochs"), values.get("steps_per_epoch")
    in_epochs = epochs * steps_per_epoch if epochs and steps_per_epoch else None

    def count(value: Any, hint: Any) -> Any:
        if value is None and is_total(hint):
            return in_epochs or whole
        if isinstance(value, list):
            return [count(x, hint) for x in value]
        return run.count(value) if is_counted(hint) and is_duration(value) else value

    # A length that is left out is left open, whatever a constructor takes for it without a run.
    values = dict.fromkeys((key for key, hint in hints.items() if is_total(hint)), None) | dict(values)
    return {key: count(value, hints.get(key)) for key, value in values.items()}


def _parsed(text: str) -> tuple[Fraction, str]:
    """Amount and unit: step, epoch or %."""
    found = _TEXT.fullmatch(text)
    assert found is not None
    amount, unit = (x for x in found.groups() if x is not None)
    return Fraction(amount), unit.removesuffix("s")


def _marks(hint: Any) -> list[Any]:
    from optim_cli.optim.lr_scheduler.schedule import Duration

    own = [x for x in getattr(hint, "__metadata__", ()) if isinstance(x, Duration)]
    parts = [x for x in getattr(hint, "__args__", ()) if x is not hint]
    return own + [mark for part in parts for mark in _marks(part)]
