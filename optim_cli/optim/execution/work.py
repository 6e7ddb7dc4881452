"""What steps now: parameters with their gradients and states, in columns, and which of them are alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from optim_cli.optim.execution.rows import Rows
from optim_cli.optim.execution.scalars import Values
from optim_cli.optim.execution.variant import Variant

Columns = list[list[Tensor]]
DEVICE, DTYPE = attrgetter("device"), attrgetter("dtype")


@dataclass
class Work:
    """What steps now in one parameter group, an entry for each parameter in every list.

    Attributes:
        values: hyperparameters by the names that rules use.
        place: the device of the 0-d states.
        counted_on_device: whether graphs need them as tensors there.
        in_tensors: whether something must not be read by the host, so that scalars are tensors.
        columns: parameters, gradients, then each state.
        states: the parameters' state dictionaries; empty where nothing is kept.
        firsts: whether the states are new.
        rows: what stands in the columns for tensors with sparse gradients.
        held: 0-d states that floats stand for, by name; step counts include this step.
    """

    group: dict[str, Any]
    variant: Variant
    values: Values
    place: torch.device
    counted_on_device: bool
    in_tensors: bool
    columns: Columns
    states: list[dict[str, Any]]
    firsts: list[bool]
    rows: list[Rows]
    held: dict[str, list[float]] = field(default_factory=dict)

    def alike(self) -> Iterator[tuple[dict[str, Any], tuple[Any, ...], Sequence[int]]]:
        """Indices of what needs the same scalars and calls, with these.

        Yields:
            `first` and the values held; (device, class, *dtypes); indices.
        """
        if not self.firsts:
            return
        given: dict[str, Sequence[float]] = {"first": self.firsts, **self.held}
        found: dict[tuple[Any, ...], Sequence[int]] = {}
        whole: list[set[Any]] = [*map(set, given.values()), *kinds_of(self.columns)]
        try:
            found[tuple([value for (value,) in whole])] = range(len(self.firsts))
        except ValueError:  # several in one of them
            apart: dict[tuple[Any, ...], list[int]] = {}
            for index, row in enumerate(zip(*self.columns, strict=True)):
                known = [values[index] for values in given.values()]
                kind = [value for (value,) in kinds_of([[x] for x in row])]
                apart.setdefault((*known, *kind), []).append(index)
            found |= apart
        for key, indices in found.items():
            yield dict(zip(given, key, strict=False)), key[len(given) :], indices

    @property
    def differentiable(self) -> bool:
        """Whether autograd records the step."""
        return bool(self.group.get("differentiable"))

    @property
    def changing(self) -> list[str]:
        """0-d states held in floats that get new values from `scalars`."""
        return [name for name in self.held if name in self.variant.derived] if len(self.held) > 1 else []

    def at(self, indices: Sequence[int]) -> Columns:
        """The columns at some indices."""
        if len(indices) == len(self.firsts):
            return self.columns
        return [[column[i] for i in indices] for column in self.columns]


def kinds_of(columns: Columns) -> list[set[Any]]:
    """Devices and classes of the parameters, and the dtypes of every column."""
    return [
        set(map(DEVICE, columns[0])),
        set(map(type, columns[0])),
        *[set(map(DTYPE, column)) for column in columns],
    ]
