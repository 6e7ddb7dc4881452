"""Loss and accuracy, summed where the data is and read without stopping it."""

from __future__ import annotations

import torch
from torch import Tensor

from optim_cli.training.events import Metrics


class Meter:
    """Sums of loss and correct predictions over batches, on the device."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(2, device=device, dtype=torch.float64)
        self._loss, self._correct = self._sums.unbind()
        self._samples = 0

    @torch.no_grad()
    def update(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            loss: mean over the batch, 0-d.
            logits: [B, classes].
            targets: [B], int64.
        """
        samples = len(targets)
        self._loss.add_(loss, alpha=samples)
        self._correct.add_((logits.argmax(1) == targets).sum())
        self._samples += samples

    def take(self) -> Reading:
        """Start to read what was summed, and start anew."""
        reading = Reading(self._sums, self._samples)
        self._sums.zero_()
        self._samples = 0
        return reading


class Reading:
    """Sums on their way from the device."""

    def __init__(self, sums: Tensor, samples: int) -> None:
        self.samples = samples
        self._arrived: torch.cuda.Event | None = None
        if sums.is_cuda:
            self._sums = torch.empty(sums.shape, dtype=sums.dtype, pin_memory=True)
            self._sums.copy_(sums, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._sums = sums.clone()

    def ready(self) -> bool:
        """Whether the values are here, so that reading them waits for nothing."""
        return self._arrived is None or self._arrived.query()

    def sums(self) -> tuple[float, float]:
        """Sum of losses over samples, and correct predictions; waits until they are here."""
        if self._arrived is not None:
            self._arrived.synchronize()
        loss, correct = self._sums.tolist()
        return loss, correct

    def metrics(self, prefix: str) -> Metrics:
        """Mean loss and accuracy under `<prefix>/loss` and `<prefix>/accuracy`."""
        return means([self], prefix)


def means(readings: list[Reading], prefix: str) -> Metrics:
    """Mean loss and accuracy over several readings together."""
    samples = sum(reading.samples for reading in readings)
    losses, corrects = zip(*(reading.sums() for reading in readings), strict=True)
    return {f"{prefix}/loss": sum(losses) / samples, f"{prefix}/accuracy": sum(corrects) / samples}
