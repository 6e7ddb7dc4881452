"""Saved states found by the names of their parameters, wherever these stand now."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor

Group = dict[str, Any]
StateDict = dict[str, Any]

# More names than these are counted.
SHOWN = 5


@dataclass(frozen=True)
class Needs:
    """What an algorithm's saved groups and states have, by which they are told from those of others.

    Attributes:
        options: keys of every group.
        states: names of what is kept of a parameter, in a group with given options.
        span: whether tensors of a state have the parameter's shape together; of others nothing is known.
    """

    options: Collection[str]
    states: Callable[[Group], Collection[str]]
    span: bool


def by_name(groups: Sequence[Group], needs: Sequence[Needs], state_dict: StateDict) -> StateDict:
    """A state_dict laid out as some parameter groups are, each state with the parameter of its name.

    Groups take the options saved of the group of the same `name`; where either has no name, of the group in
    the same place, if there are as many; else they keep theirs. What does not match is told in one warning.
    Without names of all parameters on both sides, and where nothing has moved, it is returned as it is.

    Args:
        groups: parameter groups that load.
        needs: of the algorithm of each group.
        state_dict: what was saved.
    """
    saved: Sequence[Group] = state_dict["param_groups"]
    here, there = _names(groups), _names(saved)
    same_places = _lengths(groups) == _lengths(saved)
    if here is None or there is None:
        return _keeping(("name",), groups, state_dict) if same_places else state_dict
    fits = same_places and _fits(groups, needs, state_dict)
    if fits and here == there:
        return _keeping(("name",), groups, state_dict)
    if (same_places and not fits) or {*here} & {*there}:
        return _laid_out(groups, needs, state_dict)
    if not same_places:
        return state_dict
    warnings.warn(
        "a state was loaded by position, since no parameter has a name of those saved: "
        f"here {_listed(here)}; saved {_listed(there)}",
        stacklevel=2,
    )
    return _keeping(("name", "param_names"), groups, state_dict)


def _fits(groups: Sequence[Group], needs: Sequence[Needs], state_dict: StateDict) -> bool:
    """Whether states can be taken over in their places: they are of these algorithms and shapes."""
    held = state_dict["state"]
    return all(
        _holds(saved, needed.options)
        and all(
            not _lacking(needed, saved, held.get(i)) and _is_of_shape(needed, held.get(i), p.shape)
            for i, p in zip(saved["params"], group["params"], strict=True)
        )
        for group, needed, saved in zip(groups, needs, state_dict["param_groups"], strict=True)
    )


def _laid_out(groups: Sequence[Group], needs: Sequence[Needs], state_dict: StateDict) -> StateDict:
    """What was saved in the order of here; see `by_name`."""
    saved: Sequence[Group] = state_dict["param_groups"]
    sources = {name: (i, group) for group in saved for name, i in _members(group)}
    told = _Told(dropped={**sources})
    # Programs keep entries of their own, which are not of parameters.
    state = {i: held for i, held in state_dict["state"].items() if not isinstance(i, int)}
    found: list[Group] = []
    positions = count()
    for index, (group, needed) in enumerate(zip(groups, needs, strict=True)):
        options = _options_of(index, groups, saved)
        options = options if _holds(options, needed.options) else {}
        found.append(
            group | options | _called(group) | {"params": [next(positions) for _ in group["params"]]}
        )
        for position, (name, p) in zip(found[-1]["params"], _members(group), strict=True):
            i, source = sources.get(name, (None, {}))
            held = state_dict["state"].get(i)
            told.dropped.pop(name, None)
            if i is None:
                told.new.append(name)
            elif held is not None and (not _holds(source, needed.options) or _lacking(needed, source, held)):
                told.other.append(name)
            elif held is not None and not _is_of_shape(needed, held, p.shape):
                told.reshaped.append(name)
            elif held is not None:
                state[position] = held
    told.tell()
    return state_dict | {"state": state, "param_groups": found}


def check_places(groups: Sequence[Group], needs: Sequence[Needs], state_dict: StateDict) -> None:
    """Refuse a state of other parameters, in torch's words, or of other algorithms.

    Args:
        groups, needs: as of `by_name`.
        state_dict: laid out as they are.

    Raises:
        ValueError: the groups, or the parameters of one, are not as many, or lack what the algorithms keep.
    """
    ours, theirs = _lengths(groups), _lengths(state_dict["param_groups"])
    if len(ours) != len(theirs):
        raise ValueError("loaded state dict has a different number of parameter groups")
    if ours != theirs:
        raise ValueError(
            "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
        )
    told = []
    for i, (group, needed, saved) in enumerate(zip(groups, needs, state_dict["param_groups"], strict=True)):
        missing = {*needed.options} - saved.keys()
        missing |= {x for j in saved["params"] for x in _lacking(needed, saved, state_dict["state"].get(j))}
        if missing:
            told.append(f"group {group.get('name', i)} lacks {', '.join(sorted(missing))}")
    if told:
        raise ValueError(f"loaded state dict was saved by other algorithms: {'; '.join(told)}")


@dataclass
class _Told:
    """Names that did not match, by the reason."""

    dropped: dict[str, Any]
    new: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def tell(self) -> None:
        parts = (
            ("not saved, so that it begins anew", self.new),
            ("saved, but not here, so that it is dropped", [*self.dropped]),
            ("saved of another shape, so that it begins anew", self.reshaped),
            ("saved by another algorithm, so that it begins anew", self.other),
        )
        if lines := [f"{what}: {_listed(names)}" for what, names in parts if names]:
            warnings.warn("a state was loaded by names: " + "; ".join(lines), stacklevel=2)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _names(groups: Sequence[Group]) -> list[str] | None:
    """Names of all parameters in order; None where some have none, or two have the same."""
    if not all("param_names" in group for group in groups):
        return None
    names = [name for group in groups for name in group["param_names"]]
    return names if len({*names}) == len(names) == sum(_lengths(groups)) else None


def _members(group: Group) -> list[tuple[str, Any]]:
    """Names of the parameters, each with the parameter, or with its index where the group is a saved one."""
    return [*zip(group["param_names"], group["params"], strict=True)]


def _called(group: Group) -> Group:
    """What a group and its parameters are called, where they have names."""
    return {key: group[key] for key in ("name", "param_names") if key in group}


def _keeping(names: Sequence[str], groups: Sequence[Group], state_dict: StateDict) -> StateDict:
    """A state_dict of as many parameters, whose groups are called what they are called here."""
    found = [
        saved | {name: group[name] for name in names if name in group}
        for saved, group in zip(state_dict["param_groups"], groups, strict=True)
    ]
    return state_dict | {"param_groups": found}


def _lengths(groups: Sequence[Group]) -> list[int]:
    return [len(group["params"]) for group in groups]


def _holds(options: Group, keys: Collection[str]) -> bool:
    return all(key in options for key in keys)


def _lacking(needed: Needs, options: Group, held: Any) -> set[str]:
    """What an algorithm keeps that a state has not; nothing where there is none yet."""
    return {*needed.states(options)} - held.keys() if isinstance(held, dict) and held else set()


def _options_of(index: int, groups: Sequence[Group], saved: Sequence[Group]) -> Group:
    """What was saved for a group, if anything was."""
    if "name" in groups[index] and any("name" in group for group in saved):
        return next((group for group in saved if group.get("name") == groups[index]["name"]), {})
    return saved[index] if len(groups) == len(saved) else {}


def _is_of_shape(needed: Needs, held: Any, shape: torch.Size) -> bool:
    """Whether a state is of a parameter of a shape: sums over rows and columns span it together."""
    if not needed.span:
        return True
    shapes = [x.shape for x in held.values() if isinstance(x, Tensor)] if isinstance(held, dict) else []
    try:
        return not shapes or torch.broadcast_shapes(*shapes) == shape
    except RuntimeError:
        return False
