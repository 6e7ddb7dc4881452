"""Averaged stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optim_cli.optim.elementwise import Elementwise
from optim_cli.optim.hyperparameters import NonNegative
from optim_cli.optim.optimizer import Implementation


class ASGD(Elementwise):
    r"""Averaged stochastic gradient descent (Polyak & Juditsky, 1992, "Acceleration of stochastic
    approximation by averaging").

    .. math::
        \theta_t = (1 - \lambda \eta_t) \theta_{t-1} - \eta_t g_t, \quad
        a_t = a_{t-1} + \mu_t (\theta_t - a_{t-1}) \\
        \eta_{t+1} = \frac{\gamma}{(1 + \lambda \gamma t)^\alpha}, \quad
        \mu_{t+1} = \frac{1}{\max(1, t - t_0)}

    from :math:`\eta_1 = \gamma, \mu_1 = 1`; the average :math:`a` is the state `ax`.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: learning rate :math:`\gamma`.
        lambd: decay :math:`\lambda`.
        alpha: power of the decay of :math:`\eta`.
        t0: the step at which averaging starts.
        weight_decay: L2 penalty.
        others: as for every :class:`Optimizer`.

    Raises:
        ValueError: a value outside its range.
    """

    zero_dim_state = ("step", "eta", "mu")
    zero_dim_beside_parameters = True

    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: NonNegative = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        *,
        implementation: Implementation = "auto",
    ) -> None:
        self._setup(locals())

    @staticmethod
    def state_of(group: dict[str, Any]) -> dict[str, float]:
        """The average."""
        return {"ax": 0.0}

    @staticmethod
    def zero_dim_start(group: dict[str, Any]) -> dict[str, float]:
        """The first step takes the learning rate as it is, and becomes the average."""
        return {"eta": group["lr"], "mu": 1.0}

    @staticmethod
    def scalars(
        step: Tensor, eta: Tensor, mu: Tensor, *, lr: float, lambd: float, alpha: float, t0: float
    ) -> dict[str, Tensor]:
        """What this step takes, and `eta` and `mu` of the next."""
        eta_next = lr / (1 + lambd * lr * step) ** alpha
        mu_next = 1 / torch.where(step - t0 > 1, step - t0, 1.0)
        return dict(step_size=eta, weight=mu, eta=eta_next, mu=mu_next)

    @staticmethod
    def rule(
        p: Tensor, g: Tensor, ax: Tensor, *, step_size: float, weight: float, lambd: float
    ) -> tuple[Tensor, Tensor]:
        """One step; the parameter is rounded once, and with a weight of 1 is the average itself."""
        p = torch.add(p, torch.add(g, p, alpha=lambd), alpha=-step_size)
        ax = torch.lerp(ax, p, weight)
        return p, ax
