"""What is wrong with a schedule as a whole, though each of its values is right."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from torch.optim import Optimizer

from optim_cli.config.durations import is_counted, is_moment
from optim_cli.config.groups import one_for_several, values_in
from optim_cli.config.mistakes import Mistake, did_you_mean
from optim_cli.config.schedules import Plan, Single
from optim_cli.config.targets import hints_of
from optim_cli.optim.lr_scheduler import place
from optim_cli.optim.lr_scheduler.momentum import momenta_of
from optim_cli.optim.lr_scheduler.onecycle import OneCycleLR
from optim_cli.optim.lr_scheduler.swa import SWALR
from optim_cli.training.scheduling import Pace, takes_metric

# Schedules that set a hyperparameter to values of their own -> what gives them; torch's are called the same.
_SETS = {"OneCycleLR": "max_lr", "CyclicLR": "max_lr", "SWALR": "swa_lr"}


def contradictions(
    plans: Sequence[tuple[Plan, Optimizer]], pace: Pace, metrics: Collection[str]
) -> list[Mistake]:
    """Lengths beyond the run, parts that never act, a metric or hyperparameter that there is not.

    Args:
        plans: what the schedules of the config come to, each with that whose hyperparameters it sets.
        pace: how they go on.
        metrics: those that evaluations of this run give.
    """
    found = [
        mistake
        for plan, optimizer in plans
        for mistake in (
            *_unfitting(plan, pace.interval, f"the run has {plan.steps}"),
            *_without_effect(plan, optimizer),
            *_colliding(plan),
            *_unknown_hyperparameters(plan, optimizer),
            *_levelling(plan, optimizer),
        )
    ]
    return [*found, *_wrong_metric([plan for plan, _ in plans], pace, metrics)]


def _unfitting(plan: Plan, unit: str, there: str) -> Iterator[Mistake]:
    """Durations that do not fit into what they are in, and parts that are left without a step.

    Args:
        there: how many steps there are, in words.
    """
    if plan.single is not None:
        yield from _values_too_long(plan, plan.single, unit, there)
    for part in plan.parts:
        yield from _unfitting(part, unit, f"{part.key} has {part.steps}")
    if plan.form != "sequence" or plan.steps <= 0:
        return
    done = 0
    for part in plan.parts:
        before = f"the {done} of the parts before it, and {there}"
        if done >= plan.steps:
            yield Mistake(part.key, f"never acts: it comes after {before}")
        elif part.length is not None and done + part.length > plan.steps:
            yield Mistake(f"{part.key}.length", f"too long: it is {part.length} {unit}s after {before}")
        done += part.length or 0
    if part.length is not None and done < plan.steps:
        left_out = "leave out this length, or let a ConstantLR follow"
        yield Mistake(
            f"{part.key}.length", f"too short: the parts make {done} {unit}s, and {there}; {left_out}"
        )


def _values_too_long(plan: Plan, single: Single, unit: str, there: str) -> Iterator[Mistake]:
    """Durations of a schedule that are longer than it, and times in a list at which it is over."""
    for name, hint in hints_of(single.target).items():
        if not is_counted(hint):
            continue
        key, value, given = f"{plan.key}.{name}", single.values.get(name), single.given.get(name)
        if isinstance(value, list):
            if not value:
                yield Mistake(key, "[] has no step in it, so that the schedule never acts")
            for index, (count, written) in enumerate(zip(value, given or (), strict=True)):
                if count >= plan.steps > 0:
                    yield Mistake(f"{key}[{index}]", _too_late(written, count, unit, there))
        elif is_moment(hint) and value == plan.steps > 1:
            yield Mistake(key, _too_late(given, value, unit, there))
        elif value is not None and value > plan.steps > 0:
            shown = "epochs times steps_per_epoch" if given is None else repr(given)
            yield Mistake(key, f"{shown} is too long: it makes {value} {unit}s, and {there}")


def _too_late(written: Any, count: int, unit: str, there: str) -> str:
    return f"{written!r} never acts: it is after {count} {unit}s, and {there}"


def _without_effect(plan: Plan, optimizer: Optimizer) -> Iterator[Mistake]:
    """Parts of a chain that a later one undoes, as it sets the same outright."""
    for index, part in enumerate(plan.parts):
        yield from _without_effect(part, optimizer)
        later = plan.parts[index + 1 :] if plan.form == "chain" else ()
        undone = {name: x.key for x in later for name in _set_outright(x, optimizer)}
        scheduled = _scheduled(part, optimizer)
        if scheduled <= undone.keys():
            by = " and ".join(dict.fromkeys(undone[x] for x in sorted(scheduled)))
            names = " and ".join(sorted(scheduled))
            yield Mistake(part.key, f"never acts: {by} comes after it and sets {names} outright")


def _colliding(plan: Plan) -> Iterator[Mistake]:
    """Schedules that share what they keep in the optimizer's parameter groups, under the names of torch's."""
    told = list(_replacing_the_start(plan))
    yield from told
    first: dict[tuple[Any, str], str] = {}
    for key, single in plan.singles():
        kind, name = single.target, single.hyperparameter
        other = first.setdefault((kind, name), key)
        if kind in (OneCycleLR, SWALR) and other != key and key not in {x.key for x in told}:
            kept = f"its values of {name} in the parameter groups, as {other} does"
            yield Mistake(key, f"a second {kind.__name__} keeps {kept}; a schedule can have one of them")


def _replacing_the_start(plan: Plan) -> Iterator[Mistake]:
    """Cycles in a sequence that change the initial value which other parts go out from."""
    for part in plan.parts:
        yield from _replacing_the_start(part)
        others = [x for x in plan.parts if x is not part] if plan.form == "sequence" else []
        for key, cycle in part.singles():
            name = cycle.hyperparameter
            beside = [x.key for x in others for _, y in x.singles() if y.hyperparameter == name]
            if cycle.target is OneCycleLR and beside:
                by = " and ".join(dict.fromkeys(beside))
                instead = "use LinearLR and CosineAnnealingLR, which do not"
                yield Mistake(
                    key, f"OneCycleLR replaces the initial {name}, which {by} would start from; {instead}"
                )


def _scheduled(plan: Plan, optimizer: Optimizer) -> set[str]:
    """Hyperparameters that a schedule changes, with the momentum that is cycled."""
    if plan.single is None:
        return set().union(*(_scheduled(part, optimizer) for part in plan.parts))
    name = plan.single.hyperparameter
    cycles = plan.single.values.get("cycle_momentum", "cycle_momentum" in _parameters(plan.single))
    return {name, *momenta_of(optimizer)} if cycles and name == "lr" else {name}


def _set_outright(plan: Plan, optimizer: Optimizer) -> set[str]:
    """Those that it sets at every step, whatever they were."""
    if plan.single is not None:
        return _scheduled(plan, optimizer) if getattr(plan.single.target, "outright", False) else set()
    sets = [_set_outright(part, optimizer) for part in plan.parts]
    return set.union(*sets) if plan.form == "chain" else set.intersection(*sets)


def _unknown_hyperparameters(plan: Plan, optimizer: Optimizer) -> Iterator[Mistake]:
    known = place.known(optimizer)
    whose = type(getattr(optimizer, "whole", optimizer)).__name__
    for key, single in plan.singles():
        name = single.hyperparameter
        if name not in known and "hyperparameter" in _parameters(single):
            yield Mistake(
                f"{key}.hyperparameter",
                f"{name!r} is none of {whose}'s{did_you_mean(name, known)} (it has {', '.join(known)})",
            )


def _levelling(plan: Plan, optimizer: Optimizer) -> Iterator[Mistake]:
    """One value for all parameter groups, where they have several."""
    for key, single in plan.singles():
        argument, name = _SETS.get(single.target.__name__, ""), single.hyperparameter
        may_be_none = argument != "" and inspect.signature(single.target).parameters[argument].default is None
        instead = "null, with which the highest of each is its own, or " if may_be_none else ""
        given = single.values.get(argument)
        if given is not None:
            own = values_in(optimizer, name)
            yield from one_for_several(f"{key}.{argument}", given, name, own, instead)


def _wrong_metric(plans: Sequence[Plan], pace: Pace, metrics: Collection[str]) -> Iterator[Mistake]:
    metric = pace.metric
    singles = [(plan.key, single) for plan in plans for _, single in plan.singles()]
    following = [(key, x.target.__name__) for key, x in singles if _follows(x)]
    key, name = next(iter(following), (plans[0].key, ""))
    there = f"(evaluations give {', '.join(metrics)})"
    if pace.interval == "epoch" and len(following) == len(singles):
        what = f"nothing is stepped by epoch: {name} acts on its metric, after evaluations"
        yield Mistake(f"{key}.interval", f"{what}; leave it out")
    if metric is None:
        if following:
            yield Mistake(f"{key}.metric", f"missing; {name} follows one {there}")
    elif not following:
        yield Mistake(f"{key}.metric", f"{metric!r} is given, but no schedule here follows a metric")
    elif metric not in metrics:
        yield Mistake(
            f"{key}.metric", f"{metric!r} is no metric of this run{did_you_mean(metric, metrics)} {there}"
        )


def _follows(single: Single) -> bool:
    """Whether a schedule acts on a metric."""
    step = getattr(single.target, "step", None)
    return step is not None and takes_metric(step)


def _parameters(single: Single) -> Collection[str]:
    return inspect.signature(single.target).parameters
