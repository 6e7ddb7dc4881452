"""Curves of loss, accuracy and learning rate as one picture."""

from __future__ import annotations

from math import nan
from pathlib import Path
from typing import Any

from optim_cli.tracking.json_lines import read_lines
from optim_cli.training.events import Metrics, Observer, Plan

PANELS = ("loss", "accuracy", "lr")
MOST_NAMES = 10
Series = dict[str, tuple[list[int], list[float]]]  # metric name -> steps and values


class Curves(Observer):
    """Draws `curves.png` when the run is complete.

    Args:
        path: the picture.
        metrics: the metrics file, which holds what a run did before it was stopped, too.
    """

    def __init__(self, path: Path, metrics: Path) -> None:
        self.path = path
        self.metrics = metrics

    def started(self, plan: Plan) -> None:
        """Note what the title says."""
        data = f"{plan.dataset} (synthetic data)" if plan.synthetic else plan.dataset
        self.title = f"{plan.model} on {data}, {plan.optimizer}, {plan.schedule}"

    def finished(self, final: Metrics, best: Metrics) -> None:
        """Draw."""
        # Imported here: it takes a second, and --help and other commands do without.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        series = _series(self.metrics)
        figure = Figure(figsize=(12, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, panel in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
            _draw(axes, panel, series)
        figure.suptitle(self.title)
        figure.savefig(self.path, dpi=120)


def _draw(axes: Any, panel: str, series: Series) -> None:
    for name, (steps, values) in series.items():
        if _panel_of(name) == panel:
            marker = "." if len(steps) < 40 else None
            axes.plot(steps, values, label=name, marker=marker, linewidth=1.2)
    axes.set(xlabel="step", ylabel="learning rate" if panel == "lr" else panel)
    axes.grid(alpha=0.3)
    # Rates of many layers would hide themselves behind their names.
    if 1 <= len(axes.lines) <= MOST_NAMES and (panel != "lr" or len(axes.lines) > 1):
        axes.legend()


def _panel_of(name: str) -> str:
    """The panel of a metric: `lr/head` is in that of lr, `val/loss` in that of loss."""
    first, _, last = name.partition("/")
    return first if first == "lr" else last


def _series(path: Path) -> Series:
    """Training loss and rate at the pace they are measured, everything else at every evaluation."""
    series: Series = {}
    for line in read_lines(path):
        for name in [x for x in line if x not in ("event", "step", "epoch")]:
            if (line["event"] == "measured") == (name == "train/loss" or _panel_of(name) == "lr"):
                steps, values = series.setdefault(name, ([], []))
                steps.append(line["step"])
                values.append(nan if line[name] is None else line[name])
    return series
