"""Composes a config as Hydra does, but goes on after a mistake, so that all of them can be told at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList, create_defaults_list
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException, MissingConfigException
from hydra.version import setbase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from optim_cli.config.files import DEEPEST, NESTED, Files, choices_in, depth, group_of, shown
from optim_cli.config.mistakes import Mistake, first_lines, unknown_choice, unknown_key
from optim_cli.config.origins import Origins, path_of
from optim_cli.config.resolve import below
from optim_cli.config.search_path import VERSION_BASE
from optim_cli.config.trust import untrusted

# What Hydra and OmegaConf raise over a config; AttributeError where a mapping of Hydra's is null.
COMPOSING = (
    *(HydraException, OmegaConfBaseException),
    *(ValueError, TypeError, AssertionError, AttributeError, RecursionError),
)


@dataclass
class Composed:
    """A config and what is wrong with it so far.

    Attributes:
        config: unresolved, with Hydra's own node; None where nothing could be composed.
        choices: config group -> choice.
        unread: keys of groups whose choice is wrong: nothing can be said of what is in them.
        chosen: groups whose choice is from the command line -> how it stands there.
    """

    config: DictConfig | None
    choices: dict[str, str | None]
    origins: Origins
    mistakes: list[Mistake] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    chosen: dict[str, str] = field(default_factory=dict)

    def is_unread(self, key: str) -> bool:
        """Whether a key is in a group whose choice is wrong."""
        return any(key == x or key.startswith(f"{x}.") for x in self.unread)

    def copy(self) -> Composed:
        """One that other values can be laid over."""
        return Composed(
            deepcopy(self.config),
            dict(self.choices),
            deepcopy(self.origins),
            [*self.mistakes],
            {*self.unread},
            dict(self.chosen),
        )


def parse(texts: Iterable[str]) -> tuple[list[Override], list[Mistake]]:
    """Overrides from the command line, and those that are none."""
    parser = OverridesParser.create()
    overrides, mistakes = [], []
    for text in texts:
        origin = f"command line: {text}"
        try:
            [override] = parser.parse_overrides([text])
        except (HydraException, ValueError, RecursionError) as error:
            what = f"cannot be read as KEY=VALUE{_reason(error, text)}"
            mistakes.append(Mistake(text.partition("=")[0] or repr(text), what, origin))
        else:
            if not override.key_or_group:
                mistakes.append(Mistake(text, "has no key; write KEY=VALUE", origin))
            elif depth(override.value()) > DEEPEST:
                mistakes.append(Mistake(override.key_or_group, f"nested deeper than {DEEPEST}", origin))
            else:
                overrides.append(override)
    return overrides, mistakes


class Composer:
    """Composes configs from one search path.

    Args:
        search_path: where configs are, Hydra's own among them.
        config_name: the main config.
    """

    def __init__(self, search_path: ConfigSearchPath, config_name: str) -> None:
        self._search_path = search_path
        self._name = config_name
        self._known: dict[tuple[str | None, ...], Files] = {}
        # As when Hydra composes: what is checked must be what is run.
        setbase(VERSION_BASE)
        setup_globals()

    def files(self, overrides: list[Override]) -> Files:
        """The files that there are to choose from."""
        key = tuple(x.input_line for x in overrides if x.key_or_group == "hydra.searchpath")
        if key not in self._known:
            self._known[key] = self._files(overrides)
        return self._known[key]

    def _files(self, overrides: list[Override]) -> Files:
        files = Files(self._search_path)
        given = [x for x in overrides if x.key_or_group == "hydra.searchpath"]
        origin = f"command line: {given[-1].input_line}" if given else ""
        try:
            with warnings.catch_warnings():  # of folders that are not there, which is told below
                warnings.simplefilter("ignore")
                self._loader()._process_config_searchpath(self._name, overrides, files)  # type: ignore[arg-type]
        except COMPOSING as error:
            files.mistakes.append(Mistake("hydra.searchpath", first_lines(error), origin))
            files.initialize_sources(self._search_path)
        missing = [x for x in files.get_sources() if not x.available() and "searchpath" in x.provider]
        files.mistakes += [Mistake("hydra.searchpath", f"{x.path!r} is no folder", origin) for x in missing]
        return files

    def compose(self, overrides: list[Override], *, several: bool = False) -> Composed:
        """Choices first, then values.

        Args:
            several: a multirun, where a choice may still be open.
        """
        return self.apply(self.choose(overrides, several=several), overrides)

    def choose(self, overrides: list[Override], *, several: bool = False) -> Composed:
        """The config of the choices among `overrides`, without their values."""
        files = self._files(overrides)
        composed = Composed(None, {}, Origins())
        groups = [
            x
            for x in overrides
            if is_choice(x, files) and not x.is_sweep_override() and _is_right_choice(x, files, composed)
        ]
        composed.chosen = {x.key_or_group: f"command line: {x.input_line}" for x in groups}
        defaults = self._defaults(groups, files, composed, several)
        composed.mistakes += files.mistakes
        if defaults is None or self._name in files.empty:
            return composed
        for override in groups:
            if override.is_delete():
                composed.origins.add_override(override.key_or_group, f"command line: {override.input_line}")
        refused = untrusted(defaults.defaults, files)
        composed.mistakes += refused
        try:
            config = self._loader()._compose_config_from_defaults_list(defaults.defaults, files)
        except COMPOSING as error:
            composed.mistakes.append(Mistake(self._name, first_lines(error)))
            return composed
        if config.hydra is None:
            composed.mistakes.append(Mistake("hydra", "null is not allowed; allowed: a mapping"))
            return composed
        OmegaConf.set_struct(config, True)
        composed.config, composed.choices = config, dict(defaults.overrides.known_choices)
        for default in defaults.defaults:
            file = files.file_of(default.config_path or "")
            if file is not None:
                composed.origins.add_file(file, default.package or "")
        if any(x.key == "plugins" for x in refused):
            config.plugins = []  # what names them must not even be imported
        composed.unread |= {_key_of(group_of(x)) for x in files.empty}
        return composed

    def apply(
        self, composed: Composed, overrides: list[Override], places: Mapping[str, str] = MappingProxyType({})
    ) -> Composed:
        """Lay values over the config, in place; those that are wrong are told and left out.

        Args:
            places: where the values of keys are from that are not from the command line.
        """
        if composed.config is None:
            return composed
        files = self.files(overrides)
        for override in overrides:
            origin = places.get(override.key_or_group, f"command line: {override.input_line}")
            if override.is_sweep_override():
                remedy = "-m runs each of them, [brackets] make them a list"
                remedy = "Hydra's own keys take one" if override.is_hydra_override() else remedy
                composed.mistakes.append(Mistake(override.key_or_group, f"several values; {remedy}", origin))
            elif not is_choice(override, files):
                self._set(composed, override, origin)
        return composed

    def _set(self, composed: Composed, override: Override, origin: str) -> None:
        config, key = composed.config, override.key_or_group
        assert config is not None
        if composed.is_unread(key):
            return
        # Before Hydra tries, as it may have replaced what is around a key when it finds that there is none.
        adds = override.is_add() or override.is_force_add()
        if not adds and override.package is None and not _exists(config, key):
            what = _unknown(config, key).what
            hint = f"; +{override.input_line} adds a key" if "?" not in what and _fits(config, key) else ""
            composed.mistakes.append(Mistake(key, what + ("" if override.is_delete() else hint), origin))
            return
        try:
            ConfigLoaderImpl._apply_overrides_to_config([override], config)
        except COMPOSING as error:
            composed.mistakes.append(Mistake(key, first_lines(error.__cause__ or error), origin))
        else:
            composed.origins.add_override(key, origin)

    def _defaults(
        self, groups: list[Override], files: Files, composed: Composed, several: bool
    ) -> DefaultsList | None:
        """The files of the config in their order; choices that are nowhere count as empty."""
        while True:
            try:
                with files.bounded():
                    return create_defaults_list(
                        files, self._name, groups, prepend_hydra=True, skip_missing=several
                    )
            except MissingConfigException as error:
                path = error.missing_cfg_file or ""
                if path in ("", self._name):
                    main = next((x.path for x in files.get_sources() if x.provider == "main"), "")
                    composed.mistakes.append(
                        Mistake("--config-name", f"there is no {self._name}.yaml in {main}")
                    )
                    return None
                if path in files.empty:
                    composed.mistakes.append(Mistake(self._name, first_lines(error)))
                    return None
                group = group_of(path)
                choice = path.removeprefix(f"{group}/")
                mistake = unknown_choice(group, choice, files.choices(group))
                origin = _who_chose(group, choice, files)
                composed.mistakes.append(Mistake(group, mistake.what, origin))
                files.replace_with_nothing(path)
            except COMPOSING as error:
                wrong = [x for x in groups if not self._alone(x, files)]
                if not wrong:
                    composed.mistakes.append(Mistake(self._name, first_lines(error)))
                    return None
                for override in wrong:
                    groups.remove(override)
                    origin = f"command line: {override.input_line}"
                    composed.mistakes.append(Mistake(override.key_or_group, first_lines(error), origin))

    def _alone(self, override: Override, files: Files) -> bool:
        """Whether a choice composes with nothing but the main config."""
        try:
            with files.bounded():
                create_defaults_list(files, self._name, [override], prepend_hydra=True, skip_missing=True)
        except COMPOSING:
            return False
        return True

    def _loader(self) -> ConfigLoaderImpl:
        return ConfigLoaderImpl(self._search_path)


def is_choice(override: Override, files: Files) -> bool:
    """Whether an override chooses from a group, as Hydra decides it."""
    is_mapping = not override.is_sweep_override() and isinstance(override.value(), dict)
    return files.group_exists(override.key_or_group) and not is_mapping


def _is_right_choice(override: Override, files: Files, composed: Composed) -> bool:
    """Whether the choice is there; if not, that is told."""
    group, value = override.key_or_group, override.value()
    if override.is_delete():
        return True
    chosen = value if isinstance(value, list) and (value or group == NESTED) else [value]
    choices = files.choices(group)
    wrong = [x for x in chosen if x not in choices]
    for choice in wrong:
        what = unknown_choice(group, choice, choices).what
        composed.mistakes.append(Mistake(group, what, f"command line: {override.input_line}"))
        composed.unread.add(_key_of(group))
    return not wrong


def _key_of(group: str) -> str:
    """Where in a config the values of a group are."""
    return group.replace("/", ".")


def _who_chose(group: str, choice: str, files: Files) -> str:
    """File and line of the defaults list that names a choice."""
    places = [
        f"{shown(file)}:{line}"
        for file in files.read
        for at, named, line in choices_in(file)
        if (at, named) == (group, choice)
    ]
    return places[-1] if places else ""


def _exists(config: DictConfig, key: str) -> bool:
    node: Any = config
    for name in path_of(key):
        if node._is_interpolation():
            return True  # it is elsewhere
        node = below(node, name)
        if node is None:
            return False
    return True


def _fits(config: DictConfig, key: str) -> bool:
    """Whether a key could be added: what is around it is a mapping, and not one of Hydra's."""
    around, _, name = key.rpartition(".")
    node: Any = config
    for part in path_of(around):
        node = below(node, part)
    return name != key and isinstance(node, DictConfig) and not key.startswith("hydra.")


