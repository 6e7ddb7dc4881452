"""Tables in the docs are what their commands print."""

from __future__ import annotations

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
