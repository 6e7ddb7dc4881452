"""From a config to the parts of a run: the one place that instantiates."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from omegaconf import DictConfig
from torch.optim.lr_scheduler import LRScheduler

from optim_cli.config.averages import contradictions_of
from optim_cli.config.check import averages_in, mistakes
from optim_cli.config.contradictions import contradictions
from optim_cli.config.durations import RunLength, counted
from optim_cli.config.mistakes import Mistake
from optim_cli.config.resolve import plain
from optim_cli.config.schedules import AT_THE_TOP, Plan, plan
from optim_cli.config.targets import (
    functions,
    hints_of,
    kind_of,
    locate,
    nested_kinds,
    plugins_of,
    takes_function,
)
from optim_cli.config.values import SUPPLIED
from optim_cli.datasets.dataset import Dataset
from optim_cli.errors import ConfigError, user_frames
from optim_cli.optim.composition import Composition
from optim_cli.optim.lr_scheduler.parts import ChainedScheduler, SequentialLR
from optim_cli.training.averaging import Average
from optim_cli.training.loop import Trainer, Training
from optim_cli.training.scheduling import Pace
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
    made["scheduler"] = _with_averages(values, made)
    return Training(averages=made.pop("averaging"), **made, device=device, pace=_pace(values))


def refusals(values: Mapping[str, Any], wrong: Collection[str] = ()) -> list[Mistake]:
    """What the constructors say of values that are right one by one: contradictions, missing files.

    Every part is made that can be. One that fails otherwise is left alone: the run will meet that failure
    and tell it with its trace.

    Args:
        wrong: groups that are known to be wrong.
    """
    made: dict[str, Any] = {}
    found = []
    # A resumed run keeps its plan, also where it is to end sooner.
    is_new = not values.get("resume")
    for group in GROUPS:
        if group in wrong:
            continue
        try:
            told = _contradictions(values, made) if group == "scheduler" and is_new else []
            found += told
            if not told:
                made[group] = _part(group, values, made, torch.device("cpu"))
            if group == "averaging" and is_new:
                keys = [key for key, _ in averages_in(values[group]).values()]
                averages = dict(zip(keys, made[group].values(), strict=True))
                found += contradictions_of(averages, _lengths(made)[0])
            if group == "averaging":
                _with_averages(values, made)
        except ConfigError as error:
            key, what = re.fullmatch(rf"(?s)(?:({group}[\w.\[\]]*): )?(.*)", str(error)).groups()  # type: ignore[union-attr]
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
        return _averages(values, made)
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
        return _schedule(planned(values, *_lengths(made)), made["optimizer"], plugins)
    return _make(group, node, plugins)


def _with_averages(values: Mapping[str, Any], made: Mapping[str, Any]) -> LRScheduler | None:
    """The schedule, with what averages do to it; KeyError if a part that it needs is not there."""
    scheduler: LRScheduler | None = made["scheduler"]
    steps = 1 if _pace(values).interval == "step" else _lengths(made)[1]
    for name, average in made["averaging"].items():
        key = averages_in(values["averaging"])[name][0]
        with _refusing(f"{key}.swa_lr", plugins_of(values)):
            scheduler = average.schedule(scheduler, made["optimizer"], steps)
    return scheduler


def planned(values: Mapping[str, Any], steps: int, steps_per_epoch: int) -> Plan:
    """The scheduler of a config, of a run of that length.

    Args:
        values: the config, with a scheduler.
        steps, steps_per_epoch: of the optimizer, in the run and in an epoch.
    """
    node = values["scheduler"]
    return plan(node, RunLength(steps, steps_per_epoch, node.get("interval", "step")), plugins_of(values))


def averages_in_steps(
    values: Mapping[str, Any], steps: int, steps_per_epoch: int
) -> dict[str, tuple[str, dict[str, Any]]]:
    """As `averages_in`, with durations as steps of the optimizer; arguments as of `planned`."""
    run, found = RunLength(steps, steps_per_epoch), {}
    for name, (key, node) in averages_in(values["averaging"]).items():
        hints = hints_of(locate(node["_target_"], (kind_of("averaging"),), plugins_of(values)))
        found[name] = key, counted(node, hints, run)
    return found


def _averages(values: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Average]:
    """Make the averages, by name."""
    plugins, model = plugins_of(values), made["model"]
    return {
        name: _make("averaging", node, plugins, key, model=model)
        for name, (key, node) in averages_in_steps(values, *_lengths(made)).items()
    }


def _contradictions(values: Mapping[str, Any], made: Mapping[str, Any]) -> list[Mistake]:
    """What is wrong with the scheduler as a whole; KeyError if a part that it needs is not there."""
    if not values["scheduler"]:
        return []
    plan = planned(values, *_lengths(made))
    return contradictions(plan, _pace(values), made["optimizer"], _metrics(values, made["dataset"]))


def _pace(values: Mapping[str, Any]) -> Pace:
    given = values["scheduler"] or {}
    return Pace(**{key: given[key] for key in AT_THE_TOP if key in given})


def _metrics(values: Mapping[str, Any], dataset: Dataset) -> list[str]:
    """Names of the metrics that evaluations give."""
    prefixes = ["train"]
    if dataset.val is not None:
        prefixes += ["val", *(f"val_{name}" for name in averages_in(values["averaging"]))]
    return [f"{prefix}/{name}" for prefix in prefixes for name in ("loss", "accuracy")]


def _lengths(made: Mapping[str, Any]) -> tuple[int, int]:
    """Steps of the run and of an epoch."""
    trainer, dataset = made["trainer"], made["dataset"]
    per_epoch = dataset.train.num_batches(dataset.batch_size)
    return trainer.total_steps(per_epoch), per_epoch


def _schedule(plan: Plan, optimizer: torch.optim.Optimizer, plugins: Collection[str]) -> LRScheduler:
    """Make a schedule, its parts first."""
    if plan.single is not None:
        made: LRScheduler = _make("scheduler", plan.single.values, plugins, plan.key, optimizer=optimizer)
        return made
    parts = [_schedule(part, optimizer, plugins) for part in plan.parts]
    with _refusing(plan.key, plugins):
        if plan.form == "chain":
            return ChainedScheduler(parts, optimizer)
        return SequentialLR(optimizer, parts, plan.milestones)


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


def _make(
    group: str, node: Mapping[str, Any], plugins: Collection[str], key: str = "", **supplied: Any
) -> Any:
    kind, key = kind_of(group), key or group
    with _refusing(key, plugins):
        part = _call(node, (kind,), plugins, supplied)
    if not isinstance(part, kind):
        made = f"{node['_target_']} made a {type(part).__name__}, not a {kind.__name__}"
        raise ConfigError(f"{key}._target_: {made}")
    return part


@contextmanager
def _refusing(key: str, plugins: Collection[str]) -> Iterator[None]:
    """What a constructor refuses with these is a value; anything else is a defect of the program."""
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:
        frames = "".join(f"\n{x}" for x in user_frames(error, plugins))
        raise ConfigError(f"{key}: {error}{frames}") from error


def _call(
    node: Mapping[str, Any], kinds: Collection[type], plugins: Collection[str], supplied: Mapping[str, Any]
) -> Any:
    """Call what a node names with its values; a nested node becomes what it names."""
    target = locate(node["_target_"], kinds, plugins)
    hints, parameters = hints_of(target), inspect.signature(target).parameters
    arguments = {
        key: _call(value, nested_kinds(hints.get(key), plugins), plugins, {})
        if isinstance(value, Mapping) and "_target_" in value
        else functions(value, plugins, hints[key])
        if takes_function(hints.get(key))
        else deepcopy(value)  # the parts may keep and change what they get
        for key, value in node.items()
        if key != "_target_"
    }
    return target(**arguments, **{key: value for key, value in supplied.items() if key in parameters})
