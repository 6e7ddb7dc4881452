"""The folder of a run: no other run's, and in the hands of one process at a time."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Mapping
from io import FileIO
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from optim_cli.errors import ConfigError
from optim_cli.tracking.json_lines import plain
from optim_cli.whole_file import remove_partials, replacing, write_json

log = logging.getLogger(__name__)


class RunFolder:
    """A folder that this process holds, as a context; made by `claim` or `reopen`.

    Attributes:
        path: the folder.
        config: the file with the run's config, as plain values; with it a folder is a run's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self._held: list[FileIO] = []

    @classmethod
    def claim(cls, path: Path, values: Mapping[str, Any]) -> Self:
        """Make a folder a new run's by writing its config, the first file of all.

        Raises:
            ConfigError: it cannot be made, or another run was here.
            OSError: it cannot be written to.
        """
        folder = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"hydra.run.dir: no folder can be made: {error}") from None
        try:
            file = folder.config.open("x", encoding="utf-8")
        except FileExistsError:
            raise ConfigError(
                f"hydra.run.dir: {str(path)!r} holds another run's results; name a folder without them"
            ) from None
        try:
            with file:
                file.write(_yaml(values))
        except BaseException:
            folder.config.unlink()
            raise
        folder._hold(folder.config)
        return folder

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """Take an earlier run's folder in hand again.

        Raises:
            ConfigError: it is no run's folder, or another process is at work in it.
            OSError: it cannot be written to.
        """
        folder = cls(path)
        if not folder.config.is_file():
            raise ConfigError(f"resume: {str(path)!r} is no run's folder: it holds no config.yaml")
        folder._hold(folder.config)
        remove_partials(path)
        return folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._held:
            file.close()

    def read_config(self) -> dict[str, Any]:
        """The run's config."""
        values: dict[str, Any] = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        return values

    def replace_config(self, values: Mapping[str, Any]) -> None:
        """Write another config in its place.

        Raises:
            OSError: it cannot be written; it is as it was.
        """
        with replacing(self.config) as partial:
            partial.write_text(_yaml(values), encoding="utf-8")
            self._hold(partial)  # the new file is held before anyone can find it

    def read_json(self, name: str) -> dict[str, Any] | None:
        """What `write_json` wrote, None if it never did."""
        path = self.path / name
        if not path.exists():
            return None
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return values

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Write a JSON file, in the place of the one before if there is one.

        Raises:
            OSError: it cannot be written; what was there before is as it was.
        """
        write_json(self.path / name, plain(values))

    def add_environment(self, values: dict[str, Any]) -> None:
        """Write `environment.json`, for a run that was resumed `environment-2.json` and so on.

        Raises:
            OSError: it cannot be written.
        """
        names = ("environment.json" if i == 1 else f"environment-{i}.json" for i in count(1))
        self.write_json(next(x for x in names if not (self.path / x).exists()), values)

    def _hold(self, path: Path) -> None:
        file = FileIO(path, "r+")
        # A data loader's workers would hold the folder for seconds after this process was killed.
        os.register_at_fork(after_in_child=file.close)
        self._held.append(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ConfigError(f"{str(self.path)!r} is in use: another process runs in it") from None
        except OSError as error:
            # Some network file systems have no locks.
            log.warning("%s cannot be locked: %s", path, error.strerror)


def _yaml(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
