"""Clipping and unscaling: what is measured of all gradients before a step, and what it makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor

from optim_cli.optim.execution.foreach import portions
from optim_cli.optim.execution.scalars import Values
from optim_cli.optim.optimizer import NATIVE

Supplied = Mapping[torch.device, Values]


@dataclass(frozen=True)
class Clipping:
    """Limits on the gradients of every step; None for no limit.

    Attributes:
        max_norm: of the L2 norm of all gradients together.
        max_value: of the absolute value of every element, after the norm is limited.

    Raises:
        ValueError: a limit that is not a number above 0.
    """

    max_norm: float | None = None
    max_value: float | None = None

    def __post_init__(self) -> None:
        for name, limit in asdict(self).items():
            number = isinstance(limit, int | float) and not isinstance(limit, bool)
            if limit is not None and not (number and limit > 0):
                raise ValueError(f"Invalid {name} value: {limit} ({name} must be > 0, or None for no limit)")


def gradient_factor(
    gradients: Sequence[Tensor], max_norm: float | None, grad_scale: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The one number that unscales gradients and limits their norm, and the norm; the host reads neither.

    Args:
        gradients: of all parameters, multiplied by `grad_scale`.
        max_norm: limit of the L2 norm of all gradients together, unscaled; None for no limit.
        grad_scale: one element; None stands for 1.

    Returns:
        The factor, and the norm before it is limited (None where it is not), both 0-d float64 on the
        device of the first gradient.
    """
    device = _home_of(gradients)
    factor = torch.ones((), dtype=torch.float64, device=device)
    if grad_scale is not None:
        factor = grad_scale.reshape(()).to(device, torch.float64, non_blocking=True).reciprocal()
    if max_norm is None:
        return factor, None
    norm = global_norm(gradients) * factor
    # As torch.nn.utils.clip_grad_norm_ has it.
    return factor * torch.clamp(max_norm / (norm + 1e-6), max=1.0), norm


def global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """L2 norm of all gradients together, 0-d float64 on the first one's device; 0 without any.

    Sparse ones count by their coalesced values, complex ones by their absolute values. Sums are in float32,
    of float64 gradients in float64.
    """
    device = _home_of(gradients)
    alike: dict[tuple[Any, ...], list[Tensor]] = {}
    for g in gradients:
        values = g.coalesce().values() if g.is_sparse else g
        values = torch.view_as_real(values) if values.is_complex() else values
        alike.setdefault((values.device, values.dtype, values.__class__), []).append(values)
    norms = [torch.zeros(1, dtype=torch.float64, device=device)]
    for (_, dtype, kind), several in alike.items():
        norms_of: Callable[..., Sequence[Tensor]] = torch._foreach_norm if kind in NATIVE else _one_by_one
        of_each = torch.stack([*norms_of(several, 2, dtype=torch.promote_types(dtype, torch.float32))])
        norms.append(of_each.to(device, torch.float64, non_blocking=True))
    norm: Tensor = torch.linalg.vector_norm(torch.cat(norms))
    return norm


def limited(gradients: list[Tensor], values: Values) -> list[Tensor]:
    """Gradients times `gradient_factor`, then clamped to +-`clip_value`, where these are among the values.

    Narrow ones are rounded once. What is given stays as it is; without anything to do, it is returned.

    Args:
        gradients: dense ones of one device and dtype, real numbers.
        values: what a step supplies for that device.
    """
    if not values:
        return gradients
    dtype = gradients[0].dtype
    wide = torch.promote_types(dtype, torch.float32)
    found: Sequence[Tensor] = [g.to(wide) for g in gradients]
    if "gradient_factor" in values:
        found = torch._foreach_mul([*found], cast(Tensor, values["gradient_factor"]).to(wide))
    if "clip_value" in values:
        limit = cast(float, values["clip_value"])
        found = torch._foreach_clamp_max(torch._foreach_clamp_min([*found], -limit), limit)
    return [g.to(dtype) for g in found]


@torch.no_grad()
def limit_in_place(params: Sequence[Tensor], supplied: Supplied) -> None:
    """Overwrite gradients as torch.nn.utils.clip_grad_norm_ does, and clip_grad_value_ after it.

    Sparse ones become coalesced.

    Args:
        params: whose gradients are limited.
        supplied: what a step supplies, by device.
    """
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for p in params:
        if p.grad is None:
            continue
        if p.grad.is_sparse:
            p.grad = p.grad.coalesce()
        g = p.grad.values() if p.grad.is_sparse else p.grad
        g = torch.view_as_real(g) if g.is_complex() else g
        alike.setdefault((g.device, g.dtype), []).append(g)
    for (device, _), gradients in alike.items():
        for part in portions(gradients):
            torch._foreach_copy_(gradients[part], limited(gradients[part], supplied.get(device, {})))


def _home_of(gradients: Sequence[Tensor]) -> torch.device:
    return gradients[0].device if gradients else torch.device("cpu")


def _one_by_one(tensors: Sequence[Tensor], order: float, dtype: torch.dtype) -> list[Tensor]:
    return [torch.linalg.vector_norm(x, order, dtype=dtype) for x in tensors]
