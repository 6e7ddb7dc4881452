"""Metrics as JSON: a line an event, and a summary at the end."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any

from optim_cli.training.events import Metrics, Observer


class MetricsFile(Observer):
    """Writes every measurement and evaluation as a line of `metrics.jsonl`, whole lines at a time.

    Args:
        path: the file; it must not exist yet.

    Raises:
        OSError: the file exists or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("x", encoding="utf-8", buffering=1)

    def measured(self, step: int, epoch: int, metrics: Metrics) -> None:
        """A line of training metrics."""
        self._write("measured", step, epoch, metrics)

    def evaluated(self, step: int, epoch: int, metrics: Metrics) -> None:
        """A line of an evaluation."""
        self._write("evaluated", step, epoch, metrics)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: str, step: int, epoch: int, metrics: Metrics) -> None:
        line = {"event": event, "step": step, "epoch": epoch, **metrics}
        self._file.write(json.dumps(plain(line), allow_nan=False) + "\n")


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values as JSON has them: NaN and infinities, which it lacks, become null."""
    return {
        key: plain(value)
        if isinstance(value, dict)
        else None
        if isinstance(value, float) and not isfinite(value)
        else value
        for key, value in values.items()
    }
