"""A small convolutional network."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from annotated_types import Ge, MinLen
from torch import Tensor, nn


class CNN(nn.Module):
    """Stages of two 3x3 convolutions, the resolution halved between them; then the mean of the map.

    Inputs [B, C, H, W] with H and W of 1 or more, outputs logits [B, num_classes].

    Sources: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", https://arxiv.org/abs/1409.1556 (stages); Ioffe, Szegedy, "Batch Normalization",
    https://arxiv.org/abs/1502.03167; Lin, Chen, Yan, "Network In Network",
    https://arxiv.org/abs/1312.4400 (the mean of the map).

    Args:
        widths: channels of each stage, at least one.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        widths: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)],
    ) -> None:
        super().__init__()
        self.body = nn.Sequential()
        for width, next_width in pairwise([input_shape[0], *widths]):
            if len(self.body):
                # Rounding up, so that no image is too small for any number of stages.
                self.body.append(nn.MaxPool2d(2, ceil_mode=True))
            self.body.append(_convolution(width, next_width))
            self.body.append(_convolution(next_width, next_width))
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images -> logits."""
        logits: Tensor = self.head(self.body(images).mean((2, 3)))
        return logits


def _convolution(width: int, next_width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, next_width, kernel_size=3, padding=1, bias=False),  # the norm has a bias
        nn.BatchNorm2d(next_width),
        nn.ReLU(inplace=True),
    )
