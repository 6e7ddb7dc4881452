"""Clipping and averaging: within the optimizer's step where it can do that itself, around it elsewhere."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from optim_cli.optim.composition import Composition
from optim_cli.optim.swa_utils import AveragedModel


class AroundStep:
    """What a run does around the steps of its optimizer.

    Args:
        model: whose gradients are clipped, and whose weights are averaged.
        optimizer: takes over what it can do itself.
        averaging: the average; None where there is none.
        clip_norm, clip_value: limits of the norm of all gradients, and of each element; None for no limit.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        averaging: AveragedModel | None,
        clip_norm: float | None,
        clip_value: float | None,
    ) -> None:
        self._model = model
        self._within = optimizer if isinstance(optimizer, Composition) else None
        self._averaging, self._clip_norm, self._clip_value = averaging, clip_norm, clip_value
        self._norm: Tensor | None = None
        if self._within is not None:
            self._within.clip_gradients(clip_norm, clip_value)
            self._within.average_into(averaging, model)

    @property
    def grad_norm(self) -> Tensor | None:
        """Norm of the last gradients before clipping, 0-d on the device; None where no norm is limited.

        Of several evaluations in a step, it is that of the last one.
        """
        return self._norm if self._within is None else self._within.grad_norm

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
        if self._within is None and self._averaging is not None:
            self._averaging.update_parameters(self._model)
