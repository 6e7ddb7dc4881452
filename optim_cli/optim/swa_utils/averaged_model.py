"""A model of averaged weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from optim_cli.optim.swa_utils.averages import (
    AverageFunction,
    DecayingAverage,
    MultiAverageFunction,
    get_swa_multi_avg_fn,
)

Pairs = Sequence[tuple[Tensor, Tensor]]


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
        use_buffers: average buffers as well, but for boolean ones; otherwise they are the newest model's.
        dtype: of the average's floating-point parameters and buffers; None for the model's. A float32
            average of a bfloat16 model remembers what bfloat16 would round away. It is then a float32 model,
            and its `forward` takes float32 inputs, or runs under `torch.autocast`.

    Raises:
        AssertionError: both `avg_fn` and `multi_avg_fn` are given.
        TypeError: one of them is no function.
        ValueError: `dtype` is not a floating-point one.
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: nn.Module,
        device: int | torch.device | None = None,
        avg_fn: AverageFunction | None = None,
        multi_avg_fn: MultiAverageFunction | None = None,
        use_buffers: bool = False,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        for name, function in (("avg_fn", avg_fn), ("multi_avg_fn", multi_avg_fn)):
            if function is not None and not callable(function):
                raise TypeError(
                    f"Invalid {name}: {function!r} ({name} must be a function, such as get_ema_{name}())"
                )
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"Invalid dtype: {dtype} (dtype must be one of floating point)")
        self.module = deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        if dtype is not None:
            # Module.to would take complex parameters along, and lose their imaginary parts.
            self.module._apply(lambda x: x.to(dtype) if x.is_floating_point() else x)
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
        """What is not averaged but copied: such buffers, each with the model's own."""
        pairs = zip(self.module.buffers(), model.buffers(), strict=True)
        return [pair for pair in pairs if not self._averages(pair[0])]

    def _update(self, averages: list[Tensor], currents: list[Tensor]) -> None:
        if self.avg_fn is None:
            self._in_lists(averages, currents, self.n_averaged)
            return
        count = self.n_averaged.to(averages[0].device)
        for old, current in zip(averages, currents, strict=True):
            old.copy_(self.avg_fn(old, current, count))

    def _begin_or_update(self, averages: list[Tensor], currents: list[Tensor]) -> None:
        """Copy or update as a count says that only the device knows."""
        count = self.n_averaged.to(averages[0].device)
        first = count == 0
        if self.avg_fn is None and isinstance(self._in_lists, DecayingAverage):
            decay = torch.as_tensor(self._in_lists.decay_at(count), dtype=torch.float64)
            self._in_lists.mix(averages, currents, decay.masked_fill(first, 0.0))
            return
        updated = [x.clone() for x in averages]
        self._update(updated, currents)
        chosen = [torch.where(first, x, y) for x, y in zip(currents, updated, strict=True)]
        torch._foreach_copy_(averages, chosen)

    @property
    def _in_lists(self) -> MultiAverageFunction:
        return get_swa_multi_avg_fn() if self.multi_avg_fn is None else self.multi_avg_fn

    def _averaged(self, model: nn.Module) -> Iterator[Tensor]:
        return chain(model.parameters(), filter(self._averages, model.buffers()))

    def _averages(self, buffer: Tensor) -> bool:
        # There is nothing between true and false.
        return self.use_buffers and buffer.dtype != torch.bool


@torch.no_grad()
def copy_pairs(pairs: Pairs) -> None:
    """Copy the second of each pair into the first, all of one device and dtype at once."""
    for copies, currents in _alike(pairs):
        torch._foreach_copy_(copies, currents)


def _alike(pairs: Pairs) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Pairs as two lists for each devices and dtypes there are."""
    found: dict[tuple[Any, ...], tuple[list[Tensor], list[Tensor]]] = {}
    for pair in pairs:
        columns = found.setdefault(tuple((x.device, x.dtype) for x in pair), ([], []))
        for column, x in zip(columns, pair, strict=True):
            column.append(x.detach())
    yield from found.values()
