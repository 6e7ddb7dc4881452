"""Adam for sparse gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optim_cli.optim.elementwise import Elementwise
from optim_cli.optim.hyperparameters import Coefficient
from optim_cli.optim.optimizer import Implementation


class SparseAdam(Elementwise):
    r"""Adam (Kingma & Ba, arXiv 1412.6980, the efficient form at the end of its section 2) for sparse
    gradients: rows without a gradient keep their values and their averages.

    .. math::
        \theta_t = \theta_{t-1}
        - \gamma \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \, \frac{m_t}{\sqrt{v_t} + \epsilon}

    with the averages :math:`m, v` of Adam.

    Args:
        params: dense real parameters with gradients in COO layout, as of `nn.Embedding(sparse=True)`.
        lr: learning rate :math:`\gamma`.
        betas: decay rates of the averages of gradients and squared gradients.
        eps: added to the denominator, before the bias is corrected.
        maximize: ascend instead of descend.
        implementation: how the gathered rows are updated: auto, for_loop or foreach.

    Raises:
        ValueError: a value outside its range; sparse or complex parameters.
        RuntimeError: `step` with a dense gradient.
    """

    zero_dim_state = ("step",)
    sparse_gradients = "required"
    lacks: ClassVar[Mapping[str, str]] = {"fused": "rows with a gradient are gathered and scattered apart"}

    def __init__(
        self,
        params: ParamsT,
        lr: Annotated[float | Tensor, Gt(0)] = 1e-3,
        betas: tuple[Coefficient, Coefficient] = (0.9, 0.999),
        eps: Annotated[float, Gt(0)] = 1e-8,
        maximize: bool = False,
        *,
        implementation: Implementation = "auto",
    ) -> None:
        self._setup(locals())

    def _setup(self, arguments: Mapping[str, Any]) -> None:
        super()._setup(arguments)
        places = [(i, j, p) for i, x in enumerate(self.param_groups) for j, p in enumerate(x["params"])]
        if sparse := [[i, j] for i, j, p in places if p.is_sparse]:
            raise ValueError(
                f"Sparse params at indices {sparse}: SparseAdam requires dense parameter tensors"
            )
        if found := [[i, j] for i, j, p in places if p.is_complex()]:
            raise ValueError(
                f"Complex params at indices {found}: SparseAdam does not support complex parameters"
            )

    def state_dict(self) -> dict[str, Any]:
        """The state; step counts are whole numbers in it, as in torch's."""
        saved: dict[str, Any] = super().state_dict()
        counted = {
            key: held | {"step": int(held["step"])} if isinstance(held, dict) and "step" in held else held
            for key, held in saved["state"].items()
        }
        return saved | {"state": counted}

    @staticmethod
    def state_of(group: dict[str, Any]) -> dict[str, float]:
        """The moments."""
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    @staticmethod
    def scalars(step: Tensor, *, lr: float, beta1: float, beta2: float) -> dict[str, Tensor]:
        """The rate with both bias corrections."""
        return dict(step_size=lr * torch.sqrt(1 - beta2**step) / (1 - beta1**step))

    @staticmethod
    def rule(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        *,
        step_size: float,
        beta1: float,
        beta2: float,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of a row that has a gradient."""
        exp_avg = torch.lerp(exp_avg, g, 1 - beta1)
        exp_avg_sq = torch.addcmul(exp_avg_sq * beta2, g, g, value=1 - beta2)
        p = torch.addcdiv(p, exp_avg, torch.sqrt(exp_avg_sq) + eps, value=-step_size)
        return p, exp_avg, exp_avg_sq
