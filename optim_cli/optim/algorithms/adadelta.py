"""Adadelta."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optim_cli.optim.elementwise import Elementwise
from optim_cli.optim.hyperparameters import NonNegative
from optim_cli.optim.optimizer import Implementation


class Adadelta(Elementwise):
    r"""Adadelta (Zeiler, arXiv 1212.5701).

    .. math::
        v_t = \rho v_{t-1} + (1 - \rho) g_t^2, \quad
        \Delta_t = \frac{\sqrt{u_{t-1} + \epsilon}}{\sqrt{v_t + \epsilon}} \, g_t \\
        u_t = \rho u_{t-1} + (1 - \rho) \Delta_t^2, \quad \theta_t = \theta_{t-1} - \gamma \Delta_t

    Args:
        params: parameters, named parameters or parameter groups.
        lr: factor :math:`\gamma` on the steps.
        rho: decay rate of both averages.
        eps: added under both roots.
        weight_decay: L2 penalty.
        others: as for every :class:`Optimizer`.

    Raises:
        ValueError: a value outside its range.
    """

    zero_dim_state = ("step",)

    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative = 1.0,
        rho: Annotated[float, Ge(0), Le(1)] = 0.9,
        eps: NonNegative = 1e-6,
        weight_decay: NonNegative = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        implementation: Implementation = "auto",
    ) -> None:
        self._setup(locals())

    @staticmethod
    def state_of(group: dict[str, Any]) -> dict[str, float]:
        """Averages of squared gradients and of squared steps."""
        return {"square_avg": 0.0, "acc_delta": 0.0}

    @staticmethod
    def scalars() -> dict[str, Tensor]:
        """Nothing depends on the step."""
        return dict()

    @staticmethod
    def rule(
        p: Tensor,
        g: Tensor,
        square_avg: Tensor,
        acc_delta: Tensor,
        *,
        lr: float,
        rho: float,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step."""
        square_avg = torch.addcmul(square_avg * rho, g, g, value=1 - rho)
        delta = torch.sqrt(acc_delta + eps) / torch.sqrt(square_avg + eps) * g
        acc_delta = torch.addcmul(acc_delta * rho, delta, delta, value=1 - rho)
        p = torch.add(p, delta, alpha=-lr)
        return p, square_avg, acc_delta
