"""Layers of a model from its input to its output, for learning rates that decay towards the input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optim_cli.optim.param_groups.conditions import REGEX, Patterns, Subject, compiled, listed


@dataclass(frozen=True)
class Structure:
    """What a model says of itself.

    Attributes:
        head: patterns of the parameters that make outputs of features.
        depth: patterns of each layer, from the input to the output. An expression with a group, such as
            `regex:blocks\\.(\\d+)\\..*`, makes a layer of each number, in their order.
    """

    head: Patterns = ()
    depth: Sequence[Patterns] = ()


def layers_of(subjects: Iterable[Subject], depth: Sequence[Patterns]) -> dict[str, int]:
    """Layers by names of parameters, from 0 at the input; without those that no pattern fits."""
    places = {x.name: place for x in subjects if (place := _place_of(x, depth)) is not None}
    layers = {place: layer for layer, place in enumerate(sorted(set(places.values())))}
    return {name: layers[place] for name, place in places.items()}


def _place_of(subject: Subject, depth: Sequence[Patterns]) -> tuple[int, int] | None:
    """The first pattern that fits, and the number that it finds in the name."""
    for index, patterns in enumerate(depth):
        for pattern in listed(patterns):
            for place in subject.places:
                found = compiled(pattern).fullmatch(place.name)
                if found:
                    # A group that took no part in the match is None.
                    number = found[1] if pattern.startswith(REGEX) and found.groups() else None
                    return index, int(number) if number and number.isdecimal() else 0
    return None
