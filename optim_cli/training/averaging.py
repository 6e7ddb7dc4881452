"""Averages of the weights that a run keeps beside the weights it trains."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le
from torch import nn

from optim_cli.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class EMA(AveragedModel):
    """Exponential moving average of parameters and buffers, updated after every step.

    Args:
        model: the model to average; it is copied.
        decay: weight of the average against the newest weights; 1 / (1 - decay) steps are remembered.
    """

    def __init__(self, model: nn.Module, decay: Annotated[float, Ge(0), Le(1)]) -> None:
        super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
