"""Schedules made of others: one after another (SequentialLR) or all at every step (ChainedScheduler)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler import place
from optim_cli.optim.lr_scheduler.plateau import ReduceLROnPlateau
from optim_cli.optim.lr_scheduler.schedule import Affine, LRScheduler, Numbers

Part = torch.optim.lr_scheduler.LRScheduler


class _Parts(LRScheduler):
    """What both have in common: parts of one optimizer, and a state that holds theirs."""

    _schedulers: Sequence[Part]

    @property
    def parts(self) -> Sequence[Part]:
        """The schedules that it is made of, in order."""
        return self._schedulers

    def _adopt(self, schedulers: Sequence[Part], optimizer: Optimizer) -> None:
        name = type(self).__name__
        for index, part in enumerate(schedulers):
            if not hasattr(part, "optimizer"):
                raise TypeError(f"{name} at index {index} should have `optimizer` as its attribute.")
            if hasattr(part, "num_bad_epochs") and not isinstance(part, ReduceLROnPlateau):
                raise ValueError(
                    f"{name} does not support `ReduceLROnPlateau` scheduler of torch as it requires "
                    f"additional kwargs to be specified when calling `step`, but got one at index {index}; "
                    "use optim_cli.optim.lr_scheduler.ReduceLROnPlateau"
                )
            if not self._may_adopt(part.optimizer, optimizer):
                raise ValueError(
                    f"{name} expects all schedulers to belong to the same optimizer, but got scheduler "
                    f"{type(part).__name__} at index {index} has {part.optimizer}, which is different from "
                    f"{type(optimizer).__name__}."
                )
        self._schedulers = schedulers
        self.optimizer = optimizer

    def _may_adopt(self, own: Optimizer, optimizer: Optimizer) -> bool:
        """Whether a part for `own` may be one of the parts for `optimizer`."""
        return own is optimizer

    @property
    def hyperparameters(self) -> list[str]:
        """What the parts schedule."""
        found = [x for part in self._schedulers for x in getattr(part, "hyperparameters", ["lr"])]
        return list(dict.fromkeys(found))

    @property
    def follows_metric(self) -> bool:
        """Whether a part does."""
        return any(isinstance(part, LRScheduler) and part.follows_metric for part in self._schedulers)

    @property
    def is_known(self) -> bool:
        """Whether the values of all parts are."""
        return all(isinstance(part, LRScheduler) and part.is_known for part in self._schedulers)

    def observe(self, metric: float) -> None:
        """Give a new value of the metric to every ReduceLROnPlateau whose time it is."""
        for part in self._acting():
            if isinstance(part, LRScheduler):
                part.observe(metric)
        self._note_values()

    def state_dict(self) -> dict[str, Any]:
        """The state, with those of the parts."""
        state = super().state_dict()
        return state | {"_schedulers": [part.state_dict() for part in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, with those of the parts."""
        parts = self._schedulers
        super().load_state_dict(state_dict)
        self._schedulers = parts
        for part, state in zip(parts, state_dict["_schedulers"], strict=True):
            part.load_state_dict(state)

    def _acting(self) -> Sequence[Part]:
        """The parts whose time it is."""
        return self._schedulers


class ChainedScheduler(_Parts):
    """All schedules at every step, each from the values that the one before it leaves.

    Args:
        schedulers: the parts, in order.
        optimizer: whose values they set; None takes that of the first.

    Raises:
        ValueError: there are no parts, or they belong to several optimizers.
    """

    def __init__(self, schedulers: Sequence[Part], optimizer: Optimizer | None = None) -> None:
        if len(schedulers) < 1:
            raise ValueError(
                "ChainedScheduler expects at least one scheduler to be chained, but got no scheduler."
            )
        self._adopt(schedulers, optimizer or schedulers[0].optimizer)
        if self.last_epoch == 0 and self.is_known and any(isinstance(x, _Parts) for x in schedulers):
            # A sequence among the parts has undone what those before it set when they were made.
            self._update_lr(0)
        self._note_values()

    @property
    def last_epoch(self) -> int:  # type: ignore[override]
        """The step of the first part."""
        return self._schedulers[0].last_epoch

    def coefficients(self, t: int) -> dict[str, Affine]:
        """Those of the parts, composed in order."""
        composed: dict[str, Affine] = {}
        groups = len(self.optimizer.param_groups)
        for part in self._schedulers:
            for name, affine in known(part).coefficients(t).items():
                composed[name] = _after(composed[name], affine, groups) if name in composed else affine
        return composed

    def step(self, metrics: float | None = None) -> None:
        """Let every part step; a ReduceLROnPlateau only where a metric is given."""
        for part in self._schedulers:
            if not isinstance(part, ReduceLROnPlateau):
                part.step()
        if metrics is not None:
            self.observe(metrics)
        self._note_values()

    def _move_to(self, t: int) -> None:
        for part in self._schedulers:
            known(part)._move_to(t)

    def _initial_step(self) -> None:
        for part in self._schedulers:
            part._initial_step()
        self._note_values()


