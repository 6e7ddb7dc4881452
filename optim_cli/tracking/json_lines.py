"""Metrics as JSON: a line an event, and a summary at the end."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any

from optim_cli.training.events import Metrics, Observer
from optim_cli.whole_file import replacing


class MetricsFile(Observer):
    """Writes every measurement and evaluation as a line of `metrics.jsonl`, whole lines at a time.

    Args:
        path: the file.
        resumed: whether it may exist, to be written on.

    Raises:
        OSError: the file exists or cannot be written.
    """

    def __init__(self, path: Path, resumed: bool = False) -> None:
        self._file = path.open("a" if resumed else "x", encoding="utf-8", buffering=1)

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


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; one that is broken, as the last may be after a kill, is left out."""
    lines = []
    for line in path.read_bytes().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def cut(path: Path, step: int, evaluated: int) -> None:
    """Take away what a run wrote after the checkpoint that it now goes on from, and broken lines.

    Args:
        path: the file.
        step: of the checkpoint.
        evaluated: step of the last evaluation that the checkpoint knows of.

    Raises:
        OSError: the file cannot be written; it is as it was.
    """
    last = {"measured": step, "evaluated": evaluated}
    kept = [line for line in read_lines(path) if line["step"] <= last[line["event"]]]
    with replacing(path) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


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
