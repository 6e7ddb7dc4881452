"""Shared pieces that are composed around any rule, so that all of it runs in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from optim_cli.optim.execution.translate import Stage


def scale(p: Tensor, g: Tensor, *, gradient_factor: float) -> tuple[Tensor]:
    """Unscale the gradient and limit the norm of all, by one number for both."""
    return (g * gradient_factor,)


def clamp(p: Tensor, g: Tensor, *, clip_value: float) -> tuple[Tensor]:
    """Limit every element; NaN stays NaN."""
    return (torch.clamp_max(torch.clamp_min(g, -clip_value), clip_value),)


def maximize(p: Tensor, g: Tensor) -> tuple[Tensor]:
    """Ascend instead of descend."""
    return (-g,)


def l2_decay(p: Tensor, g: Tensor, *, weight_decay: float) -> tuple[Tensor]:
    """The gradient of `weight_decay / 2 * ||p||^2` added to the loss's."""
    return (torch.add(g, p, alpha=weight_decay),)


def decoupled_decay(p: Tensor, g: Tensor, *, lr: float, weight_decay: float) -> tuple[Tensor]:
    """Shrink the parameter apart from the gradient (Loshchilov & Hutter, arXiv 1711.05101).

    A factor `1 - lr * weight_decay` would be rounded to float32 before it is applied, at every step alike.
    """
    return (torch.add(p, p, alpha=-lr * weight_decay),)


SCALE = Stage(scale, ("g",))
CLAMP = Stage(clamp, ("g",))
MAXIMIZE = Stage(maximize, ("g",))
L2_DECAY = Stage(l2_decay, ("g",))
DECOUPLED_DECAY = Stage(decoupled_decay, ("p",))


# What pieces take that is no option of a group: every step supplies it.
SUPPLIED = ("gradient_factor", "clip_value")


def before_rule(group: Mapping[str, Any], scaled: bool, clamped: bool) -> tuple[Stage, ...]:
    """The pieces that a step and a parameter group's options ask for, in torch's order.

    Args:
        group: the options.
        scaled: whether gradients are multiplied by `gradient_factor`.
        clamped: whether elements are limited to `clip_value`.
    """
    stages = [SCALE] * scaled + [CLAMP] * clamped
    if group["maximize"]:
        stages.append(MAXIMIZE)
    weight_decay = group.get("weight_decay", 0)
    if isinstance(weight_decay, Tensor) or weight_decay != 0:
        decoupled = group.get("decoupled_weight_decay", False)
        stages.append(DECOUPLED_DECAY if decoupled else L2_DECAY)
    return tuple(stages)