def _unknown(config: DictConfig, key: str) -> Mistake:
    """The first name in a key that is not there, with the nearest that are."""
    node: DictConfig = config
    done: list[str] = []
    names = path_of(key)
    for name in names:
        entry = below(node, name)
        if entry is None or len(done) == len(names) - 1:
            break
        if not isinstance(entry, DictConfig):
            return Mistake(key, f"unknown key; {'.'.join([*done, name])} is no mapping")
        node, done = entry, [*done, name]
    known = [str(x) for x in node if x != "_target_" and (done or x != "hydra")]
    at = ".".join([*done, names[len(done)]])
    # An entry of parameter groups may set what no file names yet.
    elsewhere = () if done[:2] == ["optimizer", "param_groups"] else _keys(config)
    return unknown_key(at, known, elsewhere)


def _keys(config: DictConfig) -> list[str]:
    """All keys of the config that are not Hydra's."""
    found = []
    for name in config:
        below = config._get_node(name) if name not in ("hydra", "_target_") else None
        if below is not None:
            found.append(str(name))
            found += [f"{name!s}.{x}" for x in _keys(below)] if isinstance(below, DictConfig) else []
    return found


def _reason(error: Exception, text: str) -> str:
    """Why a text is no override, as far as the grammar knows."""
    if isinstance(error, RecursionError):
        return f": nested deeper than {DEEPEST}"
    lines = [x.rstrip() for x in str(error).splitlines()]
    prefix = "LexerNoViableAltException: "
    if lines and lines[0].startswith(prefix):  # the grammar has no such character there; a caret points at it
        at = max(x.index("^") for x in lines if x.strip() == "^") - len(prefix)
        return f": unexpected {text[at : at + 1]!r} at character {at + 1}"
    known = [
        x for x in lines if x and "https://" not in x and not x.startswith(("Available", "Error parsing"))
    ]
    return f": {known[-1].partition(' expecting ')[0]}" if known else ""
