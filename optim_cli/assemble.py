"""From a config to the parts of a run: the one place that instantiates."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any

import torch
from omegaconf import DictConfig

from optim_cli.config.check import SUPPLIED, averages_in, is_total, mistakes
from optim_cli.config.mistakes import Mistake
from optim_cli.config.resolve import plain
from optim_cli.config.targets import hints_of, kind_of, locate, nested_kinds, plugins_of
from optim_cli.datasets.dataset import Dataset
from optim_cli.errors import ConfigError, user_frames
from optim_cli.optim.composition import Composition
from optim_cli.training.loop import Trainer, Training
from optim_cli.training.stop import StoppedAtOnce

# Each is made of those before it.
GROUPS = ("trainer", "dataset", "model", "optimizer", "scheduler", "averaging")


def resolve(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, checked.

    Raises:
        ConfigError: with every mistake in it.
    """
    values, found = plain(config)
    found = found or mistakes(values)
    if found:
        raise ConfigError("\n".join(map(str, found)))
    return values


def assemble(values: Mapping[str, Any], device: torch.device) -> Training:
    """Instantiate a resolved config: trainer, dataset, model, optimizer, scheduler, averaging.

    Raises:
        ConfigError: a constructor refuses its values, or files are missing.
    """
    made: dict[str, Any] = {}
    for group in GROUPS:
        made[group] = _part(group, values, made, device)
    averages = made.pop("averaging")
    return Training(**made, averages=averages, device=device)


def refusals(values: Mapping[str, Any], wrong: Collection[str] = ()) -> list[Mistake]:
    """What the constructors say of values that are right one by one: contradictions, missing files.

    Every part is made that can be. One that fails otherwise is left alone: the run will meet that failure
    and tell it with its trace.

    Args:
        wrong: groups that are known to be wrong.
    """
    made: dict[str, Any] = {}
    found = []
    for group in GROUPS:
        if group in wrong:
            continue
        try:
            made[group] = _part(group, values, made, torch.device("cpu"))
        except ConfigError as error:
            key, what = re.fullmatch(rf"(?s)(?:({group}[\w.]*): )?(.*)", str(error)).groups()  # type: ignore[union-attr]
            found.append(Mistake(key or group, what))
        except StoppedAtOnce:
            raise
        except (Exception, SystemExit):  # code of a user's may call sys.exit
            continue
    return found


def _part(group: str, values: Mapping[str, Any], made: Mapping[str, Any], device: torch.device) -> Any:
    """Make one part; KeyError if one that it needs is not there."""
    node, plugins = values[group], plugins_of(values)
    if group == "averaging":
        return {
            name: _make(key, part, plugins, model=made["model"])
            for name, (key, part) in averages_in(node).items()
        }
    if not node:
        return None
    if group == "dataset":
        return _dataset(node, plugins)
    if group == "model":
        return _make(group, node, plugins, **_sizes(made["dataset"], node, plugins)).to(device)
    if group == "optimizer":
        # Where the model is wrong, the optimizer is tried with another.
        model = made["model"] if "model" in made else torch.nn.Linear(1, 1)
        optimizer = _make(group, node, plugins, params=model.named_parameters())
        if "model" in made:
            _check_gradients(model, optimizer, made.get("trainer"))
        return optimizer
    if group == "scheduler":
        trainer, dataset = made["trainer"], made["dataset"]
        steps = trainer.total_steps(dataset.train.num_batches(dataset.batch_size))
        return _make(group, of_run_length(node, steps, plugins), plugins, optimizer=made["optimizer"])
    return _make(group, node, plugins)


def _sizes(dataset: Dataset, node: Mapping[str, Any], plugins: Collection[str]) -> dict[str, Any]:
    """What a dataset tells a model.

    Raises:
        ConfigError: the dataset has texts, and the model takes images.
    """
    parameters = inspect.signature(locate(node["_target_"], (kind_of("model"),), plugins)).parameters
    if dataset.vocabulary is not None and "vocabulary" not in parameters:
        name = node["_target_"].rpartition(".")[2]
        raise ConfigError(f"model: {name} takes images, not texts; use model=bag_of_words or other data")
    return {name: getattr(dataset, name) for name in SUPPLIED["model"]}


