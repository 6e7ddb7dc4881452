"""Entries: what of a model they take, and what they set for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from sys import float_info
from typing import Any

from torch import nn

from optim_cli.optim.param_groups.conditions import (
    REGEX,
    TAKING,
    Subject,
    holds,
    kinds_in,
    listed,
    mistakes_in,
    subjects_of,
    wrong_patterns,
)
from optim_cli.optim.param_groups.depth import Structure, layers_of

Entry = Mapping[str, Any]

# What no entry takes.
REST = "rest"
# What an entry sets besides hyperparameters.
BESIDE = ("lr_scale", "layer_decay", "optimizer", "scheduler", "freeze", "unfreeze_at", "optional")


class WrongGroups(ValueError):
    """Entries that are wrong, or do not fit a model.

    Attributes:
        mistakes: where, such as `head.params`, and what is wrong.
    """

    def __init__(self, mistakes: Sequence[tuple[str, str]]) -> None:
        super().__init__("\n".join(f"{key}: {what}" for key, what in mistakes))
        self.mistakes = list(mistakes)


@dataclass(frozen=True)
class Group:
    """Parameters that are trained alike.

    Attributes:
        name: of the entry; `rest`; `<entry>.<layer>` where it has a rate for each layer.
        entry: the entry that takes them; None for the rest.
        parameters: by their first qualified names, in the order of the model; never none.
        settings: what the entry sets, without what is null.
        lr_scale: what the learning rate is multiplied by.
    """

    name: str
    entry: str | None
    parameters: Mapping[str, nn.Parameter]
    settings: Mapping[str, Any]
    lr_scale: float = 1.0

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """What is set of the algorithm's own."""
        return {name: value for name, value in self.settings.items() if name not in BESIDE}

    @property
    def is_frozen(self) -> bool:
        """Whether it is not trained in the beginning."""
        return bool(self.settings.get("freeze")) or "unfreeze_at" in self.settings

    @property
    def is_never_trained(self) -> bool:
        """Whether it stays frozen."""
        return self.is_frozen and "unfreeze_at" not in self.settings


def split(
    model: nn.Module,
    entries: Mapping[str, Entry],
    structure: Structure = Structure(),  # noqa: B008
    strict: bool = False,
) -> list[Group]:
    """Deal the parameters that need a gradient out to entries: the first whose condition holds takes one.

    Args:
        model: its parameters; one that modules share counts once, in all its places.
        entries: by name, in order. Each says what it takes (`params`, `modules`, `ndim`, `kind`, `any`,
            `all`, `not`) and what it sets: hyperparameters, and what BESIDE names.
        structure: what the model's head is, and its layers.
        strict: whether entries must take everything.

    Returns:
        The groups in the order of the entries, layers from the input on; last what no entry takes.

    Raises:
        WrongGroups: with all mistakes: in the entries, entries that take nothing and are not `optional`,
            parameters that nothing is said of where it has to be.
    """
    subjects = [x for x in subjects_of(model) if x.parameter.requires_grad]
    found = [
        *mistakes(entries),
        *((f"structure.{key}", what) for key, what in wrong_structure(structure)),
        *_unknown_to(structure, entries),
    ]
    if found:
        # Of those that are right by themselves it is known at least whether they fit anything.
        wrong = {key.partition(".")[0] for key, _ in found}
        right = {x: y for x, y in entries.items() if _is_name(x) and x not in wrong}
        right = {} if "structure" in wrong else right
        raise WrongGroups([*found, *_fitting_nothing(right, subjects, structure)])
    taken: dict[str | None, list[Subject]] = {**{name: [] for name in entries}, None: []}
    for subject in subjects:
        fitting = (name for name, entry in entries.items() if holds(entry, subject, structure.head))
        taken[next(fitting, None)].append(subject)
    layers = layers_of(subjects, structure.depth)
    found = [
        *_fitting_nothing(entries, subjects, structure),
        *_unfitting(entries, taken, layers, structure),
    ]
    if strict and taken[None]:
        names = _few([x.name for x in taken[None]])
        found.append(("", f"no entry takes {names}, and strict asks for one that does"))
    if found:
        raise WrongGroups(found)
    groups = [x for name, entry in entries.items() for x in _groups_of(name, entry, taken[name], layers)]
    return groups + ([Group(REST, None, _by_name(taken[None]), {})] if taken[None] else [])


def mistakes(entries: Mapping[str, Entry]) -> Iterator[tuple[str, str]]:
    """What is wrong with entries, whatever the model and the algorithms are: (key, what)."""
    for name, entry in entries.items():
        if not _is_name(name):
            yield "", f"{name!r} is no name of an entry; allowed: one without dots"
            continue
        if name == REST:
            yield name, "the name is that of what no entry takes; choose another"
        if not isinstance(entry, Mapping):
            yield name, f"{entry!r} is no entry; allowed: a mapping with {', '.join(TAKING)} and what it sets"
            continue
        yield from mistakes_in(entry, name)
        for key, (right, allowed) in _ALLOWED.items():
            if entry.get(key) is not None and not right(entry[key]):
                yield f"{name}.{key}", f"{entry[key]!r} is not allowed; allowed: {allowed}"
        if entry.get("lr") is not None and entry.get("lr_scale") is not None:
            yield f"{name}.lr_scale", "lr is given, too; give one, and null for the other"
        if entry.get("freeze") is False and entry.get("unfreeze_at") is not None:
            yield f"{name}.freeze", "false, and unfreeze_at is given; set one of them to null"


