"""A table of what differs in some overrides, in full at every width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.measure import Measurement
from rich.segment import Segments
from rich.table import Table
from rich.text import Text

UNBOUNDED = 100_000  # characters: wider than any table


@dataclass(frozen=True)
class Row:
    """One line: cells on the left, overrides as key to value, cells on the right."""

    left: Sequence[str]
    overrides: Mapping[str, str]
    right: Sequence[str]


def show(console: Console, left: Sequence[str], right: Sequence[str], rows: Sequence[Row]) -> None:
    """Print rows under their headings, with a column for each key of their overrides.

    In a terminal that is too narrow for this, the overrides of a row stand below each other in a single
    column. Files and pipes get plain lines, as long as they need.
    """
    keys = dict.fromkeys(key for row in rows for key in row.overrides)
    columns = [[row.overrides.get(key, "") for key in keys] for row in rows]
    table = _table(
        [*left, *keys, *right], [(*x.left, *y, *x.right) for x, y in zip(rows, columns, strict=True)]
    )
    width = Measurement.get(console, console.options.update(max_width=UNBOUNDED), table).maximum
    if console.is_terminal and width > console.width:
        width = console.width
        table = _table(
            [*left, "overrides", *right], [(*x.left, _stacked(x.overrides), *x.right) for x in rows]
        )
    # Not printed as it is: the console would squeeze it into its own width, which a file does not have.
    lines = console.render(table, console.options.update(width=width))
    console.print(Segments(lines), crop=False)


def _table(headings: Iterable[str], rows: Iterable[Sequence[str]]) -> Table:
    # As Text, because brackets in values are no markup.
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _stacked(overrides: Mapping[str, str]) -> str:
    return "\n".join(f"{key}={value}" for key, value in overrides.items())
