"""The functions that take new values into averages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optim_cli.optim.swa_utils.warmup import Warmup

AverageFunction = Callable[[Tensor, Tensor, Tensor | int], Tensor]
MultiAverageFunction = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]


def get_ema_avg_fn(decay: float = 0.999, *, warmup: Warmup | None = None) -> AverageFunction:
    """`average <- decay * average + (1 - decay) * current`, for one tensor.

    Args:
        decay: weight of the average against the newest value.
        warmup: with which decay it begins; see :class:`ExponentialAverage`.

    Raises:
        ValueError: `decay` is outside [0, 1].
        TypeError: `warmup` is no warmup.
    """
    ema = ExponentialAverage(decay, warmup)

    @torch.no_grad()
    def update(average: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        now = ema.decay_at(num_averaged)
        return now * average + (1 - now) * current

    return update


def get_ema_multi_avg_fn(decay: float = 0.999, *, warmup: Warmup | None = None) -> ExponentialAverage:
    """`average <- decay * average + (1 - decay) * current`, for lists of tensors of one dtype, in place.

    Args:
        decay: weight of the average against the newest value.
        warmup: with which decay it begins; see :class:`ExponentialAverage`.

    Raises:
        ValueError: `decay` is outside [0, 1].
        TypeError: `warmup` is no warmup.
    """
    return ExponentialAverage(decay, warmup)


def get_swa_avg_fn() -> AverageFunction:
    """`average <- average + (current - average) / (num_averaged + 1)`, for one tensor."""

    @torch.no_grad()
    def update(average: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        return average + (current - average) / (num_averaged + 1)

    return update


def get_swa_multi_avg_fn() -> EqualAverage:
    """`average <- average + (current - average) / (num_averaged + 1)`, for lists of tensors, in place."""
    return EqualAverage()


class DecayingAverage(ABC):
    """Shrinks the average by a decay, which depends on nothing but the count, to make room for the newest."""

    @abstractmethod
    def decay_at(self, count: Tensor | int) -> float | Tensor:
        """The weight of the average against the newest value, after `count` averages were taken.

        A number; 0-d float64 on the count's device, where reading it would wait for the device.
        """

    def __call__(
        self, averages: Sequence[Tensor], currents: Sequence[Tensor], num_averaged: Tensor | int
    ) -> None:
        """Take `currents` into `averages`; each list is of one device and dtype."""
        self.mix(averages, currents, self.decay_at(num_averaged))

    @torch.no_grad()
    def mix(self, averages: Sequence[Tensor], currents: Sequence[Tensor], decay: float | Tensor) -> None:
        """The same with a decay that is known, if a tensor then on the averages' device: with 0, a copy."""
        averages, currents = list(averages), _with_dtype(list(currents), averages[0].dtype)
        if not (averages[0].is_floating_point() or averages[0].is_complex()):
            # Counts of batches are many and small: one vector of them takes one launch an operation.
            old, new = (torch.cat([x.flatten() for x in column]) for column in (averages, currents))
            pieces = self._mixed_integers(old, new, decay).split([x.numel() for x in averages])
            torch._foreach_copy_(averages, [x.view_as(y) for x, y in zip(pieces, averages, strict=True)])
        elif isinstance(decay, Tensor):
            torch._foreach_sub_(averages, currents)
            torch._foreach_mul_(averages, decay.to(torch.promote_types(averages[0].dtype, torch.float32)))
            torch._foreach_add_(averages, currents)
        else:
            torch._foreach_lerp_(averages, currents, 1 - decay)

    @abstractmethod
    def _mixed_integers(self, old: Tensor, new: Tensor, decay: float | Tensor) -> Tensor:
        """As torch has it to the last bit: what follows cuts the fraction off."""


@dataclass(frozen=True)
class ExponentialAverage(DecayingAverage):
    """What `get_ema_multi_avg_fn` returns: a function that says its decay.

    Args:
        decay: weight of the average against the newest value.
        warmup: the decay is the smaller one of `decay` and what this says after n averages were taken;
            a `decay` of 1 leaves it to the warmup. n is 0 for the first one, which is a copy in any case.

    Raises:
        ValueError: `decay` is outside [0, 1].
        TypeError: `warmup` is no warmup.
    """

    decay: float
    warmup: Warmup | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            message = f"Invalid decay value {self.decay} provided. Please provide a value in [0,1] range."
            raise ValueError(message)
        if not isinstance(self.warmup, Warmup | None):
            allowed = "None, InverseGammaWarmup(...) or PowerWarmup(...)"
            raise TypeError(f"Invalid warmup: {self.warmup!r} (warmup must be {allowed})")

    def decay_at(self, count: Tensor | int) -> float | Tensor:
        """See DecayingAverage."""
        number = _number(count)
        if isinstance(number, Tensor):
            reached = torch.ones_like(number) if self.warmup is None else self.warmup.decay_at(number)
            return reached.clamp(max=self.decay)
        return self.decay if self.warmup is None else min(self.decay, self.warmup.decay_at(number))

    def _mixed_integers(self, old: Tensor, new: Tensor, decay: float | Tensor) -> Tensor:
        return _single(decay) * old + _single(1 - decay) * new


@dataclass(frozen=True)
class EqualAverage(DecayingAverage):
    """What `get_swa_multi_avg_fn` returns: all that was averaged weighs the same."""

    def decay_at(self, count: Tensor | int) -> float | Tensor:
        """See DecayingAverage."""
        number = _number(count)
        return number / (number + 1)

    def _mixed_integers(self, old: Tensor, new: Tensor, decay: float | Tensor) -> Tensor:
        # The count and one, to which float32 rounds it back.
        return old + (new - old) / _single(1 / (1 - decay))


def _number(count: Tensor | int) -> float | Tensor:
    """A count, as a number where that waits for nothing."""
    if isinstance(count, Tensor) and count.device.type != "cpu":
        return count.double()
    return int(count)


def _single(number: float | Tensor) -> Tensor:
    """A number in float32, in which torch multiplies integers by it."""
    return torch.as_tensor(number, dtype=torch.float32)


def _with_dtype(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    if tensors[0].dtype == dtype:
        return tensors
    converted = [torch.empty_like(x, dtype=dtype) for x in tensors]
    torch._foreach_copy_(converted, tensors)
    return converted
