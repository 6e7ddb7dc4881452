"""Loss and accuracy of a model on a split."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optim_cli.training.events import Metrics
from optim_cli.training.meter import Meter

# Names the weights that are trained among those that are evaluated; the others are averages.
MODEL = "model"


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


def prefix_of(split: str, weights: str) -> str:
    """What names of metrics begin with: `val` of the model, `val_averaged` of the average `averaged`."""
    return split if weights == MODEL else f"{split}_{weights}"


def merit(metrics: Metrics, weights: str) -> tuple[float, float]:
    """What weights are compared by, more is better: accuracy on val, then loss."""
    prefix = prefix_of("val", weights)
    return metrics[f"{prefix}/accuracy"], -metrics[f"{prefix}/loss"]
