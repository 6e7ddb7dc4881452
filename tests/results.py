"""Reading what a run left in its folder, and comparing it bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def strict_json(text: str) -> Any:
    """JSON as other languages read it: no NaN, no Infinity."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def json_of(path: Path) -> Any:
    return strict_json(path.read_text(encoding="utf-8"))


def lines_of(directory: Path) -> list[dict[str, Any]]:
    text = (directory / "metrics.jsonl").read_text(encoding="utf-8")
    return [strict_json(line) for line in text.splitlines()]


def checkpoint_of(directory: Path, name: str = "best.pt") -> dict[str, Any]:
    """A checkpoint without the time that the run took."""
    state: dict[str, Any] = torch.load(directory / "checkpoints" / name, weights_only=True)
    assert state.pop("seconds") > 0
    return state


def newest_of(directory: Path) -> str:
    """Name of the newest checkpoint."""
    return max((directory / "checkpoints").glob("step-*.pt")).name


def same_bits(left: Any, right: Any) -> bool:
    """Equality of nested states, of tensors bit for bit."""
    if isinstance(left, Tensor):
        return bool(left.dtype == right.dtype and left.numpy().tobytes() == right.numpy().tobytes())
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same_bits(left[x], right[x]) for x in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same_bits, left, right))
    return bool(left == right or (left != left and right != right))


def unlike(left: Path, right: Path) -> list[str]:
    """In what two runs that should be one and the same differ; empty where nothing does."""
    summaries = [json_of(x / "summary.json") for x in (left, right)]
    for summary in summaries:
        assert summary.pop("seconds") > 0
    metrics = [(x / "metrics.jsonl").read_text(encoding="utf-8") for x in (left, right)]
    found = ["summary.json"] * (summaries[0] != summaries[1])
    found += ["metrics.jsonl"] * (metrics[0] != metrics[1])
    for name in (newest_of(left), "best.pt"):
        states = [checkpoint_of(x, name) for x in (left, right)]
        found += [f"{name}: {key}" for key in states[0] if not same_bits(states[0][key], states[1].get(key))]
    averages = [{y.name: y for y in (x / "checkpoints").glob("averaged*.pt")} for x in (left, right)]
    found += [f"{name}: in one" for name in averages[0].keys() ^ averages[1].keys()]
    for name in averages[0].keys() & averages[1].keys():
        weights = [torch.load(x[name], weights_only=True) for x in averages]
        found += [name] * (not same_bits(*weights))
    return found
