"""AdamW: Adam with decoupled weight decay."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from optim_cli.optim.algorithms.adam import Adam
from optim_cli.optim.hyperparameters import Coefficient, NonNegative
from optim_cli.optim.optimizer import Implementation


class AdamW(Adam):
    r"""AdamW (Loshchilov & Hutter, arXiv 1711.05101).

    Adam on :math:`(1 - \gamma \lambda) \, \theta_{t-1}`: the decay :math:`\lambda` does not pass
    through the moments.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: learning rate :math:`\gamma`.
        betas: decay rates of the averages of gradients and squared gradients.
        eps: added to the denominator.
        weight_decay: decay :math:`\lambda`, per unit of learning rate.
        amsgrad: use the maximum of the second moments so far.
        others: as for every :class:`Optimizer`.

    Raises:
        ValueError: a value outside its range; one beta a tensor and the other not.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative = 1e-3,
        betas: tuple[Coefficient, Coefficient] = (0.9, 0.999),
        eps: NonNegative = 1e-8,
        weight_decay: NonNegative = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        implementation: Implementation = "auto",
    ) -> None:
        self._setup(locals() | {"decoupled_weight_decay": True})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # A checkpoint of Adam loaded here goes on as AdamW.
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True
