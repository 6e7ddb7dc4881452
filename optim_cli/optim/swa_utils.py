"""Averages of weights over training: exponential (EMA) and equal (SWA)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

AverageFunction = Callable[[Tensor, Tensor, Tensor | int], Tensor]
MultiAverageFunction = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]
Pairs = Sequence[tuple[Tensor, Tensor]]


def _check_decay(decay: float) -> None:
    if not 0 <= decay <= 1:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")


def get_ema_avg_fn(decay: float = 0.999) -> AverageFunction:
    """`average <- decay * average + (1 - decay) * current`, for one tensor.

    Raises:
        ValueError: `decay` is outside [0, 1].
    """
    _check_decay(decay)

    @torch.no_grad()
    def update(average: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        return decay * average + (1 - decay) * current

    return update


def get_ema_multi_avg_fn(decay: float = 0.999) -> ExponentialAverage:
    """`average <- decay * average + (1 - decay) * current`, for lists of tensors of one dtype, in place.

    Raises:
        ValueError: `decay` is outside [0, 1].
    """
    return ExponentialAverage(decay)


@dataclass(frozen=True)
class ExponentialAverage:
    """What `get_ema_multi_avg_fn` returns: a function that says its decay.

    Raises:
        ValueError: `decay` is outside [0, 1].
    """

    decay: float

    def __post_init__(self) -> None:
        _check_decay(self.decay)

    def __call__(
        self, averages: Sequence[Tensor], currents: Sequence[Tensor], num_averaged: Tensor | int
    ) -> None:
        """Take `currents` into `averages`; each list is of one device and dtype."""
        self.mix(averages, currents, self.decay)

    @torch.no_grad()
    def mix(self, averages: Sequence[Tensor], currents: Sequence[Tensor], decay: float | Tensor) -> None:
        """The same with a decay that may be a tensor, 0-d on the averages' device: with 0, a copy."""
        averages, currents = list(averages), _with_dtype(list(currents), averages[0].dtype)
        if not (averages[0].is_floating_point() or averages[0].is_complex()):
            # Counts of batches are many and small: one vector of them takes one launch an operation.
            old, new = (torch.cat([x.flatten() for x in column]) for column in (averages, currents))
            pieces = (decay * old + (1 - decay) * new).split([x.numel() for x in averages])
            torch._foreach_copy_(averages, [x.view_as(y) for x, y in zip(pieces, averages, strict=True)])
        elif isinstance(decay, Tensor):
            torch._foreach_sub_(averages, currents)
            torch._foreach_mul_(averages, decay.to(torch.promote_types(averages[0].dtype, torch.float32)))
            torch._foreach_add_(averages, currents)
        else:
            torch._foreach_lerp_(averages, currents, 1 - decay)


class AveragedModel(nn.Module):
    """A copy of a model whose weights are an average of that model's over time.

    Izmailov et al., "Averaging Weights Leads to Wider Optima", arXiv 1803.05407 (equal weights);
    Polyak & Juditsky 1992 (averaging iterates).

    Args:
        model: the model to average; it is copied.
        device: where the average is kept; None leaves it where the model is.
        avg_fn: `(average, current, num_averaged) -> average`, one tensor at a time.
        multi_avg_fn: `(averages, currents, num_averaged)`, in place on lists of one device and dtype.
            With neither of them, all models weigh the same.
        use_buffers: average buffers as well; otherwise they are the newest model's.

    Raises:
        AssertionError: both `avg_fn` and `multi_avg_fn` are given.
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: nn.Module,
        device: int | torch.device | None = None,
        avg_fn: AverageFunction | None = None,
        multi_avg_fn: MultiAverageFunction | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("n_averaged", torch.tensor(0, dtype=torch.long, device=device))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The averaged model's output."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: nn.Module) -> None:
        """Take the model's current weights into the average; the first time, copy them."""
        self.update_pairs(self.pairs(model))
        copy_pairs(self.copied(model))
        self.n_averaged += 1

    def pairs(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """What is averaged: the averages, each with the model's own parameter or buffer."""
        return list(zip(self._averaged(self.module), self._averaged(model), strict=True))

    @torch.no_grad()
    def update_pairs(self, pairs: Pairs) -> None:
        """Take currents into averages, all of one device and dtype at once; the count stays as it is.

        The count is read where it lies on the host. Elsewhere nothing waits for it.
        """
        counted = self.n_averaged.device.type == "cpu"
        for averages, currents in _alike(pairs):
            if counted and self.n_averaged == 0:
                torch._foreach_copy_(averages, currents)
                continue
            currents = [x.to(averages[0].device) for x in currents]
            if counted:
                self._update(averages, currents)
            else:
                self._begin_or_update(averages, currents)

    def copied(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """What is not averaged but copied: buffers, each with the model's own."""
        if self.use_buffers:
            return []
        return list(zip(self.module.buffers(), model.buffers(), strict=True))

    def _update(self, averages: list[Tensor], currents: list[Tensor]) -> None:
        if self.multi_avg_fn is not None:
            self.multi_avg_fn(averages, currents, self.n_averaged)
            return
        average, count = self.avg_fn or _equal_weights, self.n_averaged.to(averages[0].device)
        for old, current in zip(averages, currents, strict=True):
            old.copy_(average(old, current, count))

    def _begin_or_update(self, averages: list[Tensor], currents: list[Tensor]) -> None:
        """Copy or update as a count says that only the device knows."""
        first = self.n_averaged.to(averages[0].device) == 0
        if isinstance(self.multi_avg_fn, ExponentialAverage):
            decay = torch.full((), self.multi_avg_fn.decay, dtype=torch.float64, device=first.device)
            self.multi_avg_fn.mix(averages, currents, decay.masked_fill(first, 0.0))
            return
        updated = [x.clone() for x in averages]
        self._update(updated, currents)
        chosen = [torch.where(first, x, y) for x, y in zip(currents, updated, strict=True)]
        torch._foreach_copy_(averages, chosen)

    def _averaged(self, model: nn.Module) -> Iterator[Tensor]:
        return chain(model.parameters(), model.buffers() if self.use_buffers else ())


@torch.no_grad()
def copy_pairs(pairs: Pairs) -> None:
    """Copy the second of each pair into the first, all of one device and dtype at once."""
    for copies, currents in _alike(pairs):
        torch._foreach_copy_(copies, currents)


def _equal_weights(average: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
    return average + (current - average) / (num_averaged + 1)


def _alike(pairs: Pairs) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Pairs as two lists for each devices and dtypes there are."""
    found: dict[tuple[Any, ...], tuple[list[Tensor], list[Tensor]]] = {}
    for pair in pairs:
        columns = found.setdefault(tuple((x.device, x.dtype) for x in pair), ([], []))
        for column, x in zip(columns, pair, strict=True):
            column.append(x.detach())
    yield from found.values()


def _with_dtype(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    if tensors[0].dtype == dtype:
        return tensors
    converted = [torch.empty_like(x, dtype=dtype) for x in tensors]
    torch._foreach_copy_(converted, tensors)
    return converted
