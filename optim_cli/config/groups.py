"""Parameter groups in configs: `optimizer.param_groups`, and what a model's `structure` says for them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from math import isnan
from typing import Any

from torch import nn
from torch.optim import Optimizer

from optim_cli.config.durations import RunLength
from optim_cli.config.mistakes import Mistake
from optim_cli.config.schedules import AT_THE_TOP, mistakes_in_schedule
from optim_cli.config.targets import given_to, kind_of
from optim_cli.config.values import SUPPLIED, mistakes_in, shown, unlike
from optim_cli.optim.lr_scheduler import place
from optim_cli.optim.lr_scheduler.schedule import Steps
from optim_cli.optim.param_groups import BESIDE, TAKING, Group, Structure, mistakes, wrong_structure
from optim_cli.optim.param_groups.conditions import REGEX, fits, kinds_in, listed

ENTRIES = "optimizer.param_groups"
# What stands beside an optimizer's own keys -> type, default.
_OF_OPTIMIZER: dict[str, Any] = {"param_groups": (dict[str, Any], {}), "strict": (bool, False)}
# What a model's structure says -> type, default.
_OF_STRUCTURE: dict[str, Any] = {
    "head": (str | list[str], ()),
    "depth": (list[str | list[str]], ()),
}


def entries_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a config, by name; none where it has none, or no mapping in their place."""
    optimizer = config.get("optimizer")
    entries = optimizer.get("param_groups") if isinstance(optimizer, Mapping) else None
    return dict(entries) if isinstance(entries, Mapping) else {}


def key_of(entry: str, *names: str) -> str:
    """The key of an entry, or of something in it; of all entries, where it has no name."""
    return ".".join(x for x in (ENTRIES, entry, *names) if x)


