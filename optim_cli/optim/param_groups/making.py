"""From groups to the optimizer, or the several in one, that trains them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from sys import float_info
from typing import Any

import torch
from torch import nn

from optim_cli.optim.hyperparameters import check_ranges
from optim_cli.optim.multi import MultiOptimizer, wants_closure
from optim_cli.optim.optimizer import Optimizer
from optim_cli.optim.param_groups.conditions import did_you_mean
from optim_cli.optim.param_groups.entries import Group, WrongGroups
from optim_cli.optim.param_groups.unfreezing import let_train

# A class of optimizers, or a function that makes one, with what it is called with besides parameters.
Make = Callable[..., torch.optim.Optimizer]

# Options that an optimizer has as a whole, whatever its groups say.
_OF_THE_WHOLE = ("differentiable", "initial_accumulator_value")


def make_optimizer(groups: Sequence[Group], optimizer: Make) -> torch.optim.Optimizer:
    """Make one optimizer of groups; where they want several algorithms, a MultiOptimizer.

    Groups of one algorithm of ours are in one part, so that they share launches, unless they differ in what
    an optimizer has as a whole. Parameter groups have the name of their group as `name`, and `param_names`.
    Frozen parameters have no gradient from now on; those that are never unfrozen are left out.

    Args:
        groups: as of `split`. `settings["optimizer"]` is the algorithm of a group, as `optimizer` is.
        optimizer: the algorithm of the others: a class, or `functools.partial(AdamW, lr=1e-3)`.

    Raises:
        WrongGroups: options or parameters that the algorithm of an entry does not take, algorithms that
            cannot step beside each other, or nothing to train; the model is then as it was.
        ValueError: what the algorithm of the others does not take.
    """
    trained = [x for x in groups if not x.is_never_trained]
    if not trained:
        raise WrongGroups([("", "every parameter is frozen, so that there is nothing to train")])
    algorithms: dict[int, _Algorithm] = {}
    found: list[tuple[str, str]] = []
    wrong: set[str | None] = set()
    for entry, members in _by_entry(groups).items():
        make = _make_of(members[0], optimizer)
        try:
            algorithms.setdefault(id(make), _Algorithm(make, make([_probed()])))
        except (ValueError, TypeError, RuntimeError) as error:
            if make is optimizer:
                raise
            told = [(f"{entry}.optimizer", str(error))]
        else:
            told = [*_mistakes(algorithms[id(make)], members[0])]
        found += told
        wrong |= {entry} if told else set()
    right = [(algorithms[id(_make_of(x, optimizer))], x) for x in trained if x.entry not in wrong]
    parts: dict[object, list[tuple[_Algorithm, Group]]] = {}
    for algorithm, group in right:
        parts.setdefault(algorithm.family, []).append((algorithm, group))
    found += _refused(right, alone=len(parts) == 1)
    if found:
        raise WrongGroups(found)
    made = [_made(members, optimizer) for members in parts.values()]
    whole = made[0] if len(made) == 1 else MultiOptimizer(made)
    for group in groups:
        if group.is_frozen:
            let_train(group.parameters.values(), trained=False)
    return whole


@dataclass(frozen=True)
class _Algorithm:
    """What makes optimizers, with one that it has made of a parameter of nobody."""

    make: Make
    probe: torch.optim.Optimizer

    @property
    def ours(self) -> bool:
        return isinstance(self.probe, Optimizer)

    @property
    def name(self) -> str:
        return type(self.probe).__name__

    @property
    def defaults(self) -> dict[str, Any]:
        """The options of groups that say nothing."""
        defaults: dict[str, Any] = self.probe.defaults
        return defaults

    @property
    def family(self) -> object:
        """What groups must have in common to be in one optimizer."""
        if not self.ours:
            return id(self.make)
        return type(self.probe), *(self.defaults.get(x) for x in _OF_THE_WHOLE)


def _make_of(group: Group, optimizer: Make) -> Make:
    make: Make = group.settings.get("optimizer", optimizer)
    return make


def _probed() -> nn.Parameter:
    """A parameter that every algorithm takes, as it is a matrix."""
    return nn.Parameter(torch.zeros(1, 1))


def _by_entry(groups: Sequence[Group]) -> dict[str | None, list[Group]]:
    """The groups of each entry, which has one or one for every layer."""
    found: dict[str | None, list[Group]] = {}
    for group in groups:
        found.setdefault(group.entry, []).append(group)
    return found


def _mistakes(algorithm: _Algorithm, group: Group) -> Iterator[tuple[str, str]]:
    """Settings of a group that have no meaning, or that its algorithm refuses."""
    probe, defaults = algorithm.probe, algorithm.defaults
    own = _own(group)
    known = [x for x in defaults if x not in ("foreach", "fused")]
    if isinstance(probe, Optimizer):  # which take more than is among the defaults
        known += ["implementation", *(x for x in probe.beyond_torch if x not in defaults)]
    wrong = False
    for key, value in own.items():
        what = ""
        if key not in (*known, *defaults):
            hint = did_you_mean(key, known)
            what = f"{algorithm.name} has no such option{hint} (known: {', '.join(known)})"
        elif algorithm.ours:
            try:
                check_ranges(type(probe), {key: value})
            except (ValueError, TypeError) as error:
                what = str(error)
        if what:
            wrong = True
            yield f"{group.entry}.{key}", what
    if group.lr_scale != 1.0 and "lr" not in defaults:
        yield f"{group.entry}.lr_scale", f"{algorithm.name} has no lr that it could scale"
    begins = group.settings.get("unfreeze_at", 1)
    if not isinstance(begins, int) or isinstance(begins, bool) or begins < 1:
        yield f"{group.entry}.unfreeze_at", f"{begins!r} is not allowed; allowed: a number of steps >= 1"
    if isinstance(probe, Optimizer) and own and not wrong:
        try:
            probe._check_options(defaults | own)
            probe.add_param_group({"params": [_probed()], **own})
        except (ValueError, RuntimeError) as error:
            yield str(group.entry), str(error)


def _refused(members: Sequence[tuple[_Algorithm, Group]], alone: bool) -> Iterator[tuple[str, str]]:
    """What algorithms do not take: parameters of entries, or others beside them."""
    algorithms = {group.entry: algorithm for algorithm, group in members}
    for entry, groups in _by_entry([group for _, group in members]).items():
        algorithm = algorithms[entry]
        if not alone and wants_closure(algorithm.probe):
            what = f"{algorithm.name} evaluates a closure in its step, so that no other can step beside it"
            yield f"{entry}.optimizer" if entry and "optimizer" in groups[0].settings else "", what
        elif entry is not None:
            try:
                given = [_param_group(group, algorithm, algorithm) for group in groups]
                # As one group, so that all of them are named together.
                algorithm.make([given[0] | {"params": [named for x in given for named in x["params"]]}])
            except (ValueError, TypeError, RuntimeError) as error:
                yield entry, str(error)


def _made(members: Sequence[tuple[_Algorithm, Group]], optimizer: Make) -> torch.optim.Optimizer:
    """The optimizer of some groups; its own values are those of the run's, if that is one of them."""
    every = [algorithm for algorithm, _ in members]
    base = next((x for x in every if x.make is optimizer), every[0])
    return base.make([_param_group(group, algorithm, base) for algorithm, group in members])


