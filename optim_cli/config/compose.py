"""Composes a config as Hydra does, but goes on after a mistake, so that all of them can be told at once."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList, create_defaults_list
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from optim_cli.config.files import Files, choices_in, shown
from optim_cli.config.mistakes import Mistake, unknown_choice, unknown_key
from optim_cli.config.origins import Origins, path_of
from optim_cli.config.trust import untrusted

COMPOSING = (HydraException, OmegaConfBaseException, ValueError, TypeError, AssertionError)


@dataclass
class Composed:
    """A config and what is wrong with it so far.

    Attributes:
        config: unresolved, with Hydra's own node; None where nothing could be composed.
        choices: config group -> choice.
        unread: groups whose choice is wrong: nothing can be said of the keys in them.
    """

    config: DictConfig | None
    choices: dict[str, str | None]
    origins: Origins
    mistakes: list[Mistake] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)

    def copy(self) -> Composed:
        """One that other values can be laid over."""
        return Composed(
            deepcopy(self.config),
            dict(self.choices),
            deepcopy(self.origins),
            [*self.mistakes],
            {*self.unread},
        )


def parse(texts: Iterable[str]) -> tuple[list[Override], list[Mistake]]:
    """Overrides from the command line, and those that are none."""
    parser = OverridesParser.create()
    overrides, mistakes = [], []
    for text in texts:
        origin = f"command line: {text}"
        try:
            [override] = parser.parse_overrides([text])
        except HydraException as error:
            lines = [x for x in str(error).splitlines() if x.strip() and "https://" not in x]
            what = f"cannot be read as KEY=VALUE: {lines[-1].strip()}"
            mistakes.append(Mistake(text.partition("=")[0] or text, what, origin))
        else:
            if override.key_or_group:
                overrides.append(override)
            else:
                mistakes.append(Mistake(text, "has no key; write KEY=VALUE", origin))
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

    def files(self, overrides: list[Override]) -> Files:
        """The files that there are to choose from."""
        files = Files(self._search_path)
        self._loader()._process_config_searchpath(self._name, overrides, files)  # type: ignore[arg-type]
        return files

    def compose(self, overrides: list[Override], *, several: bool = False) -> Composed:
        """Choices first, then values.

        Args:
            several: a multirun, where a choice may still be open.
        """
        return self.apply(self.choose(overrides, several=several), overrides)

    def choose(self, overrides: list[Override], *, several: bool = False) -> Composed:
        """The config of the choices among `overrides`, without their values."""
        files = self.files(overrides)
        composed = Composed(None, {}, Origins())
        groups = [
            x
            for x in overrides
            if is_choice(x, files) and not x.is_sweep_override() and _is_right_choice(x, files, composed)
        ]
        defaults = self._defaults(groups, files, composed, several)
        composed.mistakes += files.mistakes
        if defaults is None:
            return composed
        try:
            config = self._loader()._compose_config_from_defaults_list(defaults.defaults, files)
        except COMPOSING as error:
            composed.mistakes.append(Mistake(self._name, _first_lines(error)))
            return composed
        OmegaConf.set_struct(config, True)
        composed.config, composed.choices = config, dict(defaults.overrides.known_choices)
        for default in defaults.defaults:
            file = files.file_of(default.config_path or "")
            if file is not None:
                composed.origins.add_file(file, default.package or "")
        refused = untrusted(defaults.defaults, files)
        if any(x.key == "plugins" for x in refused):
            config.plugins = []  # what names them must not even be imported
        composed.mistakes += refused
        composed.unread |= {x.partition("/")[0] for x in files.empty}
        return composed

    def apply(self, composed: Composed, overrides: list[Override]) -> Composed:
        """Lay values over the config, in place; those that are wrong are told and left out."""
        if composed.config is None:
            return composed
        files = self.files(overrides)
        for override in overrides:
            text = f"command line: {override.input_line}"
            if override.is_sweep_override():
                what = "several values; -m runs each of them, [brackets] make them a list"
                composed.mistakes.append(Mistake(override.key_or_group, what, text))
            elif not is_choice(override, files):
                self._set(composed, override, text)
        return composed

    def _set(self, composed: Composed, override: Override, origin: str) -> None:
        config, key = composed.config, override.key_or_group
        assert config is not None
        if key.partition(".")[0] in composed.unread:
            return
        try:
            ConfigLoaderImpl._apply_overrides_to_config([override], config)
        except ConfigCompositionException as error:
            if isinstance(error.__cause__, OmegaConfBaseException) and not _exists(config, key):
                mistake = _unknown(config, key)
                hint = (
                    f"; +{override.input_line} adds a key"
                    if _fits(config, key) and "?" not in mistake.what
                    else ""
                )
                what = mistake.what + hint
                composed.mistakes.append(Mistake(key, what, origin))
            else:
                composed.mistakes.append(Mistake(key, _first_lines(error.__cause__ or error), origin))
        except COMPOSING as error:
            composed.mistakes.append(Mistake(key, _first_lines(error), origin))
        else:
            composed.origins.add_override(key, str(override.input_line))

    def _defaults(
        self, groups: list[Override], files: Files, composed: Composed, several: bool
    ) -> DefaultsList | None:
        """The files of the config in their order; choices that are nowhere count as empty."""
        while True:
            try:
                return create_defaults_list(
                    files, self._name, groups, prepend_hydra=True, skip_missing=several
                )
            except MissingConfigException as error:
                path = error.missing_cfg_file or ""
                if path in files.empty or path in ("", self._name):
                    composed.mistakes.append(Mistake(self._name, _first_lines(error)))
                    return None
                group, _, choice = path.partition("/")
                mistake = unknown_choice(group, choice, files.choices(group))
                origin = _who_chose(group, choice, files)
                composed.mistakes.append(Mistake(group, mistake.what, origin))
                files.replace_with_nothing(path)
            except COMPOSING as error:
                wrong = [x for x in groups if not self._alone(x, files)]
                if not wrong:
                    composed.mistakes.append(Mistake(self._name, _first_lines(error)))
                    return None
                for override in wrong:
                    groups.remove(override)
                    origin = f"command line: {override.input_line}"
                    composed.mistakes.append(Mistake(override.key_or_group, _first_lines(error), origin))

    def _alone(self, override: Override, files: Files) -> bool:
        """Whether a choice composes with nothing but the main config."""
        try:
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
    chosen = value if isinstance(value, list) and value else [value]
    wrong = [x for x in chosen if not (isinstance(x, str) and x and files.config_exists(f"{group}/{x}"))]
    for choice in wrong:
        what = unknown_choice(group, choice, files.choices(group)).what
        composed.mistakes.append(Mistake(group, what, f"command line: {override.input_line}"))
        composed.unread.add(group)
    return not wrong


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
    node: object = config
    for name in path_of(key):
        if not isinstance(node, DictConfig) or name not in node:
            return False
        node = node._get_node(name)
    return True


def _fits(config: DictConfig, key: str) -> bool:
    """Whether a key could be added: what is around it is a mapping."""
    around = key.rpartition(".")[0]
    return "." in key and _exists(config, around) and isinstance(OmegaConf.select(config, around), DictConfig)


def _unknown(config: DictConfig, key: str) -> Mistake:
    """The first name in a key that is not there, with the nearest that are."""
    node: DictConfig = config
    done: list[str] = []
    names = path_of(key)
    for name in names:
        below = node._get_node(name) if name in node else None
        if below is None or len(done) == len(names) - 1:
            break
        if not isinstance(below, DictConfig):
            return Mistake(key, f"unknown key; {'.'.join([*done, name])} is no mapping")
        node, done = below, [*done, name]
    known = [str(x) for x in node if x != "_target_" and (done or x != "hydra")]
    at = ".".join([*done, names[len(done)]])
    return unknown_key(at, known, _keys(config))


def _keys(config: DictConfig) -> list[str]:
    """All keys of the config that are not Hydra's."""
    found = []
    for name in config:
        below = config._get_node(name) if name not in ("hydra", "_target_") else None
        if below is not None:
            found.append(str(name))
            found += [f"{name!s}.{x}" for x in _keys(below)] if isinstance(below, DictConfig) else []
    return found


def _first_lines(error: BaseException) -> str:
    """What an error of Hydra says, without its hints on where to read more."""
    lines = [x.strip() for x in str(error).splitlines()]
    lines = [x for x in lines if x and not x.startswith(("full_key:", "object_type=", "See http"))]
    return "; ".join(lines[:2]) or type(error).__name__
