"""NAdam."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optim_cli.optim.elementwise import Elementwise
from optim_cli.optim.hyperparameters import Coefficient, NonNegative
from optim_cli.optim.optimizer import Implementation


class NAdam(Elementwise):
    r"""NAdam (Dozat, 2016, "Incorporating Nesterov Momentum into Adam").

    .. math::
        \mu_t = \beta_1 \left(1 - \tfrac{1}{2} 0.96^{t \psi}\right), \quad
        \hat m_t = \frac{\mu_{t+1} m_t}{1 - \prod_{i=1}^{t+1} \mu_i}
        + \frac{(1 - \mu_t) g_t}{1 - \prod_{i=1}^{t} \mu_i}, \quad
        \theta_t = \theta_{t-1} - \gamma \frac{\hat m_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    with the averages :math:`m, v` of Adam.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: learning rate :math:`\gamma`.
        betas: decay rates of the averages of gradients and squared gradients.
        eps: added to the denominator.
        weight_decay: L2 penalty, or decoupled decay with `decoupled_weight_decay`.
        momentum_decay: :math:`\psi`; 0 keeps :math:`\mu` at half of :math:`\beta_1`.
        decoupled_weight_decay: decay as in AdamW.
        others: as for every :class:`Optimizer`.

    Raises:
        ValueError: a value outside its range.
    """

    zero_dim_state = ("step", "mu_product")

    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative = 2e-3,
        betas: tuple[Coefficient, Coefficient] = (0.9, 0.999),
        eps: NonNegative = 1e-8,
        weight_decay: NonNegative = 0,
        momentum_decay: NonNegative = 4e-3,
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
    def zero_dim_start(group: dict[str, Any]) -> dict[str, float]:
        """An empty product."""
        return {"mu_product": 1.0}

    @staticmethod
    def scalars(
        step: Tensor, mu_product: Tensor, *, beta1: float, beta2: float, momentum_decay: float
    ) -> dict[str, Tensor]:
        """Momentum now and at the next step, its product so far, and the bias correction."""
        mu = beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))
        mu_next = beta1 * (1 - 0.5 * 0.96 ** ((step + 1) * momentum_decay))
        bias2_sqrt = torch.sqrt(1 - beta2**step)
        return dict(mu=mu, mu_next=mu_next, mu_product=mu_product * mu, bias2_sqrt=bias2_sqrt)

    @staticmethod
    def rule(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        *,
        lr: float,
        mu: float,
        mu_next: float,
        mu_product: float,
        bias2_sqrt: float,
        beta1: float,
        beta2: float,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step."""
        exp_avg = torch.lerp(exp_avg, g, 1 - beta1)
        exp_avg_sq = torch.addcmul(exp_avg_sq * beta2, g, g, value=1 - beta2)
        denominator = torch.sqrt(exp_avg_sq) / bias2_sqrt + eps
        p = torch.addcdiv(p, g, denominator, value=-lr * (1 - mu) / (1 - mu_product))
        p = torch.addcdiv(p, exp_avg, denominator, value=-lr * mu_next / (1 - mu_product * mu_next))
        return p, exp_avg, exp_avg_sq
