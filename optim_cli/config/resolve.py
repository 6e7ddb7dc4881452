"""From a composed config to plain values, key by key: what cannot be resolved does not hide the rest."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from optim_cli.config.files import DEEPEST, MOST_NODES
from optim_cli.config.mistakes import Mistake


def plain(config: DictConfig) -> tuple[dict[str, Any], list[Mistake]]:
    """The values of a config without Hydra's node, and the keys that have none."""
    mistakes: list[Mistake] = []
    values: dict[str, Any] = {}
    for key in config:
        if key == "hydra":
            continue
        try:
            _take(config, key, str(key), values, mistakes, count())
        except RecursionError:
            mistakes.append(Mistake(str(key), "refers to itself, or to too much"))
    return values, mistakes


def source(config: DictConfig, key: str) -> str:
    """The key that a value is taken from at last, by values or mappings that are nothing but `${key}`.

    The key itself if it is taken from no other, or the references lead back to it.
    """
    at = key
    for _ in range(DEEPEST):
        names = at.split(".")
        ends = range(len(names), 0, -1)
        taken = ((_reference(config, ".".join(names[:end])), names[end:]) for end in ends)
        further = next((".".join([x, *below]) for x, below in taken if x is not None), None)
        if further is None:
            return at
        at = further
    return key


def _reference(config: DictConfig, key: str) -> str | None:
    """The key in a value that is nothing but `${key}`."""
    node: Any = config
    for name in key.split("."):
        node = below(node, name)
    text = node._value() if node is not None and node._is_interpolation() else ""
    inside = text[2:-1] if isinstance(text, str) and text.startswith("${") and text.endswith("}") else ""
    return inside if inside and not set(inside) & set("${}:") else None


def below(node: Any, name: str) -> Any:
    """The entry of a node, None where there is none; a value that is still missing (???) is there."""
    if isinstance(node, ListConfig) and name.isdecimal():
        return node._get_node(int(name)) if int(name) < len(node) else None
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or node._is_interpolation():
        return None
    return node._get_node(name, validate_access=False)


def tell_hydra(config: DictConfig, choices: dict[str, str | None], directory: str) -> None:
    """Let `${hydra:...}` and `${hydra....}` say what is known of a job before it starts."""
    OmegaConf.set_readonly(config.hydra, False)
    runtime = config.hydra.runtime
    OmegaConf.set_struct(runtime.choices, False)
    runtime.choices.update(choices)
    runtime.cwd = runtime.output_dir = directory
    HydraConfig.instance().set_config(config)


def _take(
    node: Container, key: Any, path: str, into: Any, mistakes: list[Mistake], taken_before: Iterator[int]
) -> None:
    """Put the value at `key` of a node into a dict or list.

    Raises:
        RecursionError: there is no end to it, as mappings refer to each other.
    """
    if next(taken_before) > MOST_NODES or path.count(".") > DEEPEST:
        raise RecursionError
    try:
        value = node[key]
    except MissingMandatoryValue:
        mistakes.append(Mistake(path, f"missing; give {path}=VALUE"))
        return
    except OmegaConfBaseException as error:
        raw = OmegaConf.to_container(node, resolve=False)
        shown = raw[key] if isinstance(raw, dict | list) else ""
        mistakes.append(Mistake(path, f"{shown!r} cannot be resolved: {str(error).splitlines()[0]}"))
        return
    if isinstance(value, DictConfig):
        taken: Any = {}
        for name in value:
            _take(value, name, f"{path}.{name!s}", taken, mistakes, taken_before)
    elif isinstance(value, ListConfig):
        taken = []
        for index in range(len(value)):
            _take(value, index, f"{path}[{index}]", taken, mistakes, taken_before)
    else:
        taken = value
    if isinstance(into, dict):
        into[str(key)] = taken
    else:
        into.append(taken)
