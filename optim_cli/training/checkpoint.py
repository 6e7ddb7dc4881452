"""Checkpoints: written whole or not at all, read without running code from the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

KEPT = 2


class CheckpointWriter:
    """Keeps the newest checkpoints of a run and the best one in a folder.

    Args:
        folder: where; created if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best = folder / "best.pt"
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: dict[str, Any], step: int, best: bool) -> Path:
        """Write `step-<step>.pt`, also as `best.pt` if it is, then drop those that are too old.

        Raises:
            OSError: it cannot be written; what was there before is as it was.
        """
        path = self.folder / f"step-{step:08d}.pt"
        write_whole(state, path)
        if best:
            write_whole(state, self.best)
        for old in sorted(self.folder.glob("step-*.pt"))[:-KEPT]:
            old.unlink()
        return path


def write_whole(state: dict[str, Any], path: Path) -> None:
    """Save so that `path` holds the old content or the new at every instant, also after a crash.

    Raises:
        OSError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            # By name: in a write to a Python file, an interrupt can end torch's writer in abort().
            torch.save(state, str(partial))
            os.fsync(file.fileno())
        partial.replace(path)
    except RuntimeError as error:
        # Closing its archive after a write that broke off, torch hides why: a full disk, an interrupt.
        cause = error.__context__ or error
        if isinstance(cause, RuntimeError):
            raise OSError(f"{path} could not be written; is the disk full? ({cause})") from error
        raise cause from None
    finally:
        partial.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Load a checkpoint; nothing in it is executed."""
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state
