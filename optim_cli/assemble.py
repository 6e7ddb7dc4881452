"""From a config to the parts of a run: the one place that instantiates."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig
from torch.optim.lr_scheduler import LRScheduler

from optim_cli.config.averages import contradictions_of
from optim_cli.config.check import averages_in, mistakes
from optim_cli.config.contradictions import contradictions
from optim_cli.config.durations import RunLength, counted
from optim_cli.config.gradients import unfit_gradients
from optim_cli.config.groups import (
    ENTRIES,
    entries_of,
    key_of,
    never_trained,
    pace_of,
    schedules_of,
    structure_of,
    unfitting_structure,
    unfreezing,
    values_in,
)
from optim_cli.config.mistakes import Mistake, Mistaken
from optim_cli.config.resolve import plain
from optim_cli.config.schedules import Plan, plan
from optim_cli.config.targets import (
    functions,
    given_to,
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
from optim_cli.optim.lr_scheduler import place
from optim_cli.optim.lr_scheduler.groupwise import GroupwiseLR
from optim_cli.optim.lr_scheduler.parts import ChainedScheduler, SequentialLR
from optim_cli.optim.param_groups import Group, Make, WrongGroups, make_optimizer, scopes, split
from optim_cli.training.averaging import Average
from optim_cli.training.loop import Training
from optim_cli.training.scheduling import Pace
from optim_cli.training.stop import StoppedAtOnce

# Each is made of those before it; `groups` are those of the model's parameters.
PARTS = ("trainer", "dataset", "model", "groups", "optimizer", "scheduler", "averaging")


def resolve(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, checked.

    Raises:
        ConfigError: with every mistake in it.
    """
    values, found = plain(config)
    found = found or mistakes(values)
    if found:
        raise Mistaken(found)
    return values


def assemble(values: Mapping[str, Any], device: torch.device) -> Training:
    """Instantiate a resolved config: trainer, dataset, model, optimizer, scheduler, averaging.

    Raises:
        ConfigError: a constructor refuses its values, or files are missing.
    """
    made: dict[str, Any] = {}
    for part in PARTS:
        made[part] = _part(part, values, made, device)
    made["scheduler"] = _with_averages(values, made)
    return Training(averages=made.pop("averaging"), **made, device=device, pace=_pace(values))


def refusals(values: Mapping[str, Any], wrong: Collection[str] = ()) -> list[Mistake]:
    """What the constructors say of values that are right one by one: contradictions, missing files.

    Every part is made that can be. One that fails otherwise is left alone: the run will meet that failure
    and tell it with its trace. Of a wrong optimizer, what its entries take is told all the same; some of it
    may be what is known.

    Args:
        wrong: config groups that are known to be wrong.
    """
    made: dict[str, Any] = {}
    found, rates = [], {}
    # A resumed run keeps its plan, also where it is to end sooner.
    is_new = not values.get("resume")
    for part in PARTS:
        group = _config_group(part)
        try:
            if part == "groups" and group in wrong:
                # What entries take does not depend on what they set.
                _dealt(values, made["model"], entries_of(values))
            if group in wrong:
                continue
            told = _contradictions(values, made) if part == "scheduler" and is_new else []
            found += told
            if not told:
                made[part] = _part(part, values, made, torch.device("cpu"))
            if part == "groups" and is_new:
                found += never_trained(made[part], _lengths(made)[0])
            if part == "optimizer":  # before a schedule changes them
                rates = values_in(made[part], "lr")
            if part == "averaging" and is_new:
                keys = [key for key, _ in averages_in(values[part]).values()]
                averages = dict(zip(keys, made[part].values(), strict=True))
                found += contradictions_of(averages, _lengths(made)[0], rates)
            if part == "averaging":
                _with_averages(values, made)
        except Mistaken as error:
            found += error.mistakes
        except ConfigError as error:
            key, what = re.fullmatch(rf"(?s)(?:({group}[\w.\[\]-]*): )?(.*)", str(error)).groups()  # type: ignore[union-attr]
            found.append(Mistake(key or group, what))
        except StoppedAtOnce:
            raise
        except (Exception, SystemExit):  # code of a user's may call sys.exit
            continue
    return found


