"""Adagrad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optim_cli.optim.elementwise import Elementwise
from optim_cli.optim.hyperparameters import NonNegative
from optim_cli.optim.optimizer import Implementation


class Adagrad(Elementwise):
    r"""Adagrad (Duchi et al., 2011, "Adaptive subgradient methods for online learning and stochastic
    optimization").

    .. math::
        s_t = s_{t-1} + g_t^2, \quad
        \theta_t = \theta_{t-1} - \frac{\gamma}{1 + (t - 1) \eta} \, \frac{g_t}{\sqrt{s_t} + \epsilon}

    Args:
        params: parameters, named parameters or parameter groups.
        lr: learning rate :math:`\gamma`.
        lr_decay: :math:`\eta`.
        weight_decay: L2 penalty.
        initial_accumulator_value: :math:`s_0`, for the parameters of all groups.
        eps: added to the denominator.
        others: as for every :class:`Optimizer`.

    Raises:
        ValueError: a value outside its range.
    """

    zero_dim_state = ("step",)
    sparse_gradients = "accepted"
    beyond_torch = ("capturable",)

    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative = 1e-2,
        lr_decay: NonNegative = 0,
        weight_decay: NonNegative = 0,
        initial_accumulator_value: NonNegative = 0,
        eps: NonNegative = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        implementation: Implementation = "auto",
    ) -> None:
        self._setup(locals())

    def _setup(self, arguments: Mapping[str, Any]) -> None:
        super()._setup(arguments)
        # Others read the sums before the first step, and share their memory between processes.
        for group in self.param_groups:
            for p in group["params"]:
                self._create(self._states[p], p, group)

    def _create(self, state: dict[str, Any], p: Tensor, group: dict[str, Any]) -> None:
        # As in torch, all groups start from the constructor's value.
        start = {"initial_accumulator_value": self.defaults["initial_accumulator_value"]}
        super()._create(state, p, group | start)

    def share_memory(self) -> None:
        """Move the sums into memory that other processes share."""
        for state in self.state.values():
            state["sum"].share_memory_()

    @staticmethod
    def state_of(group: dict[str, Any]) -> dict[str, float]:
        """Sum of squared gradients."""
        return {"sum": group["initial_accumulator_value"]}

    @staticmethod
    def scalars(step: Tensor, *, lr: float, lr_decay: float) -> dict[str, Tensor]:
        """The decayed rate."""
        return dict(step_size=lr / (1 + (step - 1) * lr_decay))

    @staticmethod
    def rule(p: Tensor, g: Tensor, sum: Tensor, *, step_size: float, eps: float) -> tuple[Tensor, Tensor]:
        """One step."""
        sum = torch.addcmul(sum, g, g)
        p = torch.addcdiv(p, g, torch.sqrt(sum) + eps, value=-step_size)
        return p, sum
