"""Checkpoints: written whole or not at all, read without running code from the file."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import nn

from optim_cli.whole_file import remove_partials, replacing

KEPT = 2


class Damaged(Exception):
    """A checkpoint that cannot be used; the message names the file and says why, in one line."""


class Checkpoints:
    """The newest checkpoints of a run and the best one, in a folder that no other process writes to.

    Args:
        folder: where; created if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best = folder / "best.pt"
        folder.mkdir(parents=True, exist_ok=True)
        remove_partials(folder)

    def save(self, state: dict[str, Any], step: int, best: bool) -> Path:
        """Write `step-<step>.pt`, then `best.pt` if it is, then drop those that are too old.

        Raises:
            OSError: it cannot be written; what was there before is as it was.
        """
        path = self.folder / f"step-{step:08d}.pt"
        write_whole(state, path)
        if best:
            write_whole(state, self.best)
        # Those of later steps are damaged: a run went on from before them.
        older = [x for x in self._newest_first() if x < path]
        for other in self._newest_first():
            if other != path and other not in older[: KEPT - 1]:
                other.unlink()
        return path

    def save_weights(self, name: str, model: nn.Module) -> None:
        """Write `<name>.pt`: the weights of a model alone, which `model.load_state_dict` takes anywhere.

        Raises:
            OSError: it cannot be written; what was there before is as it was.
        """
        write_whole({key: x.cpu() for key, x in model.state_dict().items()}, self.folder / f"{name}.pt")

    def newest(self, keys: Collection[str], warn: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest checkpoint that can be used; None where there is none yet.

        Args:
            keys: what it must hold.
            warn: is told of every newer one that cannot be used, in a line.

        Raises:
            Damaged: there are some, and none can be used.
        """
        damaged = []
        for path in self._newest_first():
            try:
                return read_checkpoint(path, keys)
            except Damaged as error:
                warn(str(error))
                damaged.append(path.name)
        if damaged:
            raise Damaged(f"{self.folder} holds no checkpoint that can be used: {', '.join(damaged)}")
        return None

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt"), reverse=True)


def write_whole(state: dict[str, Any], path: Path) -> None:
    """Save so that `path` holds the old content or the new at every instant, also after a crash.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        with replacing(path) as partial:
            # By name: in a write to a Python file, an interrupt can end torch's writer in abort().
            torch.save(state, str(partial))
    except RuntimeError as error:
        # Closing its archive after a write that broke off, torch hides why: a full disk, an interrupt.
        cause = error.__context__ or error
        if isinstance(cause, RuntimeError):
            raise OSError(f"{path} could not be written; is the disk full? ({cause})") from error
        raise cause from None


def read_checkpoint(path: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """Load a checkpoint onto the CPU; nothing in it is executed.

    Args:
        path: the file.
        keys: what it must hold.

    Raises:
        Damaged: it cannot be read, is not as it was written, or lacks keys.
    """
    try:
        with ZipFile(path) as archive:
            # torch neither compares check sums nor fills a tensor whose entry is marked as a folder.
            changed = archive.testzip() or any(entry.external_attr for entry in archive.infolist())
        if changed:
            raise ValueError("its content is not what was written")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        missing = sorted(set(keys) - state.keys())
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except Exception as error:  # damaged bytes make the two readers raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Damaged(f"{path} cannot be used: {reason}") from error
    return state
