"""Stochastic gradient descent, with momentum and Nesterov's variant."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optim_cli.optim.elementwise import Elementwise
from optim_cli.optim.hyperparameters import NonNegative
from optim_cli.optim.optimizer import Implementation


class SGD(Elementwise):
    r"""Stochastic gradient descent (Sutskever et al., 2013, "On the importance of initialization
    and momentum in deep learning", in torch's formulation).

    .. math::
        b_t = \mu b_{t-1} + (1 - \tau) g_t, \quad b_1 = g_1 \\
        \theta_t = \theta_{t-1} - \gamma \, (g_t + \mu b_t \text{ if nesterov else } b_t)

    Args:
        params: parameters, named parameters or parameter groups.
        lr: learning rate :math:`\gamma`.
        momentum: :math:`\mu`; 0 keeps no buffer, and :math:`g_t` is applied itself.
        dampening: :math:`\tau`; the first step is not dampened.
        weight_decay: L2 penalty.
        nesterov: look ahead by one step of momentum.
        capturable: no more than a promise: nothing that a graph would freeze is counted here.
        others: as for every :class:`Optimizer`.

    Raises:
        ValueError: a value outside its range; `nesterov` without momentum or with dampening.
    """

    sparse_gradients = "accepted"
    sparse_states = True
    beyond_torch = ("capturable",)

    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative = 1e-3,
        momentum: NonNegative = 0,
        dampening: float = 0,
        weight_decay: NonNegative = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        implementation: Implementation = "auto",
    ) -> None:
        self._setup(locals())

    def _check_options(self, options: dict[str, Any]) -> None:
        if options["nesterov"] and (options["momentum"] <= 0 or options["dampening"] != 0):
            raise ValueError(
                "Nesterov momentum requires a momentum and zero dampening, got "
                f"momentum={options['momentum']}, dampening={options['dampening']}"
            )

    @staticmethod
    def state_of(group: dict[str, Any]) -> dict[str, float]:
        """The momentum buffer, where there is momentum."""
        return {"momentum_buffer": 0.0} if group["momentum"] != 0 else {}

    @staticmethod
    def scalars(first: Tensor, *, dampening: float) -> dict[str, Tensor]:
        """The buffer starts at zero; taking the first gradient undampened makes it b_1 = g_1."""
        return dict(intake=torch.where(first, 1.0, 1 - dampening))

    @staticmethod
    def rule(
        p: Tensor,
        g: Tensor,
        momentum_buffer: Tensor | None,
        *,
        lr: float,
        momentum: float,
        intake: float,
        nesterov: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """One step."""
        if momentum_buffer is not None:
            momentum_buffer = torch.add(momentum_buffer * momentum, g, alpha=intake)
            g = torch.add(g, momentum_buffer, alpha=momentum) if nesterov else momentum_buffer
        p = torch.add(p, g, alpha=-lr)
        return p, momentum_buffer