def schedules_of(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Entries that have a schedule of their own -> its node; an empty one keeps their values constant."""
    return {
        name: entry["scheduler"]
        for name, entry in entries_of(config).items()
        if isinstance(entry, Mapping) and isinstance(entry.get("scheduler"), Mapping)
    }


def structure_of(config: Mapping[str, Any]) -> Structure:
    """What the model of a checked config says of itself."""
    return Structure(**config["model"].get("structure") or {})


def pace_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What all schedules of a run have in common: interval and metric, where one of them says it.

    The run's scheduler says it before those of entries; its interval, where it leaves that out, is the step.
    """
    own = config.get("scheduler")
    first = {"interval": "step", **own} if own and isinstance(own, Mapping) else {}
    nodes = [first, *schedules_of(config).values()]
    return {
        key: given[0] for key in AT_THE_TOP if (given := [x[key] for x in nodes if x.get(key) is not None])
    }


def unfreezing(config: Mapping[str, Any], run: RunLength) -> dict[str, int | None]:
    """Key -> the step after which an entry is trained, of every entry; None where that is not said."""
    return {
        key_of(name, "unfreeze_at"): None if (given := entry.get("unfreeze_at")) is None else run.count(given)
        for name, entry in entries_of(config).items()
    }


def mistakes_in_groups(config: Mapping[str, Any], plugins: Collection[str]) -> list[Mistake]:
    """What is wrong with the entries of a config, as far as that is known without its model."""
    optimizer = config["optimizer"]
    beside = {key: value for key, value in optimizer.items() if key in _OF_OPTIMIZER}
    found = unlike(_OF_OPTIMIZER, beside, "optimizer.")
    entries = entries_of(config)
    found += [Mistake(key_of(key), _in_yaml(what)) for key, what in mistakes(entries)]
    for name, entry in entries.items():
        if isinstance(entry, Mapping) and "." not in name:
            found += _mistakes_in_entry(entry, key_of(name), given_to("optimizer", optimizer), plugins)
            found += _unsaid(entry, key_of(name), config.get("model"))
    return [*found, *_wrong_pace(config)]


def _in_yaml(what: str) -> str:
    """A message, with the value that it begins with as YAML has it where Python calls it otherwise."""
    first, space, rest = what.partition(" ")
    return {"None": "null", "True": "true", "False": "false"}.get(first, first) + space + rest


def _mistakes_in_entry(
    entry: Mapping[str, Any], key: str, optimizer: Mapping[str, Any], plugins: Collection[str]
) -> Iterator[Mistake]:
    """What is wrong with what an entry sets.

    Args:
        optimizer: the run's, whose hyperparameters the entry has where it has no algorithm of its own.
    """
    yield from unlike({"unfreeze_at": (Steps | None, None)}, _only(entry, ["unfreeze_at"]), f"{key}.")
    kinds, supplied = (kind_of("optimizer"),), SUPPLIED["optimizer"]
    own, schedule = entry.get("optimizer"), entry.get("scheduler")
    if isinstance(own, Mapping):
        yield from mistakes_in(own, f"{key}.optimizer.", kinds, supplied, plugins)
    elif own is not None:
        allowed = "a mapping with _target_, an algorithm of its own"
        yield Mistake(f"{key}.optimizer", f"{shown(own)} is not allowed; allowed: {allowed}")
    if isinstance(schedule, Mapping):
        yield from mistakes_in_schedule(schedule, f"{key}.scheduler", AT_THE_TOP, plugins)
    elif schedule is not None:
        allowed = "a schedule, as scheduler has it; {} keeps the values, null is the run's schedule"
        yield Mistake(f"{key}.scheduler", f"{shown(schedule)} is not allowed; allowed: {allowed}")
    if "_target_" in entry:
        where = f"an algorithm of its own stands in {key}.optimizer, as optimizer has it"
        yield Mistake(f"{key}._target_", f"{where}; {key}.optimizer._target_")
    options = {
        name: value
        for name, value in entry.items()
        if value is not None and name not in (*TAKING, *BESIDE, "_target_")
    }
    # What the constructor says of them among the values that the entry leaves as they are.
    whole = {**(own if isinstance(own, Mapping) else optimizer), **options}
    known = (*BESIDE, *TAKING)
    for mistake in mistakes_in(whole, f"{key}.", kinds, supplied, plugins, known):
        if mistake.key.removeprefix(f"{key}.").partition("[")[0].partition(".")[0] in options:
            yield mistake


def _unsaid(entry: Mapping[str, Any], key: str, model: Any) -> Iterator[Mistake]:
    """What an entry asks of a model whose YAML does not say it."""
    said = model.get("structure") if isinstance(model, Mapping) else None
    said = said if isinstance(said, Mapping) else {}
    where = "in the model's YAML, patterns as of params"
    if "head" in kinds_in(entry) and not said.get("head"):
        yield Mistake(
            key, f'the head is asked for; say what it is in model.structure.head, as "fc.*" {where}'
        )
    if entry.get("layer_decay") is not None and not said.get("depth"):
        what = "layers are asked for; say what they are in model.structure.depth"
        yield Mistake(f"{key}.layer_decay", f"{what}, a list from the input to the output {where}")


def _wrong_pace(config: Mapping[str, Any]) -> Iterator[Mistake]:
    """Schedules of entries that would go on at other times than the rest."""
    common = pace_of(config)
    for name, node in schedules_of(config).items():
        for key in AT_THE_TOP:
            if node.get(key) is not None and node[key] != common[key]:
                what = f"{node[key]!r} is not {common[key]!r}, as the schedules before it have it"
                yield Mistake(
                    key_of(name, "scheduler", key), f"{what}; all schedules of a run go on together"
                )


def mistakes_in_structure(model: Mapping[str, Any]) -> list[Mistake]:
    """What is wrong with `structure` of a model, as far as that is known without the model."""
    said = model.get("structure")
    if said is None:
        return []
    if not isinstance(said, Mapping):
        return [
            Mistake("model.structure", f"{shown(said)} is not allowed; allowed: a mapping of head and depth")
        ]
    found = unlike(_OF_STRUCTURE, said, "model.structure.")
    return found or [Mistake(f"model.structure.{x}", y) for x, y in wrong_structure(Structure(**said))]


def unfitting_structure(structure: Structure, model: nn.Module) -> Iterator[Mistake]:
    """Patterns of a structure that no parameter of the model fits.

    A numbered layer may be there no times, unless some parameters are in no layer.
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    layers = [pattern for patterns in structure.depth for pattern in listed(patterns)]
    complete = all(fits(layers, name) for name in names) if layers else True
    said = {"head": structure.head} | {f"depth[{i}]": x for i, x in enumerate(structure.depth)}
    for key, patterns in said.items():
        for pattern in listed(patterns):
            may_be_none = key != "head" and pattern.startswith(REGEX) and complete
            if not may_be_none and not any(fits(pattern, name) for name in names):
                what = f"{pattern!r} is the name of no parameter; the model has {', '.join(names[:6])}"
                yield Mistake(f"model.structure.{key}", what + (", ..." if len(names) > 6 else ""))


def never_trained(groups: Collection[Group], steps: int) -> Iterator[Mistake]:
    """Parameters that begin to be trained when the run is over, and steps in which nothing is trained.

    Args:
        groups: those of the model, with `unfreeze_at` in steps of the optimizer.
        steps: of the run.
    """
    begins = {x.name: x.settings.get("unfreeze_at", 0) for x in groups if not x.is_never_trained}
    told = set()
    for group in groups:
        at = begins.get(group.name, 0)
        if at >= steps and group.entry is not None and group.entry not in told:
            told.add(group.entry)
            what = f"it would be trained after step {at}, and the run has {steps} steps"
            yield Mistake(key_of(group.entry, "unfreeze_at"), f"{what}; lower it, or set freeze: true")
    first = min(begins.values(), default=0)
    if first > 0 and not told:
        what = f"nothing is trained before step {first + 1}: every parameter is frozen"
        yield Mistake(ENTRIES, f"{what}; train something from the beginning")


def values_in(optimizer: Optimizer, name: str) -> dict[str, float]:
    """A hyperparameter of an optimizer's groups, by what they are called; NaN where one has none such."""
    groups = optimizer.param_groups
    return {str(x.get("name", i)): float(place.read(x, name)) for i, x in enumerate(groups)}


def one_for_several(
    key: str, value: Any, name: str, own: Mapping[str, float], instead: str = ""
) -> Iterator[Mistake]:
    """What is wrong with one value for groups that have several, of which nothing would be left.

    Args:
        key, value: where it is given, and what; a list has one for each group.
        name: of the hyperparameter.
        own: what each group has, as of `values_in`.
        instead: what else than a list may be given, in words.
    """
    there = {group: x for group, x in own.items() if not isnan(x)}
    if isinstance(value, list) or len({*there.values()}) < 2:
        return
    some = ", ".join(f"{group} {x:.4g}" for group, x in [*there.items()][:8]) + ", ..." * (len(there) > 8)
    what = f"{value} would be the {name} of all groups, which have their own ({some})"
    yield Mistake(key, f"{what}; give {instead}a list of {len(own)}, one for each group")


def _only(values: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: values[key] for key in keys if key in values}
