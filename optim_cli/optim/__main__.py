"""Print the algorithms with the executions that each has: `python -m optim_cli.optim`."""

from __future__ import annotations

import inspect

from optim_cli.optim import ALGORITHMS
from optim_cli.optim.optimizer import Implementation, Optimizer

EXECUTIONS: tuple[Implementation, ...] = ("for_loop", "foreach", "fused")
LEGEND = "`auto` is fused on CUDA where Triton is there, and foreach elsewhere."


def table() -> list[str]:
    """Lines of a Markdown table, made from the classes, and its legend."""
    heading = ("algorithm", "auto", *EXECUTIONS, "sparse gradients", "capturable", "differentiable")
    rows = [(name, *_abilities(cls)) for name, cls in sorted(ALGORITHMS.items(), key=_alphabetical)]
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    lines = [heading, tuple("-" * n for n in widths), *rows]
    text = ["| " + " | ".join(x.ljust(n) for x, n in zip(row, widths, strict=True)) + " |" for row in lines]
    return [*text, "", LEGEND]


def _alphabetical(entry: tuple[str, type[Optimizer]]) -> str:
    return entry[0].lower()


def _abilities(cls: type[Optimizer]) -> list[str]:
    fastest = "foreach" if "fused" in cls.lacks else "fused, foreach"
    asked = [cls.only_execution or fastest, *(_execution(cls, x) for x in EXECUTIONS)]
    options = inspect.signature(cls).parameters
    modes = ("yes" if x in options else "no" for x in ("capturable", "differentiable"))
    return [*asked, cls.sparse_gradients, *modes]


def _execution(cls: type[Optimizer], asked: Implementation) -> str:
    return "no" if asked in cls.lacks else "yes"


if __name__ == "__main__":
    print(*table(), sep="\n")
