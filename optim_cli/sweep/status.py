"""How a job ended, told through its folder: jobs may run in other processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from optim_cli.whole_file import write_json

Status = Literal["done", "failed", "refused", "stopped", "missing", "not begun"]
FILE = "status.json"


def write_status(directory: Path, overrides: Sequence[str], status: Status, error: str | None = None) -> None:
    """Write `status.json` into a job's folder, whole or not at all.

    Args:
        directory: the job's folder; created if missing.
        overrides: what makes the job, such as ["optimizer=adamw", "seed=0"].
        status: done; failed; refused, because its config is wrong; stopped by a signal; or missing: no end
            is known. Written when a job begins, that is what a job leaves that is killed.
        error: the cause where it is not done; its lines become one.

    Raises:
        OSError: it cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    line = None if error is None else "; ".join(error.splitlines())
    write_json(directory / FILE, {"status": status, "error": line, "overrides": list(overrides)})