def _check_gradients(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, trainer: Trainer | None
) -> None:
    """Find out before the first step whether an optimizer of ours takes the gradients of the model.

    Raises:
        ConfigError: they are sparse and it takes none of those, or dense and it takes no other; they are
            sparse and to be clipped beside an optimizer that does not clip them itself.
    """
    sparse = any(getattr(module, "sparse", False) is True for module in model.modules())
    taken = getattr(optimizer, "sparse_gradients", "accepted")
    who, what = type(optimizer).__name__, type(model).__name__
    if taken == "required" and not sparse:
        raise ConfigError(
            f"optimizer: {who} takes sparse gradients only, and those of {what} are dense; use "
            "recipe=python_reference/sparse_adam, or another optimizer"
        )
    if taken == "refused" and sparse:
        raise ConfigError(
            f"optimizer: {who} takes no sparse gradients, and those of {what} are sparse; use "
            "model.sparse=false, or optimizer=sparse_adam, sgd or adagrad"
        )
    limits = () if trainer is None else (trainer.clip_norm, trainer.clip_value)
    if sparse and any(x is not None for x in limits) and not isinstance(optimizer, Composition):
        raise ConfigError(
            f"optimizer: gradients of {who} are clipped by torch, which clips no sparse ones, and those of "
            f"{what} are sparse; use optimizer=sparse_adam, sgd or adagrad, or leave trainer.clip_norm and "
            "trainer.clip_value at null"
        )


# The newest dataset: the check before a run makes it, the run takes it, and so does the next job of a sweep.
_newest: list[tuple[dict[str, Any], Any]] = []


def _dataset(node: Mapping[str, Any], plugins: Collection[str]) -> Any:
    if not _newest or _newest[0][0] != node:
        _newest[:] = [(deepcopy(dict(node)), _make("dataset", node, plugins))]
    return _newest[0][1]


def _make(group: str, node: Mapping[str, Any], plugins: Collection[str], **supplied: Any) -> Any:
    kind = kind_of(group.partition(".")[0])
    try:
        part = _call(node, (kind,), plugins, supplied)
    except (ValueError, TypeError, OverflowError) as error:
        # What a constructor refuses with these is a value; anything else is a defect of the program.
        frames = "".join(f"\n{x}" for x in user_frames(error, plugins))
        raise ConfigError(f"{group}: {error}{frames}") from error
    if not isinstance(part, kind):
        made = f"{node['_target_']} made a {type(part).__name__}, not a {kind.__name__}"
        raise ConfigError(f"{group}._target_: {made}")
    return part


def _call(
    node: Mapping[str, Any], kinds: Collection[type], plugins: Collection[str], supplied: Mapping[str, Any]
) -> Any:
    """Call what a node names with its values; a nested node becomes what it names."""
    target = locate(node["_target_"], kinds, plugins)
    hints, parameters = hints_of(target), inspect.signature(target).parameters
    arguments = {
        key: _call(value, nested_kinds(hints.get(key), plugins), plugins, {})
        if isinstance(value, Mapping) and "_target_" in value
        else deepcopy(value)  # the parts may keep and change what they get
        for key, value in node.items()
        if key != "_target_"
    }
    return target(**arguments, **{key: value for key, value in supplied.items() if key in parameters})


def of_run_length(node: Mapping[str, Any], steps: int, plugins: Collection[str] = ()) -> dict[str, Any]:
    """Lengths in steps that are left open become the length of the run."""
    hints = hints_of(locate(node["_target_"], (kind_of("scheduler"),), plugins))
    return {
        key: steps if value is None and is_total(hints.get(key)) else value for key, value in node.items()
    }