def _config_group(part: str) -> str:
    return "optimizer" if part == "groups" else part


def _part(part: str, values: Mapping[str, Any], made: Mapping[str, Any], device: torch.device) -> Any:
    """Make one part; KeyError if one that it needs is not there."""
    node, plugins = values[_config_group(part)], plugins_of(values)
    if part == "averaging":
        return _averages(values, made)
    if part == "dataset":
        return _dataset(node, plugins)
    if part == "model":
        return _model(values, made).to(device)
    if part == "groups":
        return _groups(values, made)
    if part == "optimizer":
        return _optimizer(values, made)
    if part == "scheduler":
        return _scheduler(values, made)
    return _make(part, node, plugins)


def _model(values: Mapping[str, Any], made: Mapping[str, Any]) -> torch.nn.Module:
    """Make the model, of the sizes that the dataset has."""
    node, plugins = given_to("model", values["model"]), plugins_of(values)
    model: torch.nn.Module = _make("model", node, plugins, **_sizes(made["dataset"], node, plugins))
    unfitting = [*unfitting_structure(structure_of(values), model)]
    if unfitting:
        raise Mistaken(unfitting)
    return model


def _groups(values: Mapping[str, Any], made: Mapping[str, Any]) -> list[Group]:
    """Deal the parameters of the model out; none where all are trained alike."""
    plugins, entries = plugins_of(values), {}
    # Where the trainer is wrong, the groups are those of a run of any length.
    begins = unfreezing(values, RunLength(*(_lengths(made) if "trainer" in made else (1, 1))))
    for name, entry in entries_of(values).items():
        own = entry.get("optimizer")
        entries[name] = entry | {
            "optimizer": None if own is None else _algorithm(own, plugins, key_of(name, "optimizer")),
            "unfreeze_at": begins[key_of(name, "unfreeze_at")],
        }
    return _dealt(values, made["model"], entries)


def _dealt(values: Mapping[str, Any], model: torch.nn.Module, entries: Mapping[str, Any]) -> list[Group]:
    """Split the model by these entries; none of them, and not strict, makes no groups."""
    strict = values["optimizer"].get("strict") is True
    if not entries and not strict:
        return []
    with _refusing_groups():
        return split(model, entries, structure_of(values), strict)


