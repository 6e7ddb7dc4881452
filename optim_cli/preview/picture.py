"""Courses as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optim_cli.preview.course import Course
from optim_cli.whole_file import replacing

FORMATS = (".png", ".svg", ".pdf")


def save(courses: Sequence[Course], title: str, path: Path) -> None:
    """Write a panel for each hyperparameter, with a line for each group, in the format of the suffix.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(x.hyperparameter for x in courses))
    figure = Figure(figsize=(max(4.2 * len(names), 7), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        shown = [x for x in courses if x.hyperparameter == name]
        for course in shown:
            axes.plot(course.values, label=course.name, linewidth=1.5)
        axes.set(xlabel="step", ylabel=name, xlim=(0, max(len(shown[0].values) - 1, 1)))
        axes.grid(alpha=0.3)
        if len(shown) > 1:
            axes.legend()
    figure.suptitle(title)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120, format=path.suffix[1:])
