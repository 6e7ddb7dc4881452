"""Courses in a terminal: a drawing for each hyperparameter, and a table of what matters in them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from optim_cli.preview.course import Course

HEIGHT = 10
# Beside a drawing stand the numbers of its axis.
MARGIN = 24
COLORS = ("cyan", "yellow", "magenta", "green", "red", "blue")


def show(courses: Sequence[Course], console: Console) -> None:
    """Draw them; groups are told apart by color, where there is any."""
    for name in dict.fromkeys(x.hyperparameter for x in courses):
        console.print(_drawing([x for x in courses if x.hyperparameter == name], console))
    console.print(_table(courses))


def _drawing(courses: Sequence[Course], console: Console) -> Text:
    # Imported here, as everything that only some commands need.
    import plotille

    colored = console.is_terminal and not console.no_color
    figure = plotille.Figure()
    figure.width, figure.height = max(console.width - MARGIN, 20), HEIGHT
    figure.with_colors, figure.color_mode, figure.origin = colored, "names", False
    figure.x_label, figure.y_label = "step", courses[0].hyperparameter
    figure.register_label_formatter(
        float, lambda x, chars, delta, left=False: f"{x:<{chars}.3g}" if left else f"{x:>{chars}.3g}"
    )
    lowest, highest = (f(y for x in courses for y in x.values) for f in (min, max))
    room = 0.05 * (highest - lowest) or abs(highest) or 1.0
    # No hyperparameter is below 0.
    figure.set_y_limits(max(lowest - room, min(lowest, 0.0)), highest + room)
    figure.set_x_limits(0, max(len(courses[0].values) - 1, 1))
    for index, course in enumerate(courses):
        steps = range(len(course.values))
        figure.plot(list(steps), list(course.values), label=course.name, lc=COLORS[index % len(COLORS)])
    return Text.from_ansi(figure.show(legend=colored and len(courses) > 1) + "\n")


def _table(courses: Sequence[Course]) -> Table:
    table = Table("hyperparameter", "groups", "first", "highest", "lowest", "last")
    for course in courses:
        values = course.values
        ends = [f"{x:.4g} at {values.index(x):,}" for x in (max(values), min(values))]
        table.add_row(course.hyperparameter, course.name, f"{values[0]:.4g}", *ends, f"{values[-1]:.4g}")
    return table
