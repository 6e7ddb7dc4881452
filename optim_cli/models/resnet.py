"""Residual networks, as torchvision builds them, for images of any size and channels."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import nn
from torchvision import models

Stem = Literal["auto", "small", "standard"]

# Below this side the standard stem, which reduces to a quarter, leaves too little to the stages.
SMALL_IMAGE = 64


def resnet18(*, input_shape: Sequence[int], num_classes: int, stem: Stem) -> nn.Module:
    """ResNet-18: inputs [B, C, H, W], outputs logits [B, num_classes]; the head is `fc`.

    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition",
    https://arxiv.org/abs/1512.03385.

    Args:
        stem: "standard": 7x7 convolution of stride 2 and max-pooling, as for ImageNet; "small": 3x3
            of stride 1 and no pooling, as in the paper's section 4.2 for CIFAR-10; "auto": "small"
            if the smaller side of the image is under 64 pixels.
    """
    return _resnet(models.resnet18, input_shape, num_classes, stem)


def resnet50(*, input_shape: Sequence[int], num_classes: int, stem: Stem) -> nn.Module:
    """ResNet-50, of bottleneck blocks; all else as in `resnet18`."""
    return _resnet(models.resnet50, input_shape, num_classes, stem)


def _resnet(build: Callable[..., Any], input_shape: Sequence[int], num_classes: int, stem: Stem) -> nn.Module:
    channels, height, width = input_shape
    small = stem == "small" or (stem == "auto" and min(height, width) < SMALL_IMAGE)
    kernel, stride = (3, 1) if small else (7, 2)
    stem_convolution = nn.Conv2d(channels, 64, kernel, stride, padding=kernel // 2, bias=False)
    # As torchvision initialises the layer that this one replaces.
    nn.init.kaiming_normal_(stem_convolution.weight, mode="fan_out", nonlinearity="relu")

    model: nn.Module = build(num_classes=num_classes)
    model.conv1 = stem_convolution
    if small:
        model.maxpool = nn.Identity()
    return model
