"""The picture of a run's curves."""

from __future__ import annotations

from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from optim_cli.tracking.curves import PANELS, Curves
from optim_cli.tracking.json_lines import MetricsFile
from optim_cli.training.events import Observers, Plan

PLAN = Plan(
    device="cpu",
    model="mlp",
    parameters=10,
    dataset="synthetic",
    synthetic=True,
    optimizer="SGD, lr 0.1",
    schedule="OneCycleLR",
    averaging="none",
    epochs=2,
    steps=4,
    batch_size=8,
)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved; they are saved all the same."""
    saved: list[Figure] = []
    original = Figure.savefig

    def savefig(self: Figure, *arguments: Any, **options: Any) -> None:
        saved.append(self)
        original(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


def drawn(path: Path, losses: list[float], evaluated: dict[str, float]) -> None:
    metrics = path.with_suffix(".jsonl")
    curves = Observers(MetricsFile(metrics), Curves(path, metrics))
    curves.started(PLAN)
    for step, loss in enumerate(losses, 1):
        curves.measured(step, 1, {"train/loss": loss, "train/accuracy": 0.5, "lr": 0.1 / step})
    curves.evaluated(len(losses), 1, {"train/loss": 9.0, "train/accuracy": 0.75} | evaluated)
    assert not path.exists()
    curves.finished({}, {})
    curves.close()


def lines_of(axes: Axes) -> dict[Any, list[tuple[float, float]]]:
    return {x.get_label(): list(map(tuple, np.asarray(x.get_xydata()).tolist())) for x in axes.lines}


def test_curves_hold_what_was_told(tmp_path: Path, figures: list[Figure]) -> None:
    drawn(
        tmp_path / "curves.png",
        [3.0, 2.0, 1.0],
        {"val/loss": 1.5, "val/accuracy": 0.7, "val_averaged/loss": 1.2},
    )
    [figure] = figures
    loss, accuracy, rate = figure.axes
    assert lines_of(loss) == {
        "train/loss": [(1, 3), (2, 2), (3, 1)],  # where it is measured, not the epoch's mean
        "val/loss": [(3, 1.5)],
        "val_averaged/loss": [(3, 1.2)],
    }
    assert lines_of(accuracy) == {"train/accuracy": [(3, 0.75)], "val/accuracy": [(3, 0.7)]}
    assert lines_of(rate) == {"lr": [(1, 0.1), (2, 0.05), (3, pytest.approx(0.1 / 3))]}
    assert [x.get_ylabel() for x in figure.axes] == ["loss", "accuracy", "learning rate"]
    assert {x.get_xlabel() for x in figure.axes} == {"step"}
    assert len(figure.axes) == len(PANELS)
    title = figure.get_suptitle()
    assert title == "mlp on synthetic (synthetic data), SGD, lr 0.1, OneCycleLR"


def test_the_file_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    drawn(path, [3.0, 2.0, 1.0], {"val/loss": 1.5})
    pixels = imread(path)
    assert pixels.shape == (432, 1440, 4)
    assert 0.005 < (pixels[:, :, :3] < 0.9).any(2).mean() < 0.3


def test_a_run_too_short_to_be_measured(tmp_path: Path, figures: list[Figure]) -> None:
    drawn(tmp_path / "curves.png", [], {})
    [figure] = figures
    assert [len(x.lines) for x in figure.axes] == [0, 1, 0]
    assert (tmp_path / "curves.png").exists()


def test_nan_is_a_gap(tmp_path: Path) -> None:
    drawn(tmp_path / "curves.png", [3.0, nan, 1.0], {"val/loss": nan})
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_rates_of_groups_are_in_one_panel(tmp_path: Path, figures: list[Figure]) -> None:
    """By name, as long as they are few enough to be told apart."""
    for count in (2, 12):
        path = tmp_path / f"{count}.png"
        metrics = path.with_suffix(".jsonl")
        curves = Observers(MetricsFile(metrics), Curves(path, metrics))
        curves.started(PLAN)
        rates = {f"lr/layer.{i}": 0.1 * i for i in range(count)}
        for step in (1, 2):
            curves.measured(step, 1, {"train/loss": 1.0, "train/accuracy": 0.5, "lr": 0.1, **rates})
        curves.finished({}, {})
        curves.close()
        loss, accuracy, lr = figures[-1].axes
        assert len(lr.lines) == count + 1
        assert [len(x.lines) for x in (loss, accuracy)] == [1, 0]
        assert (lr.get_legend() is not None) == (count == 2)
