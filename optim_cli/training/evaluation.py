"""Loss and accuracy of a model on a split."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optim_cli.training.events import Metrics
from optim_cli.training.meter import Meter


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device, prefix: str
) -> Metrics:
    """`<prefix>/loss` and `<prefix>/accuracy` of a model in evaluation mode, restored afterwards.

    Args:
        model: inputs to logits [B, classes].
        batches: inputs and int64 targets [B], on `device`.
        device: where the model is.
        prefix: of the names, such as val.
    """
    training = model.training
    model.eval()
    meter = Meter(device)
    for inputs, targets in batches:
        logits = model(inputs)
        meter.update(cross_entropy(logits, targets), logits, targets)
    model.train(training)
    return meter.take().metrics(prefix)
