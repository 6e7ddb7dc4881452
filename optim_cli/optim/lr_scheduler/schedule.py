"""The base of every scheduler: a schedule is an affine recurrence, pure in t."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor


@dataclass(frozen=True)
class Duration:
    """Marks a parameter that counts scheduler steps.

    Attributes:
        total: whether it is the length of the whole schedule, so that a config may leave it open.
    """

    total: bool = False


Steps = Annotated[int, Ge(1), Duration()]
Total = Annotated[int, Ge(1), Duration(total=True)]


class LRScheduler(torch.optim.lr_scheduler.LRScheduler):
    """Sets `lr_t = a_t * lr_(t-1) + b_t` in every parameter group at each step t.

    A subclass gives (a_t, b_t). `step` applies them to the rate it finds, so that a rate changed by
    hand in between behaves as in torch. A schedule that sets rates outright has a_t = 0.

    Args:
        optimizer: the optimizer whose rates are set; any torch.optim.Optimizer.
        last_epoch: the step to resume after, -1 for a fresh start.

    Raises:
        TypeError: `optimizer` is not an optimizer.
        KeyError: `last_epoch` is given and a group has no `initial_lr`.
    """

    # Whether a fresh start sets the rates too; otherwise the optimizer's own are the first ones.
    outright = False

    @abstractmethod
    def affine(self, t: int, index: int) -> tuple[float, float]:
        """(a_t, b_t) for step t >= 0 and the parameter group at `index`."""

    def value(self, t: int, index: int) -> float:
        """The rate at step t of a schedule left to itself, from its start."""
        rate = float(self.base_lrs[index])
        for i in range(0 if self.outright else 1, t + 1):
            a, b = self.affine(i, index)
            rate = a * rate + b
        return rate

    def get_lr(self) -> list[float | Tensor]:
        """The rates of step `last_epoch`, from the rates that the groups hold now."""
        rates: list[float | Tensor] = []
        for index, group in enumerate(self.optimizer.param_groups):
            a, b = (1.0, 0.0) if self._starts_as_given() else self.affine(self.last_epoch, index)
            rates.append(b if a == 0 else a * group["lr"] + b)
        return rates

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next step, after `optimizer.step()`.

        Args:
            epoch: jump to this step instead (deprecated in torch).
        """
        if self._step_count == 1 and not getattr(self.optimizer, "_opt_called", False):
            warnings.warn(
                "lr_scheduler.step() is called before optimizer.step(): the first value of the "
                "schedule is skipped",
                UserWarning,
                stacklevel=2,
            )
        self._step_count += 1
        if epoch is None:
            self.last_epoch += 1
            rates = self.get_lr()
        else:
            warnings.warn("the epoch argument of step() is deprecated", UserWarning, stacklevel=2)
            self.last_epoch = epoch
            rates = [self.value(epoch, index) for index in range(len(self.base_lrs))]
        self._last_lr = []
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
                self._last_lr.append(group["lr"].clone())
            else:
                group["lr"] = rate
                self._last_lr.append(rate)

    def _starts_as_given(self) -> bool:
        return self._is_initial and not self.outright


def per_group(name: str, value: Any, groups: int) -> list[Any]:
    """One value for each parameter group.

    Raises:
        ValueError: a list of another length than the optimizer has groups.
    """
    if not isinstance(value, list | tuple):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. "
            f"{name} has {len(value)} values, param_groups has {groups}."
        )
    return list(value)
