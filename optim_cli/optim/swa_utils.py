"""Averages of weights over training: exponential (EMA) and equal (SWA)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

AverageFunction = Callable[[Tensor, Tensor, Tensor | int], Tensor]
MultiAverageFunction = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]


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


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverageFunction:
    """`average <- decay * average + (1 - decay) * current`, for lists of tensors of one dtype, in place.

    Raises:
        ValueError: `decay` is outside [0, 1].
    """
    _check_decay(decay)
    single = get_ema_avg_fn(decay)

    @torch.no_grad()
    def update(averages: Sequence[Tensor], currents: Sequence[Tensor], num_averaged: Tensor | int) -> None:
        if averages[0].is_floating_point() or averages[0].is_complex():
            torch._foreach_lerp_(list(averages), list(currents), 1 - decay)
            return
        for average, current in zip(averages, currents, strict=True):
            average.copy_(single(average, current, num_averaged))

    return update


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

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the model's current weights into the average; the first time, copy them."""
        averages, currents = self._averaged(self.module), self._averaged(model)
        currents = [x.to(y.device) for x, y in zip(currents, averages, strict=True)]
        if self.n_averaged == 0:
            torch._foreach_copy_(averages, currents)
        else:
            batches: dict[tuple[Any, ...], list[tuple[Tensor, Tensor]]] = {}
            for average, current in zip(averages, currents, strict=True):
                key = (average.device, average.dtype, current.dtype)
                batches.setdefault(key, []).append((average, current))
            for pairs in batches.values():
                self._update(*(list(column) for column in zip(*pairs, strict=True)))
        if not self.use_buffers:
            for average, current in zip(self.module.buffers(), model.buffers(), strict=True):
                average.copy_(current)
        self.n_averaged += 1

    def _update(self, averages: list[Tensor], currents: list[Tensor]) -> None:
        if self.multi_avg_fn is not None:
            self.multi_avg_fn(averages, currents, self.n_averaged)
            return
        average = self.avg_fn or _equal_weights
        for old, current in zip(averages, currents, strict=True):
            old.copy_(average(old, current, self.n_averaged.to(old.device)))

    def _averaged(self, model: nn.Module) -> list[Tensor]:
        buffers = model.buffers() if self.use_buffers else ()
        return [x.detach() for x in chain(model.parameters(), buffers)]


def _equal_weights(average: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
    return average + (current - average) / (num_averaged + 1)
