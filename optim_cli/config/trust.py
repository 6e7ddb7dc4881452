"""What files may not say: recipes travel between people, and a config must not reach what it is not for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from inspect import isclass
from typing import Any

from hydra.core.default_element import ConfigDefault, GroupDefault, InputDefault, ResultDefault
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser
from omegaconf.grammar_parser import parse

from optim_cli.config.files import Files, shown
from optim_cli.config.mistakes import Mistake
from optim_cli.config.search_path import GROUP
from optim_cli.paths import folder

# Only the command line and the main config may set these.
RESERVED = ("hydra", "plugins", "resume", "rerun")
# Resolvers that compute from the config alone.
HARMLESS = ("oc.select", "oc.dict.keys", "oc.dict.values")
LOGGING = ("logging", "logging.handlers")


def untrusted(defaults: list[ResultDefault], files: Files) -> list[Mistake]:
    """What the composed files say that is not theirs to say."""
    found: list[Mistake] = []
    parents = {x.config_path: x.parent for x in defaults}
    for default in defaults:
        path = default.config_path or ""
        file = files.file_of(path)
        if file is None or default.primary or path.startswith("hydra/"):
            continue
        loaded = files.load_config(path)
        if loaded is None or not isinstance(loaded.config, DictConfig):
            continue
        place = shown(file)
        found += [
            Mistake(group, "only the command line and the main config may choose this", place)
            for group in map(_group_of, loaded.defaults_list or ())
            if group.partition("/")[0] in RESERVED
        ]
        package = (default.package or "").partition(".")[0]
        top = [package] if package and package != "_global_" else [str(x) for x in loaded.config]
        found += [
            Mistake(key, "only the command line and the main config may set this", place)
            for key in top
            if key in RESERVED
        ]
        if _of_recipe(path, parents) and not file.is_relative_to(folder("configs").resolve()):
            found += [
                Mistake(key, f"{value!r}: a recipe may refer to other keys; {_resolvers()}", place)
                for key, value in texts(loaded.config)
                if not _harmless(value)
            ]
    return found


def hydra_calls(hydra: Mapping[str, Any], plugins: Collection[str]) -> list[Mistake]:
    """What Hydra would call or import for its own part of the config, and may not.

    Args:
        hydra: the node `hydra` as plain values.
    """
    found = []
    for key, value in _leaves(hydra, "hydra"):
        name, group = key.rpartition(".")[2], key.split(".")[1]
        text = str(value)
        if name == "_target_":
            allowed = (
                _is_of_hydra(text, group) if key.count(".") < (4 if group == "callbacks" else 3) else False
            )
        elif "logging" in group and name in ("class", "()"):
            allowed = _is_of_logging(text)
        elif "logging" in group and text.startswith("ext://"):
            allowed = text in ("ext://sys.stdout", "ext://sys.stderr")
        else:
            continue
        if not allowed and text.partition(".")[0] not in plugins:
            what = f"{text!r} may not be called; allowed: Hydra's own launchers, sweepers and callbacks"
            found.append(Mistake(key, f"{what}, logging's classes, and what plugins=[PACKAGE] names"))
    return found


def texts(config: Container, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and values of all texts, unresolved."""
    for key, value in _leaves(OmegaConf.to_container(config, resolve=False), prefix):
        if isinstance(value, str):
            yield key, value


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _leaves(below, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _leaves(below, f"{prefix}[{index}]")
    else:
        yield prefix, value


def _group_of(default: InputDefault) -> str:
    """The group, or the path, that an entry of a defaults list names."""
    named = default.group if isinstance(default, GroupDefault) else ""
    named = default.path if isinstance(default, ConfigDefault) else named
    return str(named).lstrip("/")


def _of_recipe(path: str, parents: Mapping[str | None, str | None]) -> bool:
    """Whether a file is a recipe, or is in the config because a recipe lists it."""
    seen = set()
    at: str | None = path
    while at is not None and at not in seen:
        if at.startswith(f"{GROUP}/"):
            return True
        seen.add(at)
        at = parents.get(at)
    return False


def _harmless(text: str) -> bool:
    """Whether a text calls no resolver but HARMLESS ones, however it is written."""
    if "${" not in text:
        return True
    try:
        tree = parse(text)
    except OmegaConfBaseException:
        return True  # it cannot be resolved, which is told elsewhere
    names = [
        node.resolverName().getText()  # type: ignore[no-untyped-call]
        for node in _nodes(tree)
        if isinstance(node, OmegaConfGrammarParser.InterpolationResolverContext)
    ]
    return all(name in HARMLESS for name in names)


def _nodes(tree: Any) -> Iterator[Any]:
    yield tree
    for child in getattr(tree, "children", None) or ():
        yield from _nodes(child)


def _resolvers() -> str:
    return f"resolvers allowed in it: {', '.join(HARMLESS)}"


def _is_of_hydra(target: str, group: str) -> bool:
    """Whether a name is one of Hydra's callbacks, launchers or sweepers, not just something it imports."""
    from hydra.experimental.callback import Callback
    from hydra.plugins.plugin import Plugin

    module, _, name = target.rpartition(".")
    if module.partition(".")[0] not in ("hydra", "hydra_plugins", "optim_cli"):
        return False
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return False
    return isclass(found) and issubclass(found, Callback if group == "callbacks" else Plugin)


def _is_of_logging(target: str) -> bool:
    import logging.handlers

    module, _, name = target.rpartition(".")
    found = getattr(import_module(module), name, None) if module in LOGGING else None
    return isclass(found) and issubclass(found, logging.Handler | logging.Formatter | logging.Filter)
