"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty file beside `path`, which takes its place once the block ends well.

    `path` holds the old content or the new at every instant, also after a crash. A process that is
    killed leaves at most the file beside it, for `remove_partials`.

    Raises:
        OSError: the file cannot be written; what was there before is as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.touch()
        yield partial
        _to_disk(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _to_disk(path.parent)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write values, which hold no NaN and no infinities, in the place of what was there.

    Raises:
        OSError: the file cannot be written; what was there before is as it was.
    """
    with replacing(path) as partial:
        partial.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def remove_partials(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder that nobody else is writing to."""
    for partial in folder.glob(".*.partial"):
        partial.unlink()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
