"""The YAML files that a config is composed of: found, read, and their lines remembered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from optim_cli.config.mistakes import Mistake
from optim_cli.config.search_path import RecipeSource


class Files(ConfigRepository):
    """Hydra's repository of configs, which goes on where a file cannot be read: it counts as empty.

    Attributes:
        mistakes: files that could not be read.
        empty: paths in the repository (group/choice) that stand for nothing.
    """

    def __init__(self, search_path: ConfigSearchPath) -> None:
        super().__init__(search_path)
        self.mistakes: list[Mistake] = []
        self.empty: set[str] = set()
        self._loaded: dict[str, ConfigResult | None] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        """The config at a path in the repository, None where there is none."""
        if config_path not in self._loaded:
            self._loaded[config_path] = self._load(config_path)
        return self._loaded[config_path]

    def _load(self, config_path: str) -> ConfigResult | None:
        if config_path not in self.empty:
            try:
                return super().load_config(config_path)
            except (yaml.YAMLError, OSError, ValueError, HydraException, OmegaConfBaseException) as error:
                self.empty.add(config_path)
                file = self.file_of(config_path)
                self.mistakes.append(Mistake(*why_unreadable(error, shown(file) if file else config_path)))
        return ConfigResult(
            provider="main", path="", config=OmegaConf.create(), header={"package": None}, defaults_list=[]
        )

    @property
    def read(self) -> list[Path]:
        """The files that were read, in the order in which they were."""
        return [x for x in map(self.file_of, self._loaded) if x is not None]

    def replace_with_nothing(self, config_path: str) -> None:
        """Let a path that no source has stand for an empty config."""
        self.empty.add(config_path)
        self._loaded.pop(config_path, None)

    def config_exists(self, config_path: str) -> bool:
        """Whether a path is a config."""
        return config_path in self.empty or super().config_exists(config_path)

    def file_of(self, config_path: str) -> Path | None:
        """The file behind a path in the repository; None for what Hydra brings along."""
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() not in ("file", RecipeSource.scheme()):
            return None
        inside = config_path
        if source.scheme() == RecipeSource.scheme():
            inside = config_path.partition("/")[2]
        return Path(os.path.normpath(Path(source.path) / f"{inside.removesuffix('.yaml')}.yaml"))

    def choices(self, group: str) -> list[str]:
        """All choices of a group, those in nested folders as folder/choice."""
        below = [
            f"{name}/{choice}"
            for name in self.get_group_options(group, ObjectType.GROUP)
            for choice in self.choices(f"{group}/{name}")
        ]
        return [*self.get_group_options(group, ObjectType.CONFIG), *below]


def why_unreadable(error: Exception, name: str) -> tuple[str, str]:
    """Where and why a YAML file cannot be read."""
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.MarkedYAMLError) and mark is not None:
        return f"{name}:{mark.line + 1}", f"no YAML: {error.problem or error.context}"
    return name, f"cannot be read: {' '.join(str(error).split())}"


def shown(file: Path) -> str:
    """A file as people find it: from the current folder where it is below it."""
    inside = os.path.relpath(file)
    return str(file) if inside.startswith("..") else inside


def choices_in(file: Path) -> list[tuple[str, str, int]]:
    """(group, choice, line) of the entries in a file's defaults list."""
    root = _tree(file)
    entries = [value for key, value in root.value if key.value == "defaults"] if root is not None else []
    return [
        (key.value.split(" ")[-1].partition("@")[0].lstrip("/"), str(value.value), key.start_mark.line + 1)
        for sequence in entries
        if isinstance(sequence, yaml.SequenceNode)
        for entry in sequence.value
        if isinstance(entry, yaml.MappingNode)
        for key, value in entry.value
    ]


def lines_of(file: Path) -> dict[tuple[str, ...], int]:
    """Line (from 1) of every key of a YAML file, by the path of keys to it.

    A file that cannot be read has none.
    """
    return dict(_lines(_tree(file), ()))


def _tree(file: Path) -> yaml.MappingNode | None:
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, OSError, ValueError):
        return None
    return root if isinstance(root, yaml.MappingNode) else None


def _lines(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, str(index)), value.start_mark.line + 1
            yield from _lines(value, (*path, str(index)))
