"""Every recipe composes, says what to expect, and runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from optim_cli.assemble import resolve
from tests.experiments import ROOT, config_of, train

RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
NAMES = [x.relative_to(ROOT / "recipes").with_suffix("").as_posix() for x in RECIPES]
# What makes a recipe fit into four epochs, where it says durations in epochs.
SHORTER = {"digits/torch_swa": ("averaging.start=2 epochs", "averaging.anneal=1 epochs")}
DIGITS = [x for x in NAMES if x.startswith("digits/")]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_there_are_recipes() -> None:
    assert DIGITS


@pytest.mark.parametrize("name", NAMES)
def test_composes(name: str) -> None:
    values = resolve(config_of(f"recipe={name}"))
    recipe = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))
    for group, choice in (next(iter(x.items())) for x in recipe.pop("defaults")):
        assert group.startswith("override /"), (
            "a recipe names its choices, so that a new default changes none"
        )
        path = group.removeprefix("override /")
        for name in choice if isinstance(choice, list) else [choice]:
            chosen = yaml.safe_load((ROOT / "configs" / path / f"{name}.yaml").read_text(encoding="utf-8"))
            node = OmegaConf.select(OmegaConf.create(values), path.replace("/", "."))
            assert {*(chosen or {})} - {"defaults"} <= {*node}
            assert (chosen or {}).get("_target_") == node.get("_target_")
    assert recipe, "a recipe sets values"
    assert_set(recipe, values)


def assert_set(wanted: dict[str, Any], values: dict[str, Any]) -> None:
    """Every value of a recipe is in the config."""
    for key, value in wanted.items():
        if isinstance(value, dict):
            assert_set(value, values[key])
        else:
            assert values[key] == value


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_first_line_says_what_to_expect(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(r"# \S.{20,}\.", first), first


@pytest.mark.parametrize("name", DIGITS)
def test_runs(name: str, tmp_path: Path) -> None:
    done = train(tmp_path / "run", f"recipe={name}", "trainer.epochs=4", *SHORTER.get(name, ()))
    assert done.results.epochs == 4
    # Enough to tell training from guessing; what the whole recipe reaches is in its first line.
    assert done.results.final["test/accuracy"] > 0.8
    assert done.results.final["train/loss"] < 1
