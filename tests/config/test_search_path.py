"""Recipes are a config group wherever the command is started, and the command line has the last word."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import MissingConfigException
from hydra.plugins.config_source import ConfigLoadError, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin

from optim_cli.config.search_path import GROUP, RecipesOnSearchPath, RecipeSource, register
from optim_cli.paths import folder
from tests.experiments import ROOT, config_of


@pytest.fixture
def source(tmp_path: Path) -> RecipeSource:
    """Two recipes, one of them in a folder, and a file that is none."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "flat.yaml").write_text("seed: 1\n")
    (tmp_path / "deep" / "er" / "one.yaml").write_text("# One.\nseed: 2\n")
    (tmp_path / "README.md").write_text("no recipe\n")
    return RecipeSource("test", f"recipes://{tmp_path}")


def test_register_is_repeatable() -> None:
    register()
    register()
    assert list(Plugins.instance().discover(ConfigSource)).count(RecipeSource) == 1
    assert list(Plugins.instance().discover(SearchPathPlugin)).count(RecipesOnSearchPath) == 1


def test_source_shows_a_tree(source: RecipeSource) -> None:
    assert source.available()
    assert source.list("", ObjectType.GROUP) == [GROUP]
    assert source.list("", ObjectType.CONFIG) == []
    assert source.list("recipe", ObjectType.CONFIG) == ["deep/er/one", "flat"]
    assert source.list("recipe", ObjectType.GROUP) == []
    assert source.list("recipe", None) == ["deep/er/one", "flat"]
    assert source.list("recipe/deep", ObjectType.CONFIG) == ["er/one"]
    assert source.list("recipe/deep/er", ObjectType.CONFIG) == ["one"]
    assert source.list("recipe/none", None) == []
    assert source.list("model", None) == []
    assert source.is_group("")
    assert source.is_group("recipe")
    assert source.is_group("recipe/deep")
    assert not source.is_group("recipe/flat")
    assert not source.is_group("model")
    assert source.is_config("recipe/flat")
    assert source.is_config("recipe/deep/er/one.yaml")
    assert not source.is_config("recipe/deep")
    assert not source.is_config("recipe/README")
    assert not source.is_config("flat")
    assert not source.is_config("model/mlp")


def test_source_loads(source: RecipeSource) -> None:
    result = source.load_config("recipe/deep/er/one")
    assert result.config == {"seed": 2}
    assert result.header == {"package": "_global_"}
    assert source.load_config("recipe/deep/er/one.yaml").config == {"seed": 2}
    for missing in ("recipe/none", "model/mlp", "recipe/deep"):
        with pytest.raises(ConfigLoadError):
            source.load_config(missing)


def test_a_missing_folder_is_not_available(tmp_path: Path) -> None:
    assert not RecipeSource("test", f"recipes://{tmp_path / 'none'}").available()


def test_search_path_does_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder("recipes").is_absolute()
    assert folder("configs").samefile(ROOT / "configs")
    assert config_of("recipe=digits/sgd_cosine").optimizer.lr == 0.05
    # A folder of the same name where the command is started changes nothing.
    (tmp_path / "recipes" / "digits").mkdir(parents=True)
    (tmp_path / "recipes" / "digits" / "sgd_cosine.yaml").write_text("optimizer:\n  lr: 123\n")
    assert config_of("recipe=digits/sgd_cosine").optimizer.lr == 0.05


def test_plugin_appends_one_entry() -> None:
    entries = ConfigSearchPathImpl()
    RecipesOnSearchPath().manipulate_search_path(entries)
    assert [(x.provider, x.path) for x in entries.get_path()] == [
        ("optim-run", f"recipes://{folder('recipes')}")
    ]


def test_precedence() -> None:
    """Default, then recipe, then the command line; in whichever order the latter is written."""
    assert config_of().optimizer.lr == 3e-3
    assert config_of("recipe=digits/sgd_cosine").optimizer.lr == 0.05
    for overrides in (
        ("recipe=digits/sgd_cosine", "optimizer.lr=7"),
        ("optimizer.lr=7", "recipe=digits/sgd_cosine"),
    ):
        config = config_of(*overrides)
        assert config.optimizer.lr == 7
        assert config.optimizer._target_ == "optim_cli.optim.SGD"


def test_a_choice_on_the_command_line_wins_too() -> None:
    config = config_of("recipe=digits/sgd_cosine", "scheduler=none", "model=logistic")
    assert not config.scheduler
    assert config.model._target_ == "optim_cli.models.logistic.Logistic"


def test_unknown_recipe() -> None:
    with pytest.raises(MissingConfigException, match="recipe/digits/nope"):
        config_of("recipe=digits/nope")