def _optimizer(values: Mapping[str, Any], made: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Make the optimizer of the model's parameters, or of its groups."""
    node, plugins = given_to("optimizer", values["optimizer"]), plugins_of(values)
    if "model" not in made:
        # Where the model is wrong, the optimizer is tried with another.
        other = torch.nn.Linear(1, 1).named_parameters()
        wrong: torch.optim.Optimizer = _make("optimizer", node, plugins, params=other)
        return wrong
    model, groups = made["model"], made["groups"]
    optimizer: torch.optim.Optimizer
    if groups:
        with _refusing("optimizer", plugins), _refusing_groups():
            optimizer = make_optimizer(groups, _algorithm(node, plugins, "optimizer"))
    else:
        optimizer = _make("optimizer", node, plugins, params=model.named_parameters())
    unfit = [*unfit_gradients(model, optimizer, groups, made.get("trainer"))]
    if unfit:
        raise Mistaken(unfit)
    return optimizer


def _with_averages(values: Mapping[str, Any], made: Mapping[str, Any]) -> LRScheduler | None:
    """The schedule, with what averages do to it; KeyError if a part that it needs is not there."""
    scheduler: LRScheduler | None = made["scheduler"]
    steps = 1 if _pace(values).interval == "step" else _lengths(made)[1]
    for name, average in made["averaging"].items():
        key = averages_in(values["averaging"])[name][0]
        with _refusing(f"{key}.swa_lr", plugins_of(values)):
            scheduler = average.schedule(scheduler, made["optimizer"], steps)
    return scheduler


def planned(values: Mapping[str, Any], steps: int, steps_per_epoch: int) -> dict[str | None, Plan]:
    """The schedules of a config, of a run of that length: the run's as None, an entry's own by its name.

    Args:
        steps, steps_per_epoch: of the optimizer, in the run and in an epoch.
    """
    run = RunLength(steps, steps_per_epoch, _pace(values).interval)
    nodes: dict[str | None, Any] = {None: values["scheduler"]}
    keys: dict[str | None, str] = {None: "scheduler"}
    for name, node in schedules_of(values).items():
        nodes[name], keys[name] = node, key_of(name, "scheduler")
    plugins = plugins_of(values)
    return {name: plan(node, run, plugins, keys[name]) for name, node in nodes.items() if node}


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
    """What is wrong with the schedules as a whole; KeyError if a part that it needs is not there."""
    plans = _scoped(values, made)
    return contradictions(plans, _pace(values), _metrics(values, made["dataset"])) if plans else []


def _scoped(values: Mapping[str, Any], made: Mapping[str, Any]) -> list[tuple[Plan, torch.optim.Optimizer]]:
    """The schedules, each with the optimizer, or the groups of it, whose values it sets."""
    plans, optimizer = planned(values, *_lengths(made)), made["optimizer"]
    if not schedules_of(values):
        return [(plan, optimizer) for plan in plans.values()]
    found = scopes(made["groups"], optimizer)
    return [(plan, found[entry]) for entry, plan in plans.items() if entry in found]


def _scheduler(values: Mapping[str, Any], made: Mapping[str, Any]) -> LRScheduler | None:
    """Make the schedule, of those of entries where there are some; None where every value is constant."""
    schedules = [_schedule(plan, scope, plugins_of(values)) for plan, scope in _scoped(values, made)]
    if not schedules_of(values):
        return schedules[0] if schedules else None
    return GroupwiseLR(made["optimizer"], schedules) if schedules else None


def _pace(values: Mapping[str, Any]) -> Pace:
    return Pace(**pace_of(values))


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
    # Each part goes out from the optimizer's own values, not from what a cycle made before it has set.
    for _, single in plan.singles():
        for group in optimizer.param_groups:
            place.note_initial(group, single.hyperparameter)
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


@contextmanager
def _refusing_groups() -> Iterator[None]:
    """What is wrong with parameter groups has keys of its own."""
    try:
        yield
    except WrongGroups as error:
        raise Mistaken(
            Mistake(".".join(filter(None, (ENTRIES, key))), what) for key, what in error.mistakes
        ) from error


def _algorithm(node: Mapping[str, Any], plugins: Collection[str], key: str) -> Make:
    """An optimizer that lacks nothing but parameters."""
    with _refusing(key, plugins):
        target, arguments = _named(node, (kind_of("optimizer"),), plugins)
    return partial(target, **arguments)


def _call(
    node: Mapping[str, Any], kinds: Collection[type], plugins: Collection[str], supplied: Mapping[str, Any]
) -> Any:
    """Call what a node names with its values, and with what it takes of `supplied`."""
    target, arguments = _named(node, kinds, plugins)
    parameters = inspect.signature(target).parameters
    return target(**arguments, **{key: value for key, value in supplied.items() if key in parameters})


def _named(
    node: Mapping[str, Any], kinds: Collection[type], plugins: Collection[str]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What a node names, and its values as arguments; a nested node becomes what it names."""
    target = locate(node["_target_"], kinds, plugins)
    hints = hints_of(target)
    return target, {
        key: _call(value, nested_kinds(hints.get(key), plugins), plugins, {})
        if isinstance(value, Mapping) and "_target_" in value
        else functions(value, plugins, hints[key])
        if takes_function(hints.get(key))
        else deepcopy(value)  # the parts may keep and change what they get
        for key, value in node.items()
        if key != "_target_"
    }
