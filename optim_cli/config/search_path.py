"""Makes the folder `recipes/` the config group `recipe`, wherever the command is started."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import SearchPathException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from optim_cli.paths import folder

GROUP = "recipe"
# Of Hydra's rules: what is checked must be what is run.
VERSION_BASE = "1.3"


class RecipeSource(ConfigSource):
    """Shows Hydra `<recipes>/x.yaml` as `recipe/x`, a change to the whole config (package _global_)."""

    @staticmethod
    def scheme() -> str:
        """Prefix of its entries in the search path."""
        return "recipes"

    def available(self) -> bool:
        """Whether the folder is there."""
        return Path(self.path).is_dir()

    def load_config(self, config_path: str) -> ConfigResult:
        """The recipe, with the package that every recipe has."""
        file = self._file(config_path)
        if file is None or not file.is_file():
            raise ConfigLoadError(f"Config not found: {file}")
        return ConfigResult(
            config=OmegaConf.load(file),
            path=self.full_path(),
            provider=self.provider,
            header={"package": "_global_"},
        )

    def is_group(self, config_path: str) -> bool:
        """Whether there are recipes below a path."""
        place = self._place(config_path)
        return config_path == "" or (place is not None and place.is_dir())

    def is_config(self, config_path: str) -> bool:
        """Whether a path is a recipe."""
        file = self._file(config_path)
        return file is not None and file.is_file()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Recipes below a path, those in folders as folder/recipe: that is what recipe=... takes."""
        place = self._place(config_path)
        if place is None:
            return [GROUP] if config_path == "" and results_filter != ObjectType.CONFIG else []
        if results_filter == ObjectType.GROUP:
            return []
        return sorted(x.relative_to(place).with_suffix("").as_posix() for x in place.rglob("*.yaml"))

    def _place(self, config_path: str) -> Path | None:
        group, _, rest = config_path.partition("/")
        return Path(self.path) / rest if group == GROUP else None

    def _file(self, config_path: str) -> Path | None:
        return self._place(config_path if config_path.endswith(".yaml") else config_path + ".yaml")


class RecipesOnSearchPath(SearchPathPlugin):
    """Adds the recipes that come with the program, and before them those in a user's own folders."""

    own: ClassVar[list[Path]] = []

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra while it starts."""
        for place in self.own:
            search_path.prepend("own recipes", f"{RecipeSource.scheme()}://{place / GROUP}")
        search_path.append("optim-run", f"{RecipeSource.scheme()}://{folder('recipes')}")


def run_id() -> str:
    """A name for a run's folder: when it started, and letters that no other run gets."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{uuid4().hex[:8]}"


def register(own: Iterable[Path] = ()) -> None:
    """Make Hydra know both, and `${run_id:}`, which is the same wherever one command line asks for it.

    Args:
        own: a user's folders of configs; those of them that hold a folder `recipe` add recipes.
    """
    RecipesOnSearchPath.own = [x for x in own if (x / GROUP).is_dir()]
    Plugins.instance().register(RecipeSource)
    Plugins.instance().register(RecipesOnSearchPath)
    identity = run_id()
    OmegaConf.register_new_resolver("run_id", lambda: identity, replace=True)


def search_path(main: Path, more: str | None = None) -> ConfigSearchPath:
    """Where Hydra looks for configs when it runs the command.

    Args:
        main: folder of the main config.
        more: what --config-dir says.

    Raises:
        SearchPathException: there is no such folder.
    """
    path = create_config_search_path(str(main))
    if more is not None:
        if not Path(more).is_dir():
            raise SearchPathException(f"--config-dir: {more!r} is no folder")
        own = f"file://{Path(more).resolve()}"
        path.prepend("command-line", own, anchor=SearchPathQuery(provider="schema"))
    return path
