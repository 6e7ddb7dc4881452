"""What a command line asks for: jobs, each with a config, and everything that is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from optim_cli.config.compose import Composed, Composer, is_choice, parse
from optim_cli.config.files import NESTED
from optim_cli.config.mistakes import Mistake
from optim_cli.config.resolve import plain, source, tell_hydra
from optim_cli.config.saved import Saved, differences, literal, quoted, read
from optim_cli.config.targets import ABOUT, KINDS, plugins_of
from optim_cli.config.trust import hydra_calls, written_out

# Set anew by each command line, whatever an earlier run had.
OF_THE_COMMAND = ("hydra", "plugins", "resume", "rerun")


@dataclass
class Job:
    """One run that is asked for.

    Attributes:
        values: its config, resolved; None where it could not be composed.
        mistakes: what is wrong with it.
        choices: config group -> choice.
    """

    values: dict[str, Any] | None
    mistakes: list[Mistake]
    choices: dict[str, str | None]
    composed: Composed

    def told(self, mistakes: Iterable[Mistake]) -> list[Mistake]:
        """Mistakes with their origins; of a value that is another's, only the other's is told."""
        mistakes = list(mistakes)
        # A key that should not be there is wrong for itself, whatever its value is.
        keys = {x.key for x in mistakes if not x.what.startswith("unknown key")}
        found = []
        for mistake in mistakes:
            key = self.source_of(mistake.key)
            if key != mistake.key and (key in keys or self.composed.is_unread(key)):
                continue
            origin = mistake.origin or self.origin_of(key)
            by = f", by {key}" if key != mistake.key and not mistake.origin else ""
            found.append(replace(mistake, origin=origin + by))
        return found

    def source_of(self, key: str) -> str:
        """The key that a value is taken from; itself if it is its own."""
        return key if self.composed.config is None else source(self.composed.config, key)

    def origin_of(self, key: str) -> str:
        """Where a key comes from; of a group, what makes it up."""
        origins = self.composed.origins
        if "." in key or key not in self.choices:
            return origins.of(key)
        return "; ".join(filter(None, [self.composed.chosen.get(key), origins.around(key)]))


class Experiment:
    """One command line.

    Args:
        search_path: where configs are.
        config_name: the main config.
        overrides: the arguments that are no options.
        several: whether it is a multirun.
    """

    def __init__(
        self, search_path: ConfigSearchPath, config_name: str, overrides: list[str], several: bool
    ) -> None:
        self.several = several
        self._composer = Composer(search_path, config_name)
        self._overrides, self.mistakes = parse(overrides)
        self._chosen: dict[tuple[str | None, ...], Composed] = {}
        self._newest: tuple[tuple[str | None, ...], Composed] | None = None
        self._varied: dict[str, str] = {}
        for key in ("resume", "rerun"):
            self._read(key)
        if self.saved is not None:
            # What it says would be laid below the earlier run's values, so that nothing is left of it.
            what = "cannot stand beside an earlier run's config; give its values one by one"
            self.mistakes += [
                Mistake("recipe", what, f"command line: {x.input_line}")
                for x in self._overrides
                if x.key_or_group == "recipe" and x.value() is not None
            ]
        if several and self.resumed:
            self.mistakes.append(Mistake("resume", "goes on with one run; leave out -m"))

    saved: Saved | None = None
    resumed = False

    def _read(self, key: str) -> None:
        given = [x for x in self._overrides if x.key_or_group == key and not x.is_delete()]
        folder = given[-1].value() if given else None
        if folder is None:
            return
        origin = f"command line: {given[-1].input_line}"
        if not isinstance(folder, str) or self.saved is not None:
            what = "names a run's folder" if self.saved is None else "cannot stand beside resume"
            self.mistakes.append(Mistake(key, what, origin))
            return
        found = read(key, Path(folder))
        if isinstance(found, Mistake):
            self.mistakes.append(replace(found, origin=origin))
        else:
            self.saved, self.resumed = found, key == "resume"

    @cached_property
    def jobs(self) -> list[list[Override]]:
        """The overrides of each job, in the order of Hydra's sweeper.

        Another kind of sweeper chooses its jobs as it goes: one job stands for them, without what it varies.
        """
        if not self.several:
            return [self._overrides]
        fixed = [x for x in self._overrides if not x.is_sweep_override()]
        composed = self.composed(fixed)
        sweeper = self._sweeper(composed)
        if not str(sweeper.get("_target_")).endswith(".BasicSweeper"):
            return [fixed]
        varied, wrong = parse(f"{key}={value}" for key, value in (sweeper.get("params") or {}).items())
        # The main config may say what to vary.
        self._varied = {
            key: composed.origins.of(f"hydra.sweeper.params.{key}") for key in sweeper["params"] or {}
        }
        self.mistakes += [replace(x, origin=self._varied.get(x.key, "")) for x in wrong]
        files = self._composer.files(self._overrides)
        overrides = [*varied, *self._overrides]
        for override in overrides:
            override.config_loader = files  # type: ignore[assignment]
        own = [x for x in overrides if x.is_hydra_override()]
        try:
            [jobs] = BasicSweeper.split_arguments([x for x in overrides if not x.is_hydra_override()], None)
        except (HydraException, ValueError) as error:
            self.mistakes.append(Mistake("hydra.sweeper", str(error)))
            return [fixed]
        if not jobs:
            self.mistakes.append(Mistake("hydra.sweeper", "there is nothing to run: a sweep has no values"))
            return [fixed]
        return [[*own, *parse(job)[0]] for job in jobs]

    def _sweeper(self, composed: Composed) -> dict[str, Any]:
        """The node `hydra.sweeper`, as plain values; empty where there is none."""
        if composed.config is None:
            return {}
        tell_hydra(composed.config, composed.choices, os.getcwd())
        try:
            sweeper = OmegaConf.to_container(composed.config.hydra.sweeper, resolve=True)
        except OmegaConfBaseException as error:
            self.mistakes.append(Mistake("hydra.sweeper", str(error).splitlines()[0]))
            return {}
        return {str(x): y for x, y in sweeper.items()} if isinstance(sweeper, dict) else {}

    def job(self, overrides: list[Override]) -> Job:
        """A job composed and resolved, with what is wrong so far."""
        composed = self.composed(overrides)
        job = Job(None, composed.mistakes, composed.choices, composed)
        if composed.config is not None:
            tell_hydra(composed.config, composed.choices, os.getcwd())
            job.values, unresolved = plain(composed.config)
            hidden = written_out(composed.config)
            if hidden:
                job.values["plugins"] = []  # none of them is imported
            calls = hydra_calls(composed.config.hydra, plugins_of(job.values))
            job.mistakes = [*composed.mistakes, *unresolved, *hidden, *calls]
            if self.resumed and self.saved is not None:
                job.mistakes += differences(self.saved.values, job.values)
        return job

    def composed(self, overrides: list[Override]) -> Composed:
        """The config of a job, over that of an earlier run where one is named."""
        files = self._composer.files(overrides)
        groups = [x for x in overrides if is_choice(x, files) or x.key_or_group == "hydra.searchpath"]
        key = tuple(x.input_line for x in groups)
        if key not in self._chosen:
            self._chosen[key] = self._over_saved(groups)
        whole = tuple(x.input_line for x in overrides)
        # Of a single run, the folder is asked for after the job, by the same overrides.
        if self._newest is None or self._newest[0] != whole:
            composed = self._composer.apply(self._chosen[key].copy(), overrides, self._varied)
            self._newest = whole, composed
        return self._newest[1]

    def mistakes_of_composition(self) -> list[Mistake]:
        """What is wrong before anything is compared with what the config names, which takes torch."""
        jobs = [self.job(overrides) for overrides in self.jobs]
        return list(dict.fromkeys([*self.mistakes, *(x for job in jobs for x in job.told(job.mistakes))]))

    def as_yaml(self) -> str:
        """The config of a single run, unresolved and without Hydra's node."""
        config = self.composed(self.jobs[0]).config
        return OmegaConf.to_yaml({} if config is None else OmegaConf.masked_copy(config, _names(config)))

    def directory(self) -> Path | None:
        """Where results go: the run's folder, or the one of a multirun; None if nothing could be composed.

        Raises:
            OmegaConfBaseException: its name cannot be resolved.
        """
        composed = self.composed([x for x in self._overrides if not x.is_sweep_override()])
        if composed.config is None:
            return None
        tell_hydra(composed.config, composed.choices, os.getcwd())
        hydra = composed.config.hydra
        return Path(str(hydra.sweep.dir if self.several else hydra.run.dir))

    def is_multirun(self) -> bool:
        """Whether `hydra.mode` asks for a multirun, as it may in place of -m."""
        config = self.composed([x for x in self._overrides if not x.is_sweep_override()]).config
        return config is not None and config.hydra.mode == RunMode.MULTIRUN

    def planned(self) -> list[list[str]]:
        """The overrides of each job of a multirun as texts, without Hydra's own; none for other sweepers."""
        if len(self.jobs) == 1 and any(x.is_sweep_override() for x in self._overrides):
            return []
        return [[str(x.input_line) for x in job if not x.is_hydra_override()] for job in self.jobs]

    def for_hydra(self) -> list[str]:
        """The overrides as Hydra gets them.

        An earlier run's config is not Hydra's: a job takes it from here, and Hydra must not stumble over
        keys that only that config has.
        """
        texts = [str(x.input_line) for x in self._overrides]
        # Named now, because jobs in other processes do not know the name that this process has drawn.
        sweep = literal(str(self.directory())) if self.several else ""
        places = [f"hydra.sweep.dir={quoted(sweep)}"] if sweep else []
        if self.saved is None:
            return [*texts, *places]
        files = self._composer.files(self._overrides)
        values = [
            text
            if is_choice(x, files) or x.is_hydra_override() or text.startswith(("~", "+"))
            else f"++{text}"
            for x, text in zip(self._overrides, texts, strict=True)
        ]
        if self.resumed:
            places = [f"hydra.run.dir={quoted(literal(str(self.saved.folder)))}"]
        return [*(str(x.input_line) for x in self._earlier(self._overrides)), *values, *places]

    def _earlier(self, overrides: list[Override]) -> list[Override]:
        """The choices of the earlier run that are still there and are not chosen anew."""
        assert self.saved is not None
        files = self._composer.files(overrides)
        again = {x.key_or_group for x in overrides}
        earlier, _ = parse(
            f"{group}={choice}"
            for group, choice in self.saved.choices.items()
            if group in KINDS and group not in again and choice in files.choices(group)
        )
        return earlier

    def _over_saved(self, groups: list[Override]) -> Composed:
        """The choices of the command line, the rest from the earlier run."""
        saved = self.saved
        if saved is None:
            return self._composer.choose(groups, several=self.several)
        composed = self._composer.choose([*self._earlier(groups), *groups], several=self.several)
        composed.choices = saved.choices | composed.choices
        composed.chosen = {x: y for x, y in composed.chosen.items() if x in {z.key_or_group for z in groups}}
        if composed.config is None:
            return composed
        kept = (*OF_THE_COMMAND, *(x.key_or_group for x in groups))
        chosen = OmegaConf.select(composed.config, "optimizer.param_groups")
        with open_dict(composed.config):
            for name, value in saved.values.items():
                if name not in kept:
                    composed.config[name] = literal(value)
            optimizer, earlier = composed.config.optimizer, saved.values["optimizer"]
            # Groups neither come nor go with the optimizer that they are beside.
            if NESTED in kept and isinstance(optimizer, DictConfig):
                optimizer.param_groups = chosen or {}
            elif "optimizer" in kept and isinstance(earlier, dict):
                optimizer.update(literal({x: earlier[x] for x in ABOUT["optimizer"] if x in earlier}))
        OmegaConf.set_struct(composed.config, True)
        composed.origins.add_file(saved.folder / "config.yaml", "", without=kept)
        return composed


def _names(config: DictConfig) -> list[str]:
    return [str(x) for x in config if x != "hydra"]
