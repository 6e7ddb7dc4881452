"""Averages of weights over training: exponential (EMA) and equal (SWA)."""

from optim_cli.optim.lr_scheduler.swa import SWALR
from optim_cli.optim.swa_utils.averaged_model import AveragedModel
from optim_cli.optim.swa_utils.averages import (
    EqualAverage,
    ExponentialAverage,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
)
from optim_cli.optim.swa_utils.batch_norm import update_bn
from optim_cli.optim.swa_utils.warmup import InverseGammaWarmup, PowerWarmup, Warmup

__all__ = [
    "SWALR",
    "AveragedModel",
    "EqualAverage",
    "ExponentialAverage",
    "InverseGammaWarmup",
    "PowerWarmup",
    "Warmup",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]
