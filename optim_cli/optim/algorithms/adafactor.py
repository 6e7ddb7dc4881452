"""Adafactor."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optim_cli.optim.execution.zero_dim import stored_dtype
from optim_cli.optim.hyperparameters import NonNegative
from optim_cli.optim.optimizer import Implementation
from optim_cli.optim.per_tensor.base import PerTensor, State
from optim_cli.optim.per_tensor.factored_variance import factored, no_average, whole


class Adafactor(PerTensor):
    r"""Adafactor (Shazeer & Stern, arXiv 1804.04235), as torch states it: without momentum.

    .. math::
        R_t = \beta_t R_{t-1} + (1 - \beta_t) \overline{G_t^2}^{\,\mathrm{rows}}, \quad
        C_t = \beta_t C_{t-1} + (1 - \beta_t) \overline{G_t^2}^{\,\mathrm{columns}}, \quad
        1 - \beta_t = t^{\tau} \\
        \hat V_t = R_t C_t / \max(\overline{R_t}, \epsilon_1), \quad
        U_t = G_t / \max(\sqrt{\hat V_t}, \epsilon_1) \\
        \theta_t = \theta_{t-1} - \gamma \lambda \theta_{t-1}
        - \frac{\max(\epsilon_2, \mathrm{RMS}(\theta_{t-1})) \min(\gamma, 1/\sqrt t)}
        {\max(1, \mathrm{RMS}(U_t) / d)} \, U_t

    The last two dimensions are rows and columns. A vector has none: its :math:`\hat V_t` averages its
    squared gradients.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: learning rate :math:`\gamma`, relative to the size of the parameter.
        beta2_decay: :math:`\tau`; how fast the averages of squared gradients become long.
        eps: :math:`\epsilon_1`, null for the resolution of the dtype, and :math:`\epsilon_2`.
        d: threshold above which an update is scaled down.
        weight_decay: decoupled decay :math:`\lambda`.
        foreach: torch's switch; prefer `implementation`.
        maximize: ascend instead of descend.
        implementation: auto, for_loop or foreach.

    Raises:
        ValueError: a value outside its range; fused, which there is not.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative = 1e-2,
        beta2_decay: Annotated[float, Le(0)] = -0.8,
        eps: tuple[Annotated[float, Ge(0)] | None, NonNegative] = (None, 1e-3),
        d: Annotated[float, Ge(1)] = 1.0,
        weight_decay: NonNegative = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        implementation: Implementation = "auto",
    ) -> None:
        self._setup(locals())

    def _check_options(self, options: dict[str, Any]) -> None:
        if options["eps"][0] is not None and not options["eps"][0] >= 0:
            raise ValueError(f"epsilon1 should be >= 0 but is: {options['eps'][0]} (None: that of the dtype)")

    def create(self, p: Tensor) -> State:
        """The step count, and averages of squared gradients."""
        return {"step": torch.zeros((), dtype=stored_dtype())} | no_average(p)

    def kind(self, p: Tensor) -> bool:
        """Whether the variance is factored."""
        return p.dim() > 1

    def update(
        self, options: dict[str, Any], params: list[Tensor], grads: list[Tensor], states: list[State]
    ) -> None:
        """One step."""
        eps1, eps2 = options["eps"]
        eps1 = torch.finfo(params[0].dtype).eps if eps1 is None else eps1
        if params[0].is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "Adafactor cannot be captured in a CUDA graph: its step counts are on the host"
            )
        torch._foreach_add_([state["step"] for state in states], 1)
        steps = [state["step"].item() for state in states]
        weights = [step ** options["beta2_decay"] for step in steps]
        # Sizes and rates stay on the device, which nobody waits for.
        known = [
            [min(options["lr"], step**-0.5) for step in steps],
            [max(1, p.numel()) ** -0.5 for p in params],
            [eps2] * len(params),
            [options["d"]] * len(params),
        ]
        rates, roots, least, threshold = torch.tensor(known, dtype=torch.float64).to(
            params[0].device, non_blocking=True
        )
        # Like Python's `max`, and unlike torch.maximum, fmax prefers the floor to NaN.
        rates *= torch.fmax(_norms(params) * roots, least)
        if options["weight_decay"] != 0:
            torch._foreach_mul_(params, 1 - options["lr"] * options["weight_decay"])
        if self.kind(params[0]):
            updates = factored(grads, states, weights, eps1)
        else:
            updates = whole(grads, states, weights)
        torch._foreach_clamp_max_(updates, 1 / eps1 if eps1 else math.inf)
        torch._foreach_mul_(updates, grads)
        rates *= threshold / torch.fmax(_norms(updates) * roots, threshold)
        # A rate has the dimensions of its parameter, so that bfloat16 does not round it.
        rates = rates.to(torch.promote_types(params[0].dtype, torch.float32))
        apart = [rate.view((1,) * p.dim()) for p, rate in zip(params, rates.unbind(), strict=True)]
        torch._foreach_addcmul_(params, updates, apart, value=1 if options["maximize"] else -1)


def _norms(tensors: list[Tensor]) -> Tensor:
    """Euclidean norms: [len(tensors)], float64."""
    return torch.stack(torch._foreach_norm(tensors)).double()
