"""Measured rows, the limits that are claimed of them, and both as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Row:
    """What was measured of one optimizer on one model; a value is None where torch has no such form."""

    section: str
    model: str
    optimizer: str
    values: dict[str, float | None]


@dataclass(frozen=True)
class Limit:
    """A claim about one column of a section; for all models and optimizers where none are named."""

    what: str
    section: str
    column: str
    bound: float
    models: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    at_least: bool = field(default=False, kw_only=True)

    def measured(self, rows: Sequence[Row]) -> list[tuple[float, Row]]:
        """The values that it is about, the worst last."""
        found = [
            (value, row)
            for row in rows
            if row.section == self.section
            and (not self.models or row.model in self.models)
            and (not self.optimizers or row.optimizer in self.optimizers)
            and (value := row.values[self.column]) is not None
        ]
        return sorted(found, key=lambda entry: entry[0], reverse=self.at_least)

    def broken(self, rows: Sequence[Row]) -> list[str]:
        """One line for each row that is beyond the bound."""
        return [
            f"{self.what}: {row.model} {row.optimizer} {figure(value)} ({self.bound_as_text})"
            for value, row in self.measured(rows)
            if not (value >= self.bound if self.at_least else value <= self.bound)  # NaN keeps no limit
        ]

    @property
    def bound_as_text(self) -> str:
        """The bound with its direction."""
        return f"at {'least' if self.at_least else 'most'} {self.bound:g}"


def figure(value: float | None) -> str:
    """Three digits, or all before the point."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def head(section: str, columns: Sequence[str]) -> str:
    """The line above the rows of a section."""
    return f"\n{section:8} {'model':8} {'optimizer':14} " + " ".join(f"{name:>12}" for name in columns)


def line(row: Row) -> str:
    """A row as text."""
    values = " ".join(f"{figure(value):>12}" for value in row.values.values())
    return f"{'':8} {row.model:8} {row.optimizer:14} {values}"


def limits_table(limits: Sequence[Limit], rows: Sequence[Row]) -> list[str]:
    """A Markdown table of limits that were measured: the claim, the values from best to worst, the bound."""
    lines = ["| what | measured | limit |", "|---|---|---|"]
    for limit in limits:
        if found := limit.measured(rows):
            best, worst = figure(found[0][0]), figure(found[-1][0])
            values = best if best == worst else f"{best} to {worst}"
            lines.append(f"| {limit.what} | {values} | {limit.bound_as_text} |")
    return lines
