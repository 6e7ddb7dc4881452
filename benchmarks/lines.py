"""Lines of each algorithm's file beside torch.optim's: python benchmarks/lines.py

Every line counts: formula, arguments, paper, blank ones. What algorithms stand on comes last.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from optim_cli import optim

# Folders that some algorithms stand on, and for whom they are.
ROOMS = {
    "execution": "all elementwise ones: base, translator, executions",
    "per_tensor": "Adafactor and Muon",
    "whole_vector": "LBFGS",
}

# Files beside the folders that stand with the first of them.
ELEMENTWISE = ("elementwise.py", "fusing.py", "composition.py", "clipping.py")


def lines_of(path: Path) -> int:
    """Lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def table() -> list[str]:
    """Lines of a Markdown table."""
    rows: list[tuple[str, int, Any]] = []
    for name, cls in sorted(optim.ALGORITHMS.items(), key=lambda entry: entry[0].lower()):
        # Some of torch's classes say that they are of the package, but their functions know the file.
        ours, theirs = (Path(inspect.getfile(x.__init__)) for x in (cls, getattr(torch.optim, name)))
        rows.append((name, lines_of(ours), lines_of(theirs)))
    rows.append(("together", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    rows += [(f"{room}/, for {whom}", lines_below(room), "-") for room, whom in ROOMS.items()]
    rows.append(("for all", sum(map(lines_of, shared_by_ours())), sum(map(lines_of, shared_by_theirs()))))
    return [
        f"| file | ours | torch {torch.__version__.partition('+')[0]} |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {ours} | {theirs} |" for name, ours, theirs in rows),
    ]


def lines_below(room: str) -> int:
    """Lines of the files in a folder of our package."""
    package = Path(inspect.getfile(optim)).parent
    beside = [package / x for x in ELEMENTWISE] if room == "execution" else []
    return sum(map(lines_of, [*beside, *(package / room).rglob("*.py")]))


def shared_by_ours() -> list[Path]:
    """What all algorithms share: base class, options, checkpoints."""
    room = Path(inspect.getfile(optim)).parent
    apart = {*ELEMENTWISE, "__main__.py"}
    return [x for x in room.glob("*.py") if x.name not in apart]


def shared_by_theirs() -> list[Path]:
    """torch's base class, and functions that lie beside its algorithms."""
    room = Path(inspect.getfile(torch.optim)).parent
    return [room / "optimizer.py", room / "_functional.py"]


if __name__ == "__main__":
    print(*table(), sep="\n")
