"""Adamax."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optim_cli.optim.elementwise import Elementwise
from optim_cli.optim.hyperparameters import Coefficient, NonNegative
from optim_cli.optim.optimizer import Implementation


class Adamax(Elementwise):
    r"""Adamax (Kingma & Ba, arXiv 1412.6980): Adam with the infinity norm.

    .. math::
        m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad
        u_t = \max(\beta_2 u_{t-1}, |g_t| + \epsilon), \quad
        \theta_t = \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t} \, \frac{m_t}{u_t}

    Args:
        params: parameters, named parameters or parameter groups.
        lr: learning rate :math:`\gamma`.
        betas: decay rates of the average of gradients and of their largest size.
        eps: added to the gradient's size.
        weight_decay: L2 penalty.
        others: as for every :class:`Optimizer`.

    Raises:
        ValueError: a value outside its range.
    """

    zero_dim_state = ("step",)

    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative = 2e-3,
        betas: tuple[Coefficient, Coefficient] = (0.9, 0.999),
        eps: NonNegative = 1e-8,
        weight_decay: NonNegative = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        implementation: Implementation = "auto",
    ) -> None:
        self._setup(locals())

    @staticmethod
    def state_of(group: dict[str, Any]) -> dict[str, float]:
        """The average and the norm."""
        return {"exp_avg": 0.0, "exp_inf": 0.0}

    @staticmethod
    def scalars(step: Tensor, *, lr: float, beta1: float) -> dict[str, Tensor]:
        """Bias correction."""
        return dict(step_size=lr / (1 - beta1**step))

    @staticmethod
    def rule(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_inf: Tensor,
        *,
        step_size: float,
        beta1: float,
        beta2: float,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step."""
        exp_avg = torch.lerp(exp_avg, g, 1 - beta1)
        exp_inf = torch.maximum(exp_inf * beta2, torch.abs(g) + eps)
        p = torch.addcdiv(p, exp_avg, exp_inf, value=-step_size)
        return p, exp_avg, exp_inf
