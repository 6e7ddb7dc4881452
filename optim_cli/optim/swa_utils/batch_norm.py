"""Statistics of batch normalization, measured anew for weights that never met a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def update_bn(
    loader: Iterable[Any],
    model: nn.Module,
    device: int | torch.device | None = None,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> None:
    """Measure mean and variance of all batch normalization layers in one pass over the data.

    What else is random in training mode, such as dropout, is so here. Modes and momenta of the modules are
    restored in the end, be it an exception.

    Args:
        loader: batches. The model is called with the first element of a list or a tuple, with the items of a
            dict as keyword arguments, and with anything else as it is.
        model: whose layers are measured; nothing happens where it has none.
        device: where the tensors that the model is called with are moved to; None leaves them.
        forward: `forward(model, batch)` calls the model in another way, with all of a batch.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not layers:
        return
    for layer in layers:
        layer.reset_running_stats()
    momenta = [layer.momentum for layer in layers]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.train()
        for layer in layers:
            layer.momentum = None  # all batches weigh the same
        for batch in loader:
            if forward is None:
                _call(model, batch, device)
            else:
                forward(model, _moved(batch, device))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes:
            module.training = mode


def _call(model: nn.Module, batch: Any, device: int | torch.device | None) -> None:
    if isinstance(batch, Mapping):
        model(**_moved(batch, device))
    else:
        model(_moved(batch[0] if isinstance(batch, list | tuple) else batch, device))


def _moved(batch: Any, device: int | torch.device | None) -> Any:
    """A batch with its tensors on a device, however deep they are in lists, tuples and dicts."""
    if device is None:
        return batch
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_moved(x, device) for x in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(_moved(x, device) for x in batch)
    return batch
