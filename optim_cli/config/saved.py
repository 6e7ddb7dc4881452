"""The config of an earlier run, to go on with it or to run it again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from optim_cli.config.durations import is_duration
from optim_cli.config.files import read_text, read_tree, why_unreadable
from optim_cli.config.mistakes import Mistake
from optim_cli.config.targets import KINDS

# What may change when a run goes on: how long it is, what is noted on the way, where things are.
CHANGEABLE = (
    *("trainer.epochs", "trainer.max_steps", "trainer.evaluate_every", "trainer.measure_every"),
    *("device", "dataset.root", "dataset.download", "dataset.workers"),
)
# Where durations may be.
PLANNED = re.compile(r"(scheduler|averaging|optimizer\.param_groups\.[^.]+\.(scheduler|unfreeze_at))(\.|$)")


@dataclass(frozen=True)
class Saved:
    """An earlier run.

    Attributes:
        folder: where it is.
        values: its resolved config.
        choices: config group -> choice.
    """

    folder: Path
    values: dict[str, Any]
    choices: dict[str, str | None]


def read(key: str, folder: Path) -> Saved | Mistake:
    """A run's folder.

    Args:
        key: resume or rerun, for the mistake that is told if it is none.
    """
    file = folder / "config.yaml"
    try:
        read_tree(file)
        values = yaml.safe_load(read_text(file))
        # What YAML can say and a config cannot: dates, keys that are lists.
        OmegaConf.create({"values": literal(values)})
    except OSError as error:
        return Mistake(key, f"'{folder}' is no run's folder: {file} cannot be read ({error.strerror})")
    except (yaml.YAMLError, ValueError, OmegaConfBaseException) as error:
        return Mistake(key, "{}: {}".format(*why_unreadable(error, str(file))))
    missing = [x for x in KINDS if x not in values] if isinstance(values, dict) else [*KINDS]
    if missing:
        return Mistake(key, f"{file} is no config of a run: it has no {', '.join(missing)}")
    return Saved(folder, {str(x): y for x, y in values.items()}, _choices(folder / "environment.json"))


def _choices(file: Path) -> dict[str, str | None]:
    """The choices of a run; none where they cannot be read, as they only name things."""
    try:
        choices = json.loads(read_text(file))["choices"]
        return {group: choice for group, choice in choices.items() if isinstance(choice, str | None)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def literal(value: Any) -> Any:
    """A resolved value as a config holds it: what looks like an interpolation is none."""
    if isinstance(value, Mapping):
        return {key: literal(x) for key, x in value.items()}
    if isinstance(value, list):
        return [literal(x) for x in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Mistake]:
    """What differs from the run that is to go on, though it must not; of another choice, only the choice."""
    made = [{group: _target(x.get(group)) for group in KINDS} for x in (old, new)]
    rechosen = {group for group in KINDS if made[0][group] != made[1][group]}
    found = [Mistake(group, _changed(made[0][group], made[1][group])) for group in KINDS if group in rechosen]
    left, right = dict(_leaves(old, "")), dict(_leaves(new, ""))
    missing = object()
    return found + [
        Mistake(key, _changed(_shown(left, key), _shown(right, key)))
        for key in dict.fromkeys([*left, *right])
        if left.get(key, missing) != right.get(key, missing)
        and key not in CHANGEABLE
        and key.partition(".")[0] not in rechosen
        and not (PLANNED.match(key) and _is_open(left.get(key, missing)))
    ]


def command(key: str, folder: str) -> str:
    """A command line that names a run's folder, as a shell and Hydra's grammar take it.

    Args:
        key: resume or rerun.
    """
    plain = re.fullmatch(r"[A-Za-z0-9_./-]+", folder)
    return f"optim-run {shlex.quote(f'{key}={folder if plain else quoted(folder)}')}"


def quoted(text: str) -> str:
    """A text as a value in Hydra's grammar of overrides: before a quote, a backslash stands for the next."""
    return "'" + re.sub(r"(\\*)('|$)", lambda x: x[1] * 2 + ("\\'" if x[2] else ""), text) + "'"


def _target(node: Any) -> str:
    return str(node.get("_target_")) if isinstance(node, Mapping) and node else "none"


def _changed(old: str, new: str) -> str:
    return f"was {old}, is now {new}; a run goes on with what it began with"


def _is_open(value: Any) -> bool:
    """Whether the run's length made a number of a value; the checkpoint knows which."""
    return value is None or is_duration(value) or (isinstance(value, list) and any(map(_is_open, value)))


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if prefix + key in ("plugins", "resume", "rerun"):
            continue
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return repr(leaves[key]) if key in leaves else "not there"
