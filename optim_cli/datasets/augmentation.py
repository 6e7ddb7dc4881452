"""Random changes of images that are held in memory."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import pad

from optim_cli.datasets.draws import Draws


class Augmentation(ABC):
    """Works in two stages, so that little is left to do for each batch.

    The images are put on a `canvas` once; all random decisions of an epoch are taken at once; a
    batch then only gathers pixels.
    """

    @abstractmethod
    def canvas(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W], not yet normalised, with the margins that the augmentation needs."""

    @abstractmethod
    def uncanvas(self, canvas: Tensor) -> Tensor:
        """The images again, as a view: `uncanvas(canvas(images))` equals `images`."""

    @abstractmethod
    def epoch(self, canvas: Tensor, order: Tensor, draws: Draws) -> Callable[[slice], Tensor]:
        """Decide for all samples of an epoch.

        Args:
            order: sample numbers in the epoch's order, int64 [N].
            draws: the random draws of the samples, in the same order.

        Returns:
            A function from a slice of the epoch's order to its augmented images [B, C, H, W].
        """


@dataclass(frozen=True)
class CropFlip(Augmentation):
    """Shift by up to `padding` pixels each way, black coming in; mirror half of the images.

    The standard of CIFAR-10: He et al., "Deep Residual Learning for Image Recognition",
    section 4.2, https://arxiv.org/abs/1512.03385.

    Args:
        padding: pixels of black on every side; a window of the image's size is cut at random.
        flip: whether left and right are exchanged with probability 1/2.
    """

    padding: Annotated[int, Ge(0)]
    flip: bool

    def canvas(self, images: Tensor) -> Tensor:
        """Add the black margins."""
        return pad(images, (self.padding,) * 4)

    def uncanvas(self, canvas: Tensor) -> Tensor:
        """Leave the margins out."""
        height, width = (size - 2 * self.padding for size in canvas.shape[-2:])
        return canvas.narrow(2, self.padding, height).narrow(3, self.padding, width)

    def epoch(self, canvas: Tensor, order: Tensor, draws: Draws) -> Callable[[slice], Tensor]:
        """Draw a shift, and a side, for each sample."""
        _, channels, padded_height, padded_width = canvas.shape
        _, _, height, width = self.uncanvas(canvas).shape
        top = draws.integers(0, 2 * self.padding + 1)
        left = draws.integers(1, 2 * self.padding + 1)
        mirrored = draws.integers(2, 2 if self.flip else 1)

        # As positions in the flat canvas: where a sample's window starts, and where its pixels lie
        # from there (row 0: as they are; row 1: mirrored). A batch is then one gather.
        plane = padded_height * padded_width
        start = (order * channels * plane + top * padded_width + left).view(-1, 1, 1, 1)
        channel, row, column = (torch.arange(n, device=order.device) for n in (channels, height, width))
        columns = torch.stack([column, column.flip(0)]).view(2, 1, 1, width)
        pixels = channel.view(-1, 1, 1) * plane + row.view(-1, 1) * padded_width + columns

        return lambda part: canvas.take(pixels.index_select(0, mirrored[part]) + start[part])
