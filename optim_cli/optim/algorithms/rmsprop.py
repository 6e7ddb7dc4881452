"""RMSprop."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optim_cli.optim.elementwise import Elementwise
from optim_cli.optim.hyperparameters import NonNegative
from optim_cli.optim.optimizer import Implementation, Optimizer


class RMSprop(Elementwise):
    r"""RMSprop (Hinton, lecture 6e of "Neural Networks for Machine Learning", 2012); centered as in
    Graves, arXiv 1308.0850.

    .. math::
        v_t = \alpha v_{t-1} + (1 - \alpha) g_t^2, \quad
        b_t = \mu b_{t-1} + \frac{g_t}{\sqrt{v_t} + \epsilon}, \quad
        \theta_t = \theta_{t-1} - \gamma b_t

    with :math:`v_t - \bar g_t^2` under the root if `centered`, where :math:`\bar g` is the average gradient.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: learning rate :math:`\gamma`.
        alpha: decay rate of the averages.
        eps: added to the denominator.
        weight_decay: L2 penalty.
        momentum: :math:`\mu`; 0 keeps no buffer.
        centered: divide by the standard deviation instead of the root mean square.
        others: as for every :class:`Optimizer`.

    Raises:
        ValueError: a value outside its range.
    """

    zero_dim_state = ("step",)
    _absent_in_old_checkpoints: ClassVar[dict[str, Any]] = {
        **Optimizer._absent_in_old_checkpoints,
        "momentum": 0,
        "centered": False,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative = 1e-2,
        alpha: NonNegative = 0.99,
        eps: NonNegative = 1e-8,
        weight_decay: NonNegative = 0,
        momentum: NonNegative = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        implementation: Implementation = "auto",
    ) -> None:
        self._setup(locals())

    @staticmethod
    def state_of(group: dict[str, Any]) -> dict[str, float]:
        """The averages, and the momentum buffer where there is momentum."""
        buffer = {"momentum_buffer": 0.0} if group["momentum"] > 0 else {}
        return {"square_avg": 0.0} | buffer | ({"grad_avg": 0.0} if group["centered"] else {})

    @staticmethod
    def scalars() -> dict[str, Tensor]:
        """Nothing depends on the step."""
        return dict()

    @staticmethod
    def rule(
        p: Tensor,
        g: Tensor,
        square_avg: Tensor,
        momentum_buffer: Tensor | None,
        grad_avg: Tensor | None,
        *,
        lr: float,
        alpha: float,
        momentum: float,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """One step."""
        square_avg = torch.addcmul(square_avg * alpha, g, g, value=1 - alpha)
        second = square_avg
        if grad_avg is not None:
            grad_avg = torch.lerp(grad_avg, g, 1 - alpha)
            second = torch.addcmul(square_avg, grad_avg, grad_avg, value=-1)
        denominator = torch.sqrt(second) + eps
        if momentum_buffer is not None:
            momentum_buffer = torch.addcdiv(momentum_buffer * momentum, g, denominator)
            p = torch.add(p, momentum_buffer, alpha=-lr)
        else:
            p = torch.addcdiv(p, g, denominator, value=-lr)
        return p, square_avg, momentum_buffer, grad_avg
