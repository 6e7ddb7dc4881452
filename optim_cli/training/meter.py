"""Loss and accuracy, summed where the data is and read without stopping it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from optim_cli.training.events import Metrics

Sums = tuple[int, float, float]  # samples, sum of their losses, correct predictions


class Meter:
    """Sums of loss and correct predictions over batches, on the device.

    Args:
        device: where the batches are.
        sums: what to go on from.
    """

    def __init__(self, device: torch.device, sums: Sums = (0, 0.0, 0.0)) -> None:
        self._samples = sums[0]
        self._sums = torch.tensor(sums[1:], device=device, dtype=torch.float64)
        self._loss, self._correct = self._sums.unbind()

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

    def take(self, grad_norm: Tensor | None = None) -> Reading:
        """Start to read what was summed, and a norm with it, and start anew."""
        reading = self.read(grad_norm)
        self._sums.zero_()
        self._samples = 0
        return reading

    def read(self, grad_norm: Tensor | None = None) -> Reading:
        """Start to read what was summed, and a norm with it, and go on summing."""
        values = self._sums if grad_norm is None else torch.hstack([self._sums, grad_norm])
        return Reading(values, self._samples)


class Reading:
    """Sums on their way from the device.

    Args:
        values: the sums of losses and of correct predictions, and a norm of gradients if one was measured;
            float64 [2] or [3].
        samples: how many are summed.
    """

    def __init__(self, values: Tensor, samples: int) -> None:
        self.samples = samples
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._values = values.clone()

    def ready(self) -> bool:
        """Whether the values are here, so that reading them waits for nothing."""
        return self._arrived is None or self._arrived.query()

    def sums(self) -> Sums:
        """The sums; waits until they are here."""
        loss, correct, *_ = self._read()
        return self.samples, loss, correct

    def metrics(self, prefix: str) -> Metrics:
        """Mean loss and accuracy under `<prefix>/loss` and `<prefix>/accuracy`, a norm as it is."""
        _, _, *norms = self._read()
        return means([self], prefix) | {f"{prefix}/grad_norm": norm for norm in norms}

    def _read(self) -> list[float]:
        if self._arrived is not None:
            self._arrived.synchronize()
        values: list[float] = self._values.tolist()
        return values


def means(readings: list[Reading], prefix: str) -> Metrics:
    """Mean loss and accuracy over several readings together."""
    samples, losses, corrects = map(sum, zip(*(reading.sums() for reading in readings), strict=True))
    return {f"{prefix}/loss": losses / samples, f"{prefix}/accuracy": corrects / samples}


class EpochMeter:
    """Training metrics of an epoch: told piece by piece, in order, and as a mean over all of it.

    Args:
        device: where the batches are.
        tell: is given the step, the metrics since the last telling and the learning rate.
        sums: what an earlier process summed of this epoch, as its `state` was.
    """

    def __init__(
        self, device: torch.device, tell: Callable[[int, Metrics], None], sums: list[Sums] | None = None
    ) -> None:
        *measured, rest = sums or [(0, 0.0, 0.0)]
        self.meter = Meter(device, rest)
        self._tell = tell
        self._pending: list[tuple[int, Metrics, Reading]] = []
        self._measured = [Meter(torch.device("cpu"), x).read() for x in measured]

    def measure(self, step: int, rates: Metrics, grad_norm: Tensor | None = None) -> None:
        """Read the meter for the steps up to `step`; tell what has arrived from the device by now.

        Args:
            step: the last one.
            rates, grad_norm: the learning rates in it, and the norm of its gradients, if one is measured.
        """
        reading = self.meter.take(grad_norm)
        self._measured.append(reading)
        self._pending.append((step, rates, reading))
        while self._pending and self._pending[0][2].ready():
            self._tell_next()

    def flush(self) -> None:
        """Wait for what was measured and tell it."""
        while self._pending:
            self._tell_next()

    def mean(self) -> Metrics:
        """Mean loss and accuracy of the epoch so far, which has begun."""
        rest = self.meter.read()
        return means(self._measured + [rest] * (rest.samples > 0), "train")

    def state(self) -> list[Sums]:
        """The sums of every measurement, then of the steps since the last one."""
        return [x.sums() for x in (*self._measured, self.meter.read())]

    def _tell_next(self) -> None:
        step, rates, reading = self._pending.pop(0)
        self._tell(step, reading.metrics("train") | rates)