class SequentialLR(_Parts):
    """Schedules one after another; each later one starts from its own initial values.

    Args:
        optimizer: whose values are set.
        schedulers: the parts, in order.
        milestones: the steps at which each part but the first takes over.
        last_epoch: the step to resume after, -1 for a fresh start. The values are then those of a schedule
            left to itself.

    Raises:
        ValueError: there are no parts, or not one milestone less than parts; parts of other optimizers.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: list[Part], milestones: list[int], last_epoch: int = -1
    ) -> None:
        if len(schedulers) < 1:
            raise ValueError("SequentialLR expects at least one scheduler, but got no scheduler.")
        self._adopt(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                "Sequential Schedulers expects number of schedulers provided to be one more than the number "
                f"of milestone points, but got number of schedulers {len(schedulers)} and the number of "
                f"milestones to be equal to {len(milestones)}"
            )
        self._milestones = milestones
        self.last_epoch = last_epoch + 1
        if last_epoch >= 0:
            self._update_lr(self.last_epoch)
            return
        for name in self.hyperparameters:
            for group in optimizer.param_groups:
                place.write(group, name, group.get(f"initial_{name}", place.read(group, name)))
        for part in schedulers:
            _take_back(part)
        self._initial_step()

    def coefficients(self, t: int) -> dict[str, Affine]:
        """Those of the part whose time it is; one that takes over starts anew."""
        index, start = self._at(t)
        part = known(self._schedulers[index])
        return part.jump(0) if index > 0 and t == start else part.coefficients(t - start)

    def step(self, metrics: float | None = None) -> None:
        """Let the part whose time it is step; a ReduceLROnPlateau only where a metric is given."""
        self.last_epoch += 1
        index = bisect_right(self._milestones, self.last_epoch)
        part = self._schedulers[index]
        if index and self._milestones[index - 1] == self.last_epoch:
            part._update_lr(0)
        elif not isinstance(part, ReduceLROnPlateau):
            part.step()
        if metrics is not None:
            self.observe(metrics)
        elif getattr(part, "hyperparameter", "lr") == "lr":
            self._last_lr = part.get_last_lr()
        else:
            self._note_values()

    def _acting(self) -> Sequence[Part]:
        return [self._schedulers[self._at(self.last_epoch)[0]]]

    def _at(self, t: int) -> tuple[int, int]:
        """The part of a step, and where it starts."""
        index = bisect_right(self._milestones, t)
        return index, self._milestones[index - 1] if index else 0

    def _move_to(self, t: int) -> None:
        self.last_epoch = t
        starts = [0, *self._milestones]
        for part, start, end in zip(self._schedulers, starts, [*self._milestones, t + 1], strict=True):
            known(part)._move_to(max(min(t, end - 1) - start, -1))

    def _initial_step(self) -> None:
        self.last_epoch = 0
        self._schedulers[self._at(0)[0]]._initial_step()
        self._note_values()


def known(part: Part) -> LRScheduler:
    """A part as one of ours, whose values are known beforehand."""
    if not isinstance(part, LRScheduler):
        raise TypeError(
            f"{type(part).__name__} does not say its values beforehand, as tables and nested parts want; "
            "take the class of optim_cli.optim.lr_scheduler"
        )
    return part


def names_set(part: Part) -> set[str]:
    """All hyperparameters that a part sets, a momentum that goes along with the rate among them."""
    if isinstance(part, _Parts):
        return set().union(*map(names_set, part.parts))
    if isinstance(part, LRScheduler) and part.is_known:
        return set(part.coefficients(0))
    return set(getattr(part, "hyperparameters", ["lr"]))


def _take_back(part: Part) -> None:
    """Be before the first step again, which a part took when it was made."""
    if isinstance(part, LRScheduler):
        part._move_to(-1)
    else:
        part.last_epoch -= 1


def _after(first: Affine, second: Affine, groups: int) -> Affine:
    """One after the other, as one."""
    (a1, b1), (a2, b2) = ([spread(x, groups) for x in affine] for affine in (first, second))
    scales = [x * y for x, y in zip(a1, a2, strict=True)]
    return scales, [x * y + z if y else z for x, y, z in zip(b1, a2, b2, strict=True)]


def spread(numbers: Numbers, groups: int) -> list[Any]:
    """One for each parameter group."""
    return numbers if isinstance(numbers, list) else [numbers] * groups
