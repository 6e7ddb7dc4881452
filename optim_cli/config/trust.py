"""What files may not say: recipes travel between people, and a config must not reach what it is not for."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from inspect import isclass
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.default_element import ConfigDefault, GroupDefault, InputDefault, ResultDefault
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser
from omegaconf.grammar_parser import parse

from optim_cli.config.files import DEEPEST, Files
from optim_cli.config.mistakes import Mistake
from optim_cli.config.origins import place_in
from optim_cli.config.search_path import GROUP
from optim_cli.paths import folder

# Only the command line and the main config may set these.
RESERVED = ("hydra", "plugins", "resume", "rerun")
# Resolvers that look things up in the config. Those that make lists of its keys or values (oc.dict.*) do
# not: a key that holds another resolver is resolved once more.
HARMLESS = ("oc.select",)
# The parts of Hydra's node that it makes objects of, by itself and by logging.config.
CALLED = ("callbacks", "launcher", "sweeper")
LOGGED = ("hydra_logging", "job_logging")
LOGGING = ("logging", "logging.handlers")


def untrusted(defaults: list[ResultDefault], files: Files) -> list[Mistake]:
    """What the composed files say that is not theirs to say."""
    found: list[Mistake] = []
    parents = {x.config_path: x.parent for x in defaults}
    trusted: set[str | None] = set()
    for default in defaults:
        path = default.config_path or ""
        file, loaded = files.file_of(path), files.load_config(path)
        of_hydra = path.startswith("hydra/") and (
            default.parent in trusted or default.parent == "hydra/config"
        )
        if file is None or loaded is None or default.primary or of_hydra:
            trusted.add(path)
            continue
        groups = [_group_of(x) for x in loaded.defaults_list or ()]
        groups += ["hydra"] if path.startswith("hydra/") else []
        found += [
            Mistake(
                group, "only the command line and the main config may choose this", place_in(file, "defaults")
            )
            for group in groups
            if group.partition("/")[0] in RESERVED
        ]
        found += [
            Mistake(key, "only the command line and the main config may set this", place_in(file, key))
            for key in _keys_of(loaded, default.package)
            if key in RESERVED
        ]
        if _of_recipe(path, parents) and not file.is_relative_to(folder("configs").resolve()):
            chosen = [
                ("defaults", str(text))
                for entry in loaded.defaults_list or ()
                for text in vars(entry).values()
            ]
            found += [
                Mistake(
                    key, f"{value!r}: a recipe may refer to other keys; {_resolvers()}", place_in(file, key)
                )
                for key, value in [*chosen, *texts(loaded.config)]
                if not _harmless(value)
            ]
    return found


def _keys_of(loaded: ConfigResult, package: str | None) -> list[str]:
    """The top-level keys of the whole config that a file changes; Hydra itself decides where it lies."""
    try:
        laid = ConfigLoaderImpl._embed_result_config(loaded, package).config
    except (HydraException, OmegaConfBaseException, ValueError, TypeError, AssertionError):
        return []  # composing fails too, and tells why
    return [str(x) for x in laid] if isinstance(laid, DictConfig) else []


def written_out(config: DictConfig) -> list[Mistake]:
    """Whether `plugins` names packages outright: what it referred to could be changed by any file."""
    if any("${" in text for _, text in texts(OmegaConf.masked_copy(config, "plugins"))):
        return [Mistake("plugins", "may not refer to other keys; allowed: names of packages, written out")]
    return []


def hydra_calls(hydra: DictConfig, plugins: Collection[str]) -> list[Mistake]:
    """What Hydra would call or import for its own part of the config, and may not.

    Args:
        hydra: the node `hydra`.
    """
    copied = hydra.job.env_copy or ()
    found = [
        Mistake(f"hydra.job.env_copy[{index}]", f"{name!r} is no variable of the environment")
        for index, name in enumerate(copied)
        if name not in os.environ
    ]
    try:
        return found + [
            mistake
            for group in (*CALLED, *LOGGED)
            for key, value, open_ in _followed(hydra, group, f"hydra.{group}")
            for mistake in _hydra_call(group, key, value, open_, plugins)
        ]
    except RecursionError:
        return [Mistake("hydra", "refers to itself")]


def _hydra_call(
    group: str, key: str, value: Any, unresolved: bool, plugins: Collection[str]
) -> list[Mistake]:
    """What is wrong with one value of a part of the config that Hydra makes objects of."""
    text = "null" if value is None else str(value)
    # A name counts for all that is below it, as logging and Hydra may look into lists.
    names = {x.partition("[")[0] for x in key.split(".")}
    if unresolved and text.startswith("${") and text.endswith("}"):
        return [Mistake(key, f"{text!r} cannot be resolved yet, so nobody knows what it would call")]
    if key == f"hydra.{group}" and group in ("launcher", "sweeper"):
        return [Mistake(key, f"{text} is no choice; choose one with hydra/{group}=CHOICE")]
    if group in LOGGED:
        allowed = _is_of_logging(text) if names & {"class", "()", "queue", "listener"} else True
        allowed &= not text.startswith("ext://") or text in ("ext://sys.stdout", "ext://sys.stderr")
    else:
        # What they contain is called too: only they themselves are known.
        outermost = key.count(".") == (3 if group == "callbacks" else 2)
        allowed = "_target_" not in names or (outermost and _is_of_hydra(text, group))
    if allowed or text.partition(".")[0] in plugins:
        return []
    what = f"{text!r} may not be called; allowed: Hydra's own launchers, sweepers and callbacks"
    return [Mistake(key, f"{what}, logging's classes, and what plugins=[PACKAGE] names")]


def _followed(node: Any, name: Any, key: str) -> Iterator[tuple[str, Any, bool]]:
    """Dotted keys and values below a name in a node, references followed; whether one leads nowhere yet."""
    if key.count(".") > DEEPEST:
        raise RecursionError
    try:
        value = node[name]
    except OmegaConfBaseException:
        yield key, node._get_node(name)._value(), True
        return
    if isinstance(value, DictConfig):
        for below in value:
            yield from _followed(value, below, f"{key}.{below!s}")
    elif isinstance(value, ListConfig):
        for index in range(len(value)):
            yield from _followed(value, index, f"{key}[{index}]")
    else:
        yield key, value, False


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
    except RecursionError:
        return False
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
    """Whether a name is one of Hydra's launchers or sweepers, or a callback of Hydra's or ours."""
    if group == "callbacks":
        module, _, name = target.rpartition(".")
        # Importing optim_cli.__main__ would start a run.
        ours = module.startswith("optim_cli.") and "__main__" not in module
        if not ours and module != "hydra.experimental.callbacks":
            return False
        try:
            found = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            return False
        return isclass(found) and issubclass(found, Callback)
    known = Plugins.instance().discover(Launcher if group == "launcher" else Sweeper)
    return target in [f"{x.__module__}.{x.__name__}" for x in known]


def _is_of_logging(target: str) -> bool:
    import logging.handlers

    module, _, name = target.rpartition(".")
    found = getattr(import_module(module), name, None) if module in LOGGING else None
    return isclass(found) and issubclass(found, logging.Handler | logging.Formatter | logging.Filter)
