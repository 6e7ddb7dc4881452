"""The docs say what there is: tables are what their commands print, and tests that they name are there."""

from __future__ import annotations

import re
import runpy

import pytest

from tests.experiments import ROOT

PROGRAMS = ("optim_cli/optim/__main__.py", "benchmarks/lines.py")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_table_in_the_docs_is_what_its_command_prints(
    program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runpy.run_path(str(ROOT / program), run_name="__main__")
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) > 15
    documented = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    assert printed in documented, f"docs/algorithms.md is behind {program}"


def test_every_deviation_names_tests_that_are_there() -> None:
    text = (ROOT / "docs" / "deviations.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 50
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row.rpartition(" | ")[2])
        assert named, row
        for path, name in named:
            assert f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"
