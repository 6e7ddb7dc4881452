"""Parameters as matrices (Muon): which may be, and how."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def refuse_others(group: Mapping[str, Any]) -> None:
    """Refuse what is no matrix; with the group's `flatten`, tensors of more dimensions are.

    Raises:
        ValueError: with the parameters, by name where they have names.
    """
    params, flatten = group["params"], group.get("flatten")
    refused = [i for i, p in enumerate(params) if p.dim() < 2 or (p.dim() > 2 and not flatten)]
    if not refused:
        return
    names = group.get("param_names", [f"parameter {i}" for i in range(len(params))])
    shown = ", ".join(f"{names[i]} {list(params[i].shape)}" for i in refused[:8])
    more = f" and {len(refused) - 8} more" if len(refused) > 8 else ""
    remedies = "give them to another optimizer, or make the layers without them (bias=False)"
    if any(params[i].dim() > 2 for i in refused):
        remedies += "; flatten=True takes those of 3 and more dimensions"
    raise ValueError(
        "Muon only supports 2D parameters whereas we found a parameter with size: "
        f"{params[refused[0]].size()}; no matrices are {shown}{more}: {remedies}"
    )


def shape_as_matrix(x: Tensor) -> tuple[int, int]:
    """Rows and columns of a tensor of two or more dimensions, those after the first as columns."""
    return x.size(0), math.prod(x.shape[1:])
