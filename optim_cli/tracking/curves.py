"""Curves of loss, accuracy and learning rate as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optim_cli.training.events import Metrics, Observer, Plan

PANELS = ("loss", "accuracy", "lr")


class Curves(Observer):
    """Draws `curves.png` when the run is complete.

    Args:
        path: the picture.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.series: dict[str, tuple[list[int], list[float]]] = {}

    def started(self, plan: Plan) -> None:
        """Note what the title says."""
        data = f"{plan.dataset} (synthetic data)" if plan.synthetic else plan.dataset
        self.title = f"{plan.model} on {data}, {plan.optimizer}, {plan.schedule}"

    def measured(self, step: int, epoch: int, metrics: Metrics) -> None:
        """Training loss and rate, at the pace they are measured."""
        self._add(step, {name: metrics[name] for name in ("train/loss", "lr")})

    def evaluated(self, step: int, epoch: int, metrics: Metrics) -> None:
        """Everything else, at every evaluation."""
        self._add(step, {name: value for name, value in metrics.items() if name != "train/loss"})

    def finished(self, final: Metrics, best: Metrics) -> None:
        """Draw."""
        # Imported here: it takes a second, and --help and other commands do without.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, panel in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
            self._draw(axes, panel)
        figure.suptitle(self.title)
        figure.savefig(self.path, dpi=120)

    def _draw(self, axes: Any, panel: str) -> None:
        for name, (steps, values) in self.series.items():
            if name.rpartition("/")[2] == panel:
                marker = "." if len(steps) < 40 else None
                axes.plot(steps, values, label=name, marker=marker, linewidth=1.2)
        axes.set(xlabel="step", ylabel="learning rate" if panel == "lr" else panel)
        axes.grid(alpha=0.3)
        if panel != "lr" and axes.lines:
            axes.legend()

    def _add(self, step: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            steps, values = self.series.setdefault(name, ([], []))
            steps.append(step)
            values.append(value)
