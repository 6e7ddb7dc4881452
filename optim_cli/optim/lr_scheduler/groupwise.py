"""Schedules beside each other: each of some parameter groups of one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler import place
from optim_cli.optim.lr_scheduler.parts import ChainedScheduler, Part, known, names_set, spread
from optim_cli.optim.lr_scheduler.schedule import Affine, note_steps


class SomeGroups(Optimizer):
    """Some parameter groups of an optimizer, as an optimizer to schedules.

    It holds no groups of its own: those of the whole are looked up at every access, since loading a state
    replaces them. Steps are the whole's.

    Args:
        optimizer: the whole.
        indices: of its parameter groups, in the order in which schedules see them.

    Attributes:
        whole: the optimizer.
        indices: as given.
    """

    def __init__(self, optimizer: Optimizer, indices: Sequence[int]) -> None:
        self.whole = optimizer
        self.indices = tuple(indices)
        note_steps(optimizer)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of the whole that are meant."""
        groups = self.whole.param_groups
        return [groups[index] for index in self.indices]

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The whole's."""
        return self.whole.defaults

    @property
    def step(self) -> Callable[..., Any]:
        """The whole's, which notes that it steps."""
        return self.whole.step

    @property
    def _opt_called(self) -> bool:
        return getattr(self.whole, "_opt_called", False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class GroupwiseLR(ChainedScheduler):
    """Several schedules, each of some parameter groups; groups that none has keep their values.

    Args:
        optimizer: whose values are set.
        schedulers: the parts, each made over a `SomeGroups` of `optimizer`, or over `optimizer`.

    Raises:
        ValueError: there are no parts, they are of other optimizers, or two of them set the same
            hyperparameter of a group.
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[Part]) -> None:
        if not schedulers:
            raise ValueError("GroupwiseLR expects at least one scheduler, but got no scheduler.")
        self._adopt(schedulers, optimizer)
        self._refuse_collisions()
        self._note_values()

    def coefficients(self, t: int) -> dict[str, Affine]:
        """Those of the parts, each in its groups; elsewhere (1, 0)."""
        return self._joined([known(part).coefficients(t) for part in self._schedulers])

    def jump(self, t: int) -> dict[str, Affine]:
        """Those of the parts, each in its groups; elsewhere (1, 0)."""
        return self._joined([known(part).jump(t) for part in self._schedulers])

    def _joined(self, of_parts: Sequence[Mapping[str, Affine]]) -> dict[str, Affine]:
        groups = self.optimizer.param_groups
        joined: dict[str, tuple[list[Any], list[Any]]] = {}
        for part, affines in zip(self._schedulers, of_parts, strict=True):
            indices = self._indices(part)
            for name, (a, b) in affines.items():
                scales, offsets = joined.setdefault(name, ([1.0] * len(groups), [0.0] * len(groups)))
                own = (spread(x, len(indices)) for x in (a, b))
                for index, scale, offset in zip(indices, *own, strict=True):
                    if place.has(groups[index], name):
                        scales[index], offsets[index] = scale, offset
        return {**joined}

    def _may_adopt(self, own: Optimizer, optimizer: Optimizer) -> bool:
        return (own.whole if isinstance(own, SomeGroups) else own) is optimizer

    def _indices(self, part: Part) -> Sequence[int]:
        """The groups of a part."""
        own = part.optimizer
        return own.indices if isinstance(own, SomeGroups) else range(len(own.param_groups))

    def _refuse_collisions(self) -> None:
        taken: dict[tuple[int, str], str] = {}
        for number, part in enumerate(self._schedulers):
            this = f"{type(part).__name__} at index {number}"
            for index, name in product(self._indices(part), sorted(names_set(part))):
                group = self.optimizer.param_groups[index]
                if not place.has(group, name):
                    continue
                other = taken.setdefault((index, name), this)
                if other != this:
                    raise ValueError(
                        f"GroupwiseLR: {other} and {this} both set {name} of parameter group "
                        f"{group.get('name', index)}; give each to one of them"
                    )
