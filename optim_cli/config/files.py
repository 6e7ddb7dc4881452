"""The YAML files that a config is composed of: found, read, and their lines remembered."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from errno import EINVAL
from math import inf
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from optim_cli.config.mistakes import Mistake, first_lines
from optim_cli.config.search_path import RecipeSource
from optim_cli.paths import folder

# What people write is far below; what is beyond is made to hang the program.
DEEPEST, LONGEST, MOST_NODES = 32, 200_000, 10_000
MOST_LOOKS = 400  # for files, to put one config together; the default config takes 60
# A group in the folder of another one, whose choices are not the other's; it takes several at once, or none.
NESTED = "optimizer/param_groups"


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
        self._looks_left = inf

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """RecursionError where defaults lists that name each other have no end, or a far one."""
        self._looks_left = MOST_LOOKS
        try:
            yield
        finally:
            self._looks_left = inf

    def load_config(self, config_path: str) -> ConfigResult | None:
        """The config at a path in the repository, None where there is none."""
        self._looks_left -= 1
        if self._looks_left < 0:
            raise RecursionError
        if config_path not in self._loaded:
            self._loaded[config_path] = self._load(config_path)
        return self._loaded[config_path]

    def _load(self, config_path: str) -> ConfigResult | None:
        if config_path not in self.empty:
            file = self.file_of(config_path)
            try:
                if file is not None:
                    self._refuse_strange(config_path, file)
                return super().load_config(config_path)
            except (yaml.YAMLError, OSError, ValueError, HydraException, OmegaConfBaseException) as error:
                self.empty.add(config_path)
                self.mistakes.append(Mistake(*why_unreadable(error, shown(file) if file else config_path)))
        return ConfigResult(
            provider="main", path="", config=OmegaConf.create(), header={"package": None}, defaults_list=[]
        )

    def _refuse_strange(self, config_path: str, file: Path) -> None:
        """ValueError for a file that is not where configs are, or that unfolds into too much."""
        if not stays_inside(config_path):
            raise ValueError(f"{config_path!r} leaves the folder of its group")
        if not file.is_relative_to(folder("configs").resolve()):
            read_tree(file)

    def _find_object_source(self, config_path: str, object_type: ObjectType | None) -> ConfigSource | None:
        try:
            return super()._find_object_source(config_path, object_type)
        except (OSError, ValueError):  # no file can have such a name
            return None

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
        # Folders that are links to each other have no end.
        if not stays_inside(group):
            return []
        folders = self.get_group_options(group, ObjectType.GROUP) if group.count("/") < 4 else []
        folders = [name for name in folders if f"{group}/{name}" != NESTED]
        below = [f"{name}/{choice}" for name in folders for choice in self.choices(f"{group}/{name}")]
        return list(dict.fromkeys([*self.get_group_options(group, ObjectType.CONFIG), *below]))


def group_of(config_path: str) -> str:
    """The group that a path in the repository (group/choice) is of."""
    return NESTED if config_path.startswith(f"{NESTED}/") else config_path.partition("/")[0]


def stays_inside(config_path: str) -> bool:
    """Whether a path in the repository is written in the only way that leads where it says.

    With `..` and the like, `hydra/launcher/x` could be written so that it does not look like it.
    """
    return not {"", ".", ".."} & set(config_path.split("/"))


def why_unreadable(error: Exception, name: str) -> tuple[str, str]:
    """Where and why a YAML file cannot be read."""
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.MarkedYAMLError) and mark is not None:
        return f"{name}:{mark.line + 1}", f"no YAML: {error.problem or error.context}"
    return name, f"cannot be read: {first_lines(error)}"


def shown(file: Path) -> str:
    """A file as people find it: from the current folder where it is below it."""
    inside = os.path.relpath(file)
    return str(file) if inside.startswith("..") else inside


def depth(value: Any) -> int:
    """How many lists and mappings lie within each other."""
    if isinstance(value, Mapping):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def read_text(file: Path) -> str:
    """The content of a regular file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too long for a config, or no text.
    """
    if not file.is_file():
        file.stat()
        raise OSError(EINVAL, "no regular file")
    if file.stat().st_size > LONGEST:
        raise ValueError(f"longer than {LONGEST} bytes")
    return file.read_text(encoding="utf-8")


def read_tree(file: Path) -> yaml.Node | None:
    """The nodes of a YAML file, None where it is empty.

    Raises:
        OSError: it cannot be read.
        ValueError, YAMLError: it is no YAML, or aliases make too much of it.
    """
    try:
        root: yaml.Node | None = yaml.compose(read_text(file), Loader=yaml.SafeLoader)
        nodes, levels = _size(root, {})
    except RecursionError:
        nodes, levels = inf, inf
    if levels > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST}")
    if nodes > MOST_NODES:
        raise ValueError(f"its aliases make more than {MOST_NODES} values of it")
    return root


def _size(node: Any, known: dict[int, tuple[float, float]]) -> tuple[float, float]:
    """How many nodes and levels there are when every alias is a copy; infinite if a node holds itself."""
    if id(node) not in known:
        known[id(node)] = inf, inf
        below = node.value if isinstance(node, yaml.CollectionNode) else []
        below = [x for pair in below for x in pair] if isinstance(node, yaml.MappingNode) else below
        sizes = [_size(x, known) for x in below]
        known[id(node)] = 1 + sum(x for x, _ in sizes), 1 + max((x for _, x in sizes), default=0)
    return known[id(node)]


def choices_in(file: Path) -> list[tuple[str, str, int]]:
    """(group, choice, line) of the entries in a file's defaults list."""
    root = _tree(file)
    entries = [value for key, value in root.value if key.value == "defaults"] if root is not None else []
    return [
        (key.value.split(" ")[-1].partition("@")[0].lstrip("/"), str(choice.value), key.start_mark.line + 1)
        for sequence in entries
        if isinstance(sequence, yaml.SequenceNode)
        for entry in sequence.value
        if isinstance(entry, yaml.MappingNode)
        for key, value in entry.value
        for choice in (value.value if isinstance(value, yaml.SequenceNode) else [value])
    ]


def lines_of(file: Path) -> dict[tuple[str, ...], int]:
    """Line (from 1) of every key of a YAML file, by the path of keys to it.

    A file that cannot be read has none.
    """
    return dict(_lines(_tree(file), ()))


def _tree(file: Path) -> yaml.MappingNode | None:
    try:
        root = read_tree(file)
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
