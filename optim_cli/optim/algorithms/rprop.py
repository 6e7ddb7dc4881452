"""Resilient backpropagation."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Gt, Lt
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optim_cli.optim.elementwise import Elementwise
from optim_cli.optim.hyperparameters import NonNegative
from optim_cli.optim.optimizer import Implementation


class Rprop(Elementwise):
    r"""Resilient backpropagation (Riedmiller & Braun, 1993, "A direct adaptive method for faster
    backpropagation learning: the RPROP algorithm"): steps by the sign of the gradient, each of its own size.

    .. math::
        s_t &= \operatorname{sign}(g_t g_{t-1}) \\
        \eta_t &= \operatorname{clamp}(\eta_{t-1} \cdot
        (\eta_+ \text{ if } s_t > 0, \; \eta_- \text{ if } s_t < 0, \text{ else } 1)) \\
        g_t &\leftarrow 0 \text{ if } s_t < 0, \quad
        \theta_t = \theta_{t-1} - \eta_t \operatorname{sign}(g_t)

    Args:
        params: parameters, named parameters or parameter groups.
        lr: size of the first steps.
        etas: factors :math:`(\eta_-, \eta_+)` after a change of sign and without one.
        step_sizes: the smallest and the largest step.
        others: as for every :class:`Optimizer`.

    Raises:
        ValueError: a value outside its range.
    """

    zero_dim_state = ("step",)

    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative = 1e-2,
        etas: tuple[Annotated[float, Gt(0), Lt(1)], Annotated[float, Gt(1)]] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        implementation: Implementation = "auto",
    ) -> None:
        self._setup(locals())

    @staticmethod
    def state_of(group: dict[str, Any]) -> dict[str, float]:
        """The last gradient and the step sizes."""
        return {"prev": 0.0, "step_size": group["lr"]}

    @staticmethod
    def scalars() -> dict[str, Tensor]:
        """Nothing depends on the step."""
        return dict()

    @staticmethod
    def rule(
        p: Tensor,
        g: Tensor,
        prev: Tensor,
        step_size: Tensor,
        *,
        eta1: float,
        eta2: float,
        step_size1: float,
        step_size2: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step; clamps choose among the three signs, and every factor that is not chosen is exactly 1."""
        sign = torch.sign(g * prev)
        step_size = step_size * torch.clamp_min(sign * eta2, 1.0)
        kept = torch.clamp_max(sign + 1.0, 1.0)  # 0 after a change of sign, else 1
        step_size = step_size * torch.clamp_min(kept, eta1)
        g = g * kept
        step_size = torch.clamp_max(torch.clamp_min(step_size, step_size1), step_size2)
        p = torch.addcmul(p, torch.sign(g), step_size, value=-1)
        return p, g, step_size
