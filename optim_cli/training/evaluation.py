"""Loss and accuracy of a model on a split."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from optim_cli.datasets.dataset import Split
from optim_cli.training.events import Metrics
from optim_cli.training.meter import Meter

# Nothing is kept for a backward pass, so that larger batches fit than in training.
SCALE = 4


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, batch_size: int, device: torch.device, prefix: str) -> Metrics:
    """`<prefix>/loss` and `<prefix>/accuracy` of a model in evaluation mode, restored afterwards."""
    training = model.training
    model.eval()
    meter = Meter(device)
    for inputs, targets in split.batches(SCALE * batch_size, device):
        logits = model(inputs)
        meter.update(cross_entropy(logits, targets), logits, targets)
    model.train(training)
    return meter.take().metrics(prefix)
