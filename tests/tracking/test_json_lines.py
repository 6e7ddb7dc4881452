"""The metrics file: a line an event, whole at every moment, JSON for every reader."""

from __future__ import annotations

import json
from math import inf, nan
from pathlib import Path

import pytest

from optim_cli.tracking.json_lines import MetricsFile, cut, plain, read_lines


def test_lines_are_there_as_soon_as_they_are_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.measured(7, 1, {"train/loss": 0.25, "lr": 1e-30})
    assert json.loads(path.read_text()) == {
        "event": "measured",
        "step": 7,
        "epoch": 1,
        "train/loss": 0.25,
        "lr": 1e-30,
    }
    metrics.evaluated(8, 2, {"val/accuracy": 0.1 + 0.2})
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert json.loads(lines[1])["event"] == "evaluated"
    assert json.loads(lines[1])["val/accuracy"] == 0.1 + 0.2, "digits are lost"
    metrics.close()
    metrics.close()


def test_what_json_lacks_is_null(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.measured(1, 1, {"a": nan, "b": inf, "c": -inf, "d": 0.0})
    metrics.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text) == {
        "event": "measured",
        "step": 1,
        "epoch": 1,
        "a": None,
        "b": None,
        "c": None,
        "d": 0.0,
    }


def test_another_run_s_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("theirs\n")
    with pytest.raises(FileExistsError):
        MetricsFile(path)
    assert path.read_text() == "theirs\n"


def test_cutting(tmp_path: Path) -> None:
    """What came after the checkpoint goes, and lines that are broken; the rest stays letter by letter."""
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.measured(4, 1, {"train/loss": 0.1 + 0.2, "lr": 1e-30})
    metrics.measured(8, 1, {"train/loss": nan, "lr": 1})
    before = path.read_text()
    metrics.evaluated(8, 1, {"val/accuracy": 1.0})
    evaluated = path.read_text()
    metrics.measured(9, 2, {"train/loss": 2.0, "lr": 1})
    metrics.close()
    with path.open("a") as file:
        file.write('{"event": "measured", "step": 10, "epo')
    assert [x["step"] for x in read_lines(path)] == [4, 8, 8, 9]
    for step, last, expected in ((8, 8, evaluated), (8, 0, before), (0, 0, "")):
        cut(path, step, last)
        assert path.read_text() == expected
    assert [x.name for x in tmp_path.iterdir()] == ["metrics.jsonl"]
    resumed = MetricsFile(path, resumed=True)
    resumed.measured(1, 1, {"lr": 1})
    resumed.close()
    assert [x["step"] for x in read_lines(path)] == [1]


def test_a_last_line_without_its_end(tmp_path: Path) -> None:
    """It is whole, but the next would be written on it."""
    path = tmp_path / "metrics.jsonl"
    line = '{"event": "measured", "step": 4, "epoch": 1}'
    path.write_text(line)
    cut(path, 4, 0)
    assert path.read_text() == line + "\n"


def test_plain() -> None:
    values = {"a": nan, "b": {"c": inf, "d": 1.5}, "e": 3, "f": None, "g": "nan", "h": True}
    assert plain(values) == {"a": None, "b": {"c": None, "d": 1.5}, "e": 3, "f": None, "g": "nan", "h": True}
    assert json.loads(json.dumps(plain(values), allow_nan=False)) == plain(values)
