"""A split whose images or texts are all in memory, on the device that trains."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from optim_cli.datasets.augmentation import Augmentation
from optim_cli.datasets.dataset import Split
from optim_cli.datasets.draws import Draws, permutation
from optim_cli.datasets.normalization import Normalization

# Up to this size, images are kept as normalised float32: a batch of them needs no arithmetic.
READY_BYTES = 64 * 2**20


class TensorSplit(Split):
    """Inputs and labels as two tensors, moved to a device once and kept there.

    Args:
        images: uint8 or float32 [N, C, H, W]; or texts, int64 [N, L].
        labels: int64 [N].
        normalization: None leaves the inputs as they are.
        seed: of shuffling and augmentation.
        augmentation: what training epochs do to the images, if anything.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        normalization: Normalization | None,
        seed: int = 0,
        augmentation: Augmentation | None = None,
    ) -> None:
        self._images = images
        self._labels = labels
        self._normalization = normalization
        self._seed = seed
        self._augmentation = augmentation
        self._ready = normalization is None or images.is_floating_point() or 4 * images.numel() <= READY_BYTES
        self._placed: dict[torch.device, tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def batches(
        self, batch_size: int, device: torch.device, epoch: int | None = None, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Slices of what lies on the device; an epoch decides everything about its samples at once."""
        canvas, labels, normalize = self._place(device)
        if epoch is None:
            images = self._augmentation.uncanvas(canvas) if self._augmentation else canvas
            select: Callable[[slice], Tensor] = images.__getitem__
        else:
            order = self._order(epoch, device)
            labels = labels.index_select(0, order)
            select = self._training_images(canvas, order, epoch)

        for first in range(start * batch_size, len(self), batch_size):
            part = slice(first, first + batch_size)
            inputs = select(part)
            yield inputs if self._ready else normalize(inputs), labels[part]

    def _training_images(self, canvas: Tensor, order: Tensor, epoch: int) -> Callable[[slice], Tensor]:
        if self._augmentation:
            return self._augmentation.epoch(canvas, order, Draws(self._seed, epoch, order))
        if self._ready:  # small: gather the whole epoch at once, batches are slices of it
            return canvas.index_select(0, order).__getitem__
        return lambda part: canvas.index_select(0, order[part])

    def _order(self, epoch: int, device: torch.device) -> Tensor:
        order = permutation(len(self), self._seed, epoch)
        if device.type == "cuda":  # from pinned memory the copy does not wait for earlier work
            return order.pin_memory().to(device, non_blocking=True)
        return order.to(device)

    def _place(self, device: torch.device) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Canvas (normalised if ready), labels and normalisation on `device`."""
        if device not in self._placed:
            normalize = self._normalization.on(device) if self._normalization else _unchanged
            canvas = self._images.to(device)
            if self._augmentation:
                canvas = self._augmentation.canvas(canvas)
            if self._ready:
                canvas = normalize(canvas)
            self._placed[device] = canvas, self._labels.to(device), normalize
        return self._placed[device]


def _unchanged(inputs: Tensor) -> Tensor:
    return inputs
