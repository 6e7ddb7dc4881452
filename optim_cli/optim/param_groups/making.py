"""From groups to the optimizer, or the several in one, that trains them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import nn

from optim_cli.optim.hyperparameters import check_ranges
from optim_cli.optim.multi import MultiOptimizer
from optim_cli.optim.optimizer import Optimizer
from optim_cli.optim.param_groups.entries import Group, WrongGroups

# A class of optimizers, or a function that makes one, with what it is called with besides parameters.
Make = Callable[..., torch.optim.Optimizer]


def make_optimizer(groups: Sequence[Group], optimizer: Make) -> torch.optim.Optimizer:
    """Make one optimizer of groups; where they want several algorithms, a MultiOptimizer.

    Groups of one algorithm of ours are in one part, so that they share launches. Parameter groups have the
    name of their group as `name`, and `param_names`. Frozen parameters need no gradient from now on; those
    that are never unfrozen are left out.

    Args:
        groups: as of `split`. `settings["optimizer"]` is the algorithm of a group, as `optimizer` is.
        optimizer: the algorithm of the others: a class, or `functools.partial(AdamW, lr=1e-3)`.

    Raises:
        WrongGroups: options that an algorithm lacks, values that it refuses, or nothing to train.
        ValueError: what an algorithm refuses besides, as Muon what is no matrix.
    """
    for group in groups:
        if group.is_frozen:
            for parameter in group.parameters.values():
                parameter.requires_grad_(False)
    trained = [x for x in groups if not x.is_frozen or "unfreeze_at" in x.settings]
    if not trained:
        raise WrongGroups([("", "every parameter is frozen, so that there is nothing to train")])
    parts: dict[object, list[tuple[Make, Group]]] = {}
    for group in trained:
        make = group.settings.get("optimizer", optimizer)
        parts.setdefault(_algorithm(make), []).append((make, group))
    found = [x for members in parts.values() for x in _mistakes(members)]
    if found:
        raise WrongGroups(found)
    made = [_make(members) for members in parts.values()]
    return made[0] if len(made) == 1 else MultiOptimizer(made)


def _algorithm(make: Make) -> object:
    """What parameters must have in common to be in one optimizer."""
    called = make.func if isinstance(make, partial) else make
    return called if inspect.isclass(called) and issubclass(called, Optimizer) else make


def _make(members: Sequence[tuple[Make, Group]]) -> torch.optim.Optimizer:
    first, _ = members[0]
    defaults = {id(make): _defaults(make) for make, _ in members}
    return first([_param_group(group, defaults[id(make)], make is first) for make, group in members])


def _param_group(group: Group, defaults: dict[str, Any], inherits: bool) -> dict[str, Any]:
    """What an optimizer is given.

    Args:
        defaults: the options of the group's algorithm, where it sets none itself.
        inherits: whether the optimizer has these defaults, so that they need not be said.
    """
    # Pairs come as lists from YAML and JSON; torch stores tuples.
    own = {name: tuple(x) if isinstance(x, list) else x for name, x in group.hyperparameters.items()}
    given = own if inherits else defaults | own
    if "implementation" in own:  # says what the two switches of torch say
        given = {name: x for name, x in given.items() if name not in ("foreach", "fused")}
    if group.lr_scale != 1.0:
        given = given | {"lr": own.get("lr", defaults["lr"]) * group.lr_scale}
    return {"params": [*group.parameters.items()], "name": group.name, **given}


def _defaults(make: Make) -> dict[str, Any]:
    """The options of an optimizer that are its groups' where they say nothing."""
    # One that every algorithm takes, as it is a matrix.
    defaults: dict[str, Any] = make([nn.Parameter(torch.zeros(1, 1))]).defaults
    return defaults


def _mistakes(members: Sequence[tuple[Make, Group]]) -> Iterator[tuple[str, str]]:
    """Options that algorithms lack or refuse; of the groups that an entry is split into, once."""
    told: set[str | None] = set()
    for make, group in members:
        if group.entry in told:
            continue
        told.add(group.entry)
        algorithm = _algorithm(make)
        defaults = _defaults(make)
        ours = inspect.isclass(algorithm) and issubclass(algorithm, Optimizer)
        known = [name for name in defaults if name not in ("foreach", "fused")] + ["implementation"] * ours
        name = getattr(algorithm, "__name__", "its optimizer")
        for key, value in group.hyperparameters.items():
            if key not in (*known, *defaults):
                near = get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                yield f"{group.entry}.{key}", f"{name} has no such option{hint} (known: {', '.join(known)})"
            elif ours:
                try:
                    check_ranges(algorithm, {key: tuple(value) if isinstance(value, list) else value})  # type: ignore[arg-type]
                except ValueError as error:
                    yield f"{group.entry}.{key}", str(error)
        if group.lr_scale != 1.0 and "lr" not in defaults:
            yield f"{group.entry}.lr_scale", f"{name} has no lr that it could scale"
