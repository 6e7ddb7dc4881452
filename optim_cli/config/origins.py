"""Where each value of a config comes from: the command line, or a file and a line in it."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cached_property
from pathlib import Path

from optim_cli.config.files import lines_of, shown

Layer = str | tuple[Path, str, tuple[str, ...]]


class Origins:
    """The layers of a config, in the order in which they were laid over each other.

    Files are read only when somebody asks.
    """

    def __init__(self) -> None:
        self._layers: list[tuple[str, Layer]] = []

    def add_file(self, file: Path, package: str, without: Collection[str] = ()) -> None:
        """A YAML file whose content lies at `package` (dotted, empty for the whole config).

        Args:
            without: top-level keys of the file that did not enter the config.
        """
        self._layers.append(("", (file, package, tuple(without))))

    def add_override(self, key: str, origin: str) -> None:
        """A value that is laid over the files, and where it is from."""
        self._layers.append((key, origin))

    def of(self, key: str) -> str:
        """Where a key comes from; of a key that nobody wrote, where the mapping around it comes from.

        A mapping is what the command line last made of it.
        """
        parts = path_of(key)
        if not parts:
            return ""
        inside = [x for path, x in self._places.items() if path[: len(parts)] == parts]
        given = [x for x in inside if x.startswith("command line")]
        if given:
            return given[-1]
        for length in range(len(parts), 0, -1):
            if parts[:length] in self._places:
                return self._places[parts[:length]]
        return inside[0] if inside else ""

    def around(self, group: str) -> str:
        """Where a config group comes from: its file, and what the command line changed in it."""
        changed = [
            x for path, x in self._places.items() if path[:1] == (group,) and x.startswith("command line")
        ]
        places = [self._places.get((group,), ""), *changed]
        return "; ".join(dict.fromkeys(x for x in places if x))

    @cached_property
    def _places(self) -> dict[tuple[str, ...], str]:
        places: dict[tuple[str, ...], str] = {}
        for key, layer in self._layers:
            if isinstance(layer, str):
                parts = path_of(key)
                # What was below is replaced, or at least no longer what the file says.
                for old in [x for x in places if x[: len(parts)] == parts]:
                    del places[old]
                places[parts] = layer
                continue
            file, package, without = layer
            prefix = path_of(package)
            if prefix:
                places[prefix] = shown(file)
            for path, line in lines_of(file).items():
                if path[0] not in ("defaults", *without):
                    # A key may be dotted itself, as those that a sweep varies.
                    places[prefix + path_of(".".join(path))] = f"{shown(file)}:{line}"
        return places


def place_in(file: Path, key: str) -> str:
    """A file, with the line of a key where the file has it."""
    line = lines_of(file).get(path_of(key))
    return shown(file) if line is None else f"{shown(file)}:{line}"


def path_of(key: str) -> tuple[str, ...]:
    """The names in a dotted key, [i] among them."""
    return tuple(x for x in re.split(r"[.\[\]]+", key) if x and x != "_global_")