def _param_group(group: Group, algorithm: _Algorithm, base: _Algorithm) -> dict[str, Any]:
    """What an optimizer is given.

    Args:
        base: what the group has the values of where it says nothing.

    Raises:
        ValueError: the group would have an infinite rate.
    """
    own = given = _own(group)
    if algorithm is not base:
        # Options that torch lacks are among the defaults only where they are set.
        parameters = inspect.signature(type(algorithm.probe)).parameters
        unset = {name: parameters[name].default for name in base.defaults if name not in algorithm.defaults}
        given = unset | algorithm.defaults | own
    if "implementation" in own:  # says what the two switches of torch say
        given = {name: x for name, x in given.items() if name not in ("foreach", "fused")}
    if group.lr_scale != 1.0:
        rate = own.get("lr", algorithm.defaults["lr"]) * group.lr_scale
        if rate > float_info.max:
            raise ValueError(f"its learning rate times {group.lr_scale:g} is {rate:g}; lower lr or lr_scale")
        given = given | {"lr": rate}
    return {"params": [*group.parameters.items()], "name": group.name, **given}


def _own(group: Group) -> dict[str, Any]:
    """The hyperparameters of a group; pairs come as lists from YAML and JSON, torch stores tuples."""
    return {name: tuple(x) if isinstance(x, list) else x for name, x in group.hyperparameters.items()}
