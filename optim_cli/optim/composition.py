"""What a step does around the rule: unscaling, clipping, skipping, averaging."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from optim_cli.optim.clipping import Clipping, Supplied, gradient_factor
from optim_cli.optim.execution.scalars import Values
from optim_cli.optim.optimizer import Optimizer
from optim_cli.optim.swa_utils import AveragedModel


class Composition(Optimizer):
    """An optimizer whose step unscales and clips gradients, is skipped and averages weights, where asked to.

    In this order: unscale, limit the norm, limit the elements, then what the options say, then average. What
    was asked for holds until it is asked for otherwise; neither states nor copies of the optimizer keep it.

    Attributes:
        grad_norm: L2 norm of all unscaled gradients before clipping, as of the last step: 0-d float32 on the
            device of the first gradient; None where no norm is limited.
        grad_scale, found_inf: set by torch.amp.GradScaler for a step: what gradients are multiplied by, if
            they still are, and whether one is infinite or NaN, so that the step is skipped.
    """

    # What asks GradScaler to leave unscaling and skipping to the step.
    _step_supports_amp_scaling: ClassVar[bool] = True

    # Not there between steps of a scaler, which asks for them.
    grad_scale: Tensor | None
    found_inf: Tensor | float
    _norm: Tensor | None = None  # float64; the next step may overwrite it
    _clipping: Clipping = Clipping()
    _averaging: tuple[AveragedModel, nn.Module] | None = None
    # What a whole of several algorithms, of which this is one, has measured of all gradients, while it steps.
    _given: Supplied | None = None

    def clip_gradients(self, max_norm: float | None = None, max_value: float | None = None) -> None:
        """Clip gradients within every step from now on; None for no limit. The gradients stay as they are.

        Args:
            max_norm: limit of the L2 norm of all gradients together, over all groups, as
                `torch.nn.utils.clip_grad_norm_` has it; `grad_norm` is then measured.
            max_value: limit of the absolute value of every element, after that; of the real and the
                imaginary part of complex ones.

        Raises:
            ValueError: a limit that is not a number above 0.
        """
        self._clipping = Clipping(max_norm, max_value)
        self._norm = None

    @property
    def grad_norm(self) -> Tensor | None:
        """See the class."""
        return None if self._norm is None else self._norm.float()

    def average_into(self, averaged: AveragedModel | None, model: nn.Module | None = None) -> None:
        """End every step from now on as with `averaged.update_parameters(model)`; None turns it off.

        So do steps that GradScaler skips.

        Raises:
            ValueError: an average without the model whose weights it takes.
        """
        if averaged is not None and model is None:
            raise ValueError("average_into wants the model, too: average_into(averaged, model)")
        self._averaging = None if averaged is None or model is None else (averaged, model)

    def _is_skipped(self) -> bool:
        """Whether a scaler wants no step; waits for the device, as it does itself before other optimizers."""
        return bool(getattr(self, "found_inf", False))

    def _scales(self) -> bool:
        """Whether this step multiplies gradients by a number."""
        if self._given is not None:
            return _hold(self._given, "gradient_factor")
        return self._clipping.max_norm is not None or getattr(self, "grad_scale", None) is not None

    def _clamps(self) -> bool:
        """Whether this step limits elements."""
        if self._given is not None:
            return _hold(self._given, "clip_value")
        return self._clipping.max_value is not None

    def _measure(self) -> Supplied:
        """Measure the norm; what pieces before the rule take from this step, by device of the gradients."""
        if self._given is not None:
            return self._given
        max_norm, max_value = self._clipping.max_norm, self._clipping.max_value
        common: Values = {} if max_value is None else {"clip_value": max_value}
        if not self._scales() and not common:
            return {}
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        devices = {g.device for g in gradients}
        if not self._scales():
            return dict.fromkeys(devices, common)
        factor, norm = gradient_factor(gradients, max_norm, getattr(self, "grad_scale", None))
        self._norm = None if norm is None else norm.detach()
        return {
            device: common | {"gradient_factor": factor.to(device, non_blocking=True)} for device in devices
        }

    def _average(self) -> None:
        """Take the weights into the average, if there is one."""
        if self._averaging is not None:
            averaged, model = self._averaging
            averaged.update_parameters(model)


def _hold(supplied: Supplied, name: str) -> bool:
    return any(name in values for values in supplied.values())
