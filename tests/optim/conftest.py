"""Random inputs, and the matrix of what was compared with torch.optim, printed at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

MATRIX: pytest.StashKey[list[tuple[str, ...]]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MATRIX] = []


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors are small here: a second thread only costs time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def matrix(request: pytest.FixtureRequest) -> list[tuple[str, ...]]:
    """Rows to print when the session ends."""
    return request.config.stash[MATRIX]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker process hands its rows to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["matrix"] = session.config.stash[MATRIX]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the rows of a worker process."""
    node.config.stash[MATRIX] += map(tuple, getattr(node, "workeroutput", {}).get("matrix", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(MATRIX, [])
    if not rows:
        return
    heading = ("algorithm", "dtype", "execution", "combinations", "compared", "torch refuses", "both refuse")
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    terminalreporter.section("compared with torch.optim, step by step")
    for row in (heading, *rows):
        terminalreporter.write_line("  ".join(x.ljust(n) for x, n in zip(row, widths, strict=True)))
