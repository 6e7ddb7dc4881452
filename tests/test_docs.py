"""Tables in the docs are what their commands print."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.experiments import ENVIRONMENT, ROOT

COMMANDS = (["-m", "optim_cli.optim"], ["benchmarks/lines.py"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_table_in_the_docs_is_what_its_command_prints(command: list[str]) -> None:
    printed = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True, check=True
    ).stdout
    assert len(printed.splitlines()) > 15
    assert printed in (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
