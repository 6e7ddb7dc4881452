"""The fused execution on the host: its kernels in Triton's interpreter, tensors in the host's memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PATIENCE = 600  # seconds that a loaded machine may take


def test_in_the_interpreter(seed: int, pytestconfig: pytest.Config) -> None:
    """By hand: TRITON_INTERPRET=1 python -m pytest and the folder beside this file."""
    pytest.importorskip("triton")
    options = ["--all-combinations"] * bool(pytestconfig.getoption("--all-combinations"))
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    tested = subprocess.run(
        [*command, f"--seed={seed}", *options, str(HERE / "interpreted")],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert tested.returncode == 0, tested.stdout[-20_000:] + tested.stderr
    assert " passed" in tested.stdout