def wrong_structure(structure: Structure) -> Iterator[tuple[str, str]]:
    """Patterns in what a model says of itself that cannot be compiled: (key, what)."""
    yield from wrong_patterns(structure.head, "head")
    for index, patterns in enumerate(structure.depth):
        yield from wrong_patterns(patterns, f"depth[{index}]")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != "" and "." not in value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_ALLOWED: dict[str, tuple[Any, str]] = {
    "lr_scale": (
        lambda x: _is_number(x) and 0 <= x <= float_info.max,
        "a finite number >= 0, which the learning rate is multiplied by",
    ),
    "layer_decay": (lambda x: _is_number(x) and 0 < x <= 1, "a number > 0 and <= 1"),
    "freeze": (lambda x: isinstance(x, bool), "true or false"),
    "optional": (lambda x: isinstance(x, bool), "true or false"),
}


def _unknown_to(structure: Structure, entries: Mapping[str, Entry]) -> Iterator[tuple[str, str]]:
    """Entries that ask what the model does not say."""
    for name, entry in entries.items():
        if not isinstance(entry, Mapping):
            continue
        if "head" in kinds_in(entry) and not listed(structure.head):
            yield name, "asks for the head, and the structure of the model names none"
        if entry.get("layer_decay") is not None and not structure.depth:
            yield f"{name}.layer_decay", "wants layers, and the structure of the model has no depth"


def _fitting_nothing(
    entries: Mapping[str, Entry], subjects: Sequence[Subject], structure: Structure
) -> Iterator[tuple[str, str]]:
    """Entries that no parameter fits, whatever others take."""
    for name, entry in entries.items():
        if not entry.get("optional") and not any(holds(entry, x, structure.head) for x in subjects):
            yield name, f"takes no parameter: {_nearest(entry, subjects)}; optional: true lets it"


def _unfitting(
    entries: Mapping[str, Entry],
    taken: Mapping[str | None, Sequence[Subject]],
    layers: Mapping[str, int],
    structure: Structure,
) -> Iterator[tuple[str, str]]:
    """What is wrong with entries in view of what each takes."""
    for name, entry in entries.items():
        elsewhere = [
            other
            for other, subjects in taken.items()
            if other is not None and any(holds(entry, x, structure.head) for x in subjects)
        ]
        if elsewhere and not taken[name] and not entry.get("optional"):
            before = f"{' and '.join(elsewhere)}, before it, took all that it fits"
            yield name, f"takes no parameter: {before}; optional: true lets it"
        missing = [x.name for x in taken[name] if x.name not in layers]
        if entry.get("layer_decay") is not None and missing:
            yield f"{name}.layer_decay", f"no layer in the depth of the model has {_few(missing)}"


def _nearest(entry: Entry, subjects: Sequence[Subject]) -> str:
    """What there is that is most like what an entry asks for."""
    names = [x.name for x in subjects]
    folders = dict.fromkeys(f"{n.rpartition('.')[0]}.*" for n in names if "." in n)
    classes = dict.fromkeys(type(m).__name__ for x in subjects for place in x.places for m in place.modules)
    near: list[str] = []
    for wanted in listed(entry.get("params") or ()):
        near += get_close_matches(wanted.removeprefix(REGEX), [*names, *folders], n=1)
    for wanted in listed(entry.get("modules") or ()):
        near += get_close_matches(wanted.rpartition(".")[2], classes, n=1)
    if near:
        return f"nothing is called so; did you mean {' or '.join(dict.fromkeys(near))}?"
    if entry.get("params") is None and entry.get("modules") is not None:
        return f"no module is one; the model has {_few(list(classes))}"
    return f"it fits none of {_few(names)}"


def _groups_of(
    name: str, entry: Entry, subjects: Sequence[Subject], layers: Mapping[str, int]
) -> Iterator[Group]:
    settings = {
        key: value for key, value in entry.items() if value is not None and key not in (*TAKING, "optional")
    }
    scale, decay = settings.get("lr_scale", 1.0), settings.get("layer_decay")
    if not subjects:
        return
    if decay is None:
        yield Group(name, name, _by_name(subjects), settings, scale)
        return
    top = max(layers.values())
    for layer in sorted({layers[x.name] for x in subjects}):
        own = [x for x in subjects if layers[x.name] == layer]
        yield Group(f"{name}.{layer}", name, _by_name(own), settings, scale * decay ** (top - layer))


def _by_name(subjects: Sequence[Subject]) -> dict[str, nn.Parameter]:
    return {x.name: x.parameter for x in subjects}


def _few(names: Sequence[str], most: int = 5) -> str:
    """Names, some of them if they are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
