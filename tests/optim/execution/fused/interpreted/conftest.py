"""Kernels in Triton's interpreter, in a process of their own: see `../test_interpreted.py`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

# Triton reads the variable when kernels are defined, and no kernel of that process runs on a GPU then.
collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(autouse=True)
def _as_silent_as_a_gpu() -> Iterator[None]:
    """The interpreter computes in numpy, which tells of infinities and NaN."""
    with np.errstate(all="ignore"):
        yield
