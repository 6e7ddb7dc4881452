"""RAdam."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optim_cli.optim.elementwise import Elementwise
from optim_cli.optim.hyperparameters import Coefficient, NonNegative
from optim_cli.optim.optimizer import Implementation


class RAdam(Elementwise):
    r"""RAdam (Liu et al., arXiv 1908.03265): Adam whose step is rectified while its variance is unknown.

    .. math::
        \rho_\infty = \frac{2}{1 - \beta_2} - 1, \quad
        \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}, \quad
        r_t = \sqrt{\frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}} \\
        \theta_t = \theta_{t-1} - \frac{\gamma m_t}{1 - \beta_1^t} \cdot
        \left(r_t \frac{\sqrt{1 - \beta_2^t}}{\sqrt{v_t} + \epsilon}
        \text{ if } \rho_t > 5 \text{ else } 1\right)

    with the averages :math:`m, v` of Adam.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: learning rate :math:`\gamma`.
        betas: decay rates of the averages of gradients and squared gradients.
        eps: added to the denominator.
        weight_decay: L2 penalty, or decoupled decay with `decoupled_weight_decay`.
        decoupled_weight_decay: decay as in AdamW.
        others: as for every :class:`Optimizer`.

    Raises:
        ValueError: a value outside its range.
    """

    zero_dim_state = ("step",)

    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative = 1e-3,
        betas: tuple[Coefficient, Coefficient] = (0.9, 0.999),
        eps: NonNegative = 1e-8,
        weight_decay: NonNegative = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        implementation: Implementation = "auto",
    ) -> None:
        self._setup(locals())

    @staticmethod
    def state_of(group: dict[str, Any]) -> dict[str, float]:
        """The moments."""
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    @staticmethod
    def scalars(step: Tensor, *, lr: float, beta1: float, beta2: float) -> dict[str, Tensor]:
        """Bias corrections and rectification; where the variance is unknown, both bounds are 1."""
        longest = 2 / (1 - beta2) - 1
        correction = 1 - beta2**step
        length = longest - 2 * step * beta2**step / correction
        # Where it is not used, the root is taken of a number that is no trouble.
        now = torch.where(length > 5, length, 6.0)
        end = torch.where(length > 5, longest, 6.0)
        rectification = torch.sqrt((now - 4) * (now - 2) * end / ((end - 4) * (end - 2) * now) * correction)
        step_size = lr / (1 - beta1**step) * torch.where(length > 5, rectification, 1.0)
        lowest = torch.where(length > 5, 0.0, 1.0)
        highest = torch.where(length > 5, torch.inf, 1.0)
        return dict(step_size=step_size, lowest=lowest, highest=highest)

    @staticmethod
    def rule(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        *,
        step_size: float,
        lowest: float,
        highest: float,
        beta1: float,
        beta2: float,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step; without the variance, the denominator is 1."""
        exp_avg = torch.lerp(exp_avg, g, 1 - beta1)
        exp_avg_sq = torch.addcmul(exp_avg_sq * beta2, g, g, value=1 - beta2)
        denominator = torch.clamp_min(torch.sqrt(exp_avg_sq) + eps, lowest)
        denominator = torch.clamp_max(denominator, highest)
        p = torch.addcdiv(p, exp_avg, denominator, value=-step_size)
        return p, exp_avg, exp_avg_sq
