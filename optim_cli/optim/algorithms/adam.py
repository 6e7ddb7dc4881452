"""Adam, with AMSGrad's variant."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optim_cli.optim.elementwise import Elementwise
from optim_cli.optim.hyperparameters import Coefficient, NonNegative
from optim_cli.optim.optimizer import Implementation


class Adam(Elementwise):
    r"""Adam (Kingma & Ba, arXiv 1412.6980); AMSGrad (Reddi et al., ICLR 2018).

    .. math::
        m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t = \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t} \,
        \frac{m_t}{\sqrt{v_t} / \sqrt{1 - \beta_2^t} + \epsilon}

    with the running maximum of :math:`v` in its place under `amsgrad`.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: learning rate :math:`\gamma`.
        betas: decay rates of the averages of gradients and squared gradients.
        eps: added to the denominator.
        weight_decay: L2 penalty, or decoupled decay with `decoupled_weight_decay`.
        amsgrad: use the maximum of the second moments so far.
        decoupled_weight_decay: decay as in AdamW.
        others: as for every :class:`Optimizer`.

    Raises:
        ValueError: a value outside its range; one beta a tensor and the other not.
    """

    zero_dim_state = ("step",)

    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative = 1e-3,
        betas: tuple[Coefficient, Coefficient] = (0.9, 0.999),
        eps: NonNegative = 1e-8,
        weight_decay: NonNegative = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        implementation: Implementation = "auto",
    ) -> None:
        self._setup(locals())

    def _check_options(self, options: dict[str, Any]) -> None:
        if len({isinstance(beta, Tensor) for beta in options["betas"]}) > 1:
            raise ValueError(f"betas must be either both floats or both Tensors, got {options['betas']}")

    @staticmethod
    def state_of(group: dict[str, Any]) -> dict[str, float]:
        """The moments, and their maximum under AMSGrad."""
        maximum = {"max_exp_avg_sq": 0.0} if group["amsgrad"] else {}
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0} | maximum

    @staticmethod
    def scalars(step: Tensor, *, lr: float, beta1: float, beta2: float) -> dict[str, Tensor]:
        """Bias corrections."""
        return dict(step_size=lr / (1 - beta1**step), bias2_sqrt=torch.sqrt(1 - beta2**step))

    @staticmethod
    def rule(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        max_exp_avg_sq: Tensor | None,
        *,
        step_size: float,
        bias2_sqrt: float,
        beta1: float,
        beta2: float,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """One step."""
        exp_avg = torch.lerp(exp_avg, g, 1 - beta1)
        exp_avg_sq = torch.addcmul(exp_avg_sq * beta2, g, g, value=1 - beta2)
        second = exp_avg_sq
        if max_exp_avg_sq is not None:
            max_exp_avg_sq = torch.maximum(max_exp_avg_sq, exp_avg_sq)
            second = max_exp_avg_sq
        denominator = torch.sqrt(second) / bias2_sqrt + eps
        p = torch.addcdiv(p, exp_avg, denominator, value=-step_size)
        return p, exp_avg, exp_avg_sq, max_exp_avg_sq
