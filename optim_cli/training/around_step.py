"""Clipping and averaging: within the optimizer's step where it can do that itself, around it elsewhere."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from optim_cli.optim.composition import Composition
from optim_cli.optim.swa_utils import ExponentialAverage
from optim_cli.training.averaging import Average


class AroundStep:
    """What a run does around the steps of its optimizer.

    Args:
        model: whose gradients are clipped, and whose weights are averaged.
        optimizer: takes over what it can do itself: clipping, and one average of every step.
        averages: the averages, any number.
        clip_norm, clip_value: limits of the norm of all gradients, and of each element; None for no limit.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        averages: Collection[Average],
        clip_norm: float | None,
        clip_value: float | None,
    ) -> None:
        self._model = model
        self._within = optimizer if isinstance(optimizer, Composition) else None
        self._averages, self._clip_norm, self._clip_value = averages, clip_norm, clip_value
        self._norm: Tensor | None = None
        self._step = 0
        self._averaged_within: Average | None = None
        if self._within is not None:
            self._within.clip_gradients(clip_norm, clip_value)
            self._within.average_into(None)

    @property
    def grad_norm(self) -> Tensor | None:
        """Norm of the last gradients before clipping, 0-d on the device; None where no norm is limited.

        Of several evaluations in a step, it is that of the last one.
        """
        return self._norm if self._within is None else self._within.grad_norm

    def before_step(self, step: int) -> None:
        """Get ready for a step; they count from 1."""
        self._step = step
        if self._within is None:
            return
        # One that is left out at times would make the optimizer plan its step anew each time.
        steady = [x for x in self._averages if x.every == 1 and x.is_due(step)]
        # Exponential ones are those that a fused step computes as it goes.
        exponential = [x for x in steady if isinstance(x.multi_avg_fn, ExponentialAverage)]
        chosen = next(iter(exponential or steady), None)
        if chosen is not self._averaged_within:
            self._within.average_into(chosen, self._model)
            self._averaged_within = chosen

    def after_backward(self) -> None:
        """Clip."""
        if self._within is not None:
            return
        if self._clip_norm is not None:
            self._norm = clip_grad_norm_(self._model.parameters(), self._clip_norm)
        if self._clip_value is not None:
            clip_grad_value_(self._model.parameters(), self._clip_value)

    def after_step(self) -> None:
        """Average."""
        for average in self._averages:
            if average is not self._averaged_within and average.is_due(self._step):
                average.update_parameters(self._model)
