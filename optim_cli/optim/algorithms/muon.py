"""Muon."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optim_cli.optim.hyperparameters import NonNegative
from optim_cli.optim.optimizer import Implementation
from optim_cli.optim.per_tensor.base import PerTensor, State
from optim_cli.optim.per_tensor.matrix_parameters import refuse_others, shape_as_matrix
from optim_cli.optim.per_tensor.orthogonal import orthogonal

AdjustLr = Literal["original", "match_rms_adamw"]


class Muon(PerTensor):
    r"""Muon: orthogonal updates of matrices (Jordan et al., https://kellerjordan.github.io/posts/muon, 2024).

    .. math::
        B_t = \mu B_{t-1} + (1 - \mu) G_t, \quad
        X = (1 - \mu) G_t + \mu B_t \text{ if nesterov else } B_t, \quad X \leftarrow X / \lVert X \rVert \\
        A = X X^\top, \quad X \leftarrow a X + (b A + c A^2) X \quad (k \text{ times}) \\
        \theta_t = \theta_{t-1} - \gamma \lambda \theta_{t-1} - \gamma r X

    The iteration drives all singular values towards 1, in bfloat16. For a matrix of m rows and n columns,
    r is :math:`\sqrt{\max(1, m / n)}`, or :math:`0.2 \sqrt{\max(m, n)}` (Liu et al., arXiv 2502.16982).

    Args:
        params: parameters, named parameters or parameter groups; matrices only.
        lr: learning rate :math:`\gamma`.
        weight_decay: decoupled decay :math:`\lambda`.
        momentum: :math:`\mu`.
        nesterov: look ahead by one step of momentum.
        ns_coefficients: a, b, c.
        eps: the least norm that X is divided by.
        ns_steps: k.
        adjust_lr_fn: which r: original (also null) or match_rms_adamw.
        flatten: take tensors of more dimensions as matrices, all dimensions but the first as columns.
        implementation: auto, foreach (all matrices of a shape at once) or for_loop.

    Raises:
        ValueError: a value outside its range; parameters that are no matrices.
    """

    beyond_torch = ("flatten",)

    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative = 1e-3,
        weight_decay: NonNegative = 0.1,
        momentum: NonNegative = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: Annotated[int, Ge(0), Lt(100)] = 5,
        adjust_lr_fn: AdjustLr | None = None,
        *,
        flatten: bool = False,
        implementation: Implementation = "auto",
    ) -> None:
        self._setup(locals())

    def _check_options(self, options: dict[str, Any]) -> None:
        if options["adjust_lr_fn"] not in (None, "original", "match_rms_adamw"):
            raise ValueError(
                f"Adjust learning rate function {options['adjust_lr_fn']} is not supported "
                "(allowed: original, match_rms_adamw)"
            )

    def _check_params(self, group: dict[str, Any]) -> None:
        refuse_others(group)

    def create(self, p: Tensor) -> State:
        """The average of the gradients."""
        return {"momentum_buffer": torch.zeros_like(p, memory_format=torch.preserve_format).detach()}

    def kind(self, p: Tensor) -> tuple[int, int]:
        """Rows and columns."""
        return shape_as_matrix(p)

    def update(
        self, options: dict[str, Any], params: list[Tensor], grads: list[Tensor], states: list[State]
    ) -> None:
        """One step."""
        lr, momentum = options["lr"], options["momentum"]
        buffers = [state["momentum_buffer"] for state in states]
        # A buffer that was loaded may be wider than its parameter.
        grads = [g.to(b.dtype) for g, b in zip(grads, buffers, strict=True)]
        torch._foreach_lerp_(buffers, grads, 1 - momentum)
        ahead = (g.lerp(b, momentum) for g, b in zip(grads, buffers, strict=True))
        rows, columns = shape_as_matrix(params[0])
        updates = torch.empty(len(params), rows, columns, dtype=torch.bfloat16, device=params[0].device)
        # Copied in one at a time: beside this batch there is one temporary.
        for x, direction in zip(updates, ahead if options["nesterov"] else buffers, strict=True):
            x.copy_(direction.flatten(1))
        updates = orthogonal(updates, options["ns_coefficients"], options["ns_steps"], options["eps"])
        torch._foreach_mul_(params, 1 - lr * options["weight_decay"])
        rate = lr * _adjustment(options["adjust_lr_fn"], rows, columns)
        for p, x in zip(params, updates, strict=True):
            p.add_(x.view(p.shape), alpha=-rate)


def _adjustment(function: str | None, rows: int, columns: int) -> float:
    if function == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / max(1, columns)))
