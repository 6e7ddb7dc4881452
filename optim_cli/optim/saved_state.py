"""States of a checkpoint that torch's `load_state_dict` would round to the dtype of their parameter.

Where they are wider, as averages in float32 beside parameters in bfloat16, that loses what they were kept
wide for (pytorch issue 43706).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class AsSaved:
    """A tensor that torch passes on as it is."""

    tensor: Tensor


def spare_wide(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A `load_state_dict` pre-hook: tensors wider than their parameter go through as `AsSaved`."""
    saved = [index for group in state_dict["param_groups"] for index in group["params"]]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    # Lengths that differ are refused by torch afterwards.
    dtypes = {index: p.dtype for index, p in zip(saved, params, strict=False)}
    state = {
        index: {name: _spared(name, x, dtypes[index]) for name, x in held.items()}
        if isinstance(held, dict) and index in dtypes
        else held
        for index, held in state_dict["state"].items()
    }
    return state_dict | {"state": state}


def _spared(name: str, value: Any, dtype: torch.dtype) -> Any:
    # Counts are spared by torch itself.
    wide = isinstance(value, Tensor) and name != "step" and value.dtype.itemsize > dtype.itemsize
    return AsSaved(value) if wide else value


def restore(optimizer: torch.optim.Optimizer) -> None:
    """Copy what was spared to where its parameter is."""
    for p, held in optimizer.state.items():
        if isinstance(held, dict):
            for name, value in held.items():
                if isinstance(value, AsSaved):
                    held[name] = value.tensor.to(p.device, copy=True)
