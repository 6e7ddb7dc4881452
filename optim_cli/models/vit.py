"""Vision transformer, as torchvision builds it, for images of any number of channels and sides."""

from collections.abc import Sequence
from math import sqrt
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

Count = Annotated[int, Ge(1)]


class ViT(VisionTransformer):  # type: ignore[misc]  # torchvision says nothing of its types
    """Layers of attention between the patches of an image, and a token that the head reads.

    Inputs [B, C, H, W], outputs logits [B, num_classes]; the head is `heads`, which begins at zero.

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929.

    Args:
        patch_size: side of a patch in pixels.
        width: features of a patch.
        heads: of attention.
        mlp_width: features within the perceptron of a layer.
        dropout: probability that a feature is dropped in training, in attention and after it.

    Raises:
        ValueError: `patch_size` divides not both sides of the image, or `heads` not `width`.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        patch_size: Count,
        width: Count,
        layers: Count,
        heads: Count,
        mlp_width: Count,
        dropout: Annotated[float, Ge(0), Lt(1)],
    ) -> None:
        channels, *sides = input_shape
        if any(side % patch_size for side in sides):
            fitting = [x for x in range(1, min(sides) + 1) if not any(side % x for side in sides)]
            raise ValueError(
                f"patch_size {patch_size} does not divide images of {' x '.join(map(str, sides))}; "
                f"allowed: {', '.join(map(str, fitting))}"
            )
        if width % heads:
            raise ValueError(f"heads {heads} does not divide width {width}")
        super().__init__(
            # Of a single patch, because its images are square: patches and their places are replaced below.
            image_size=patch_size,
            patch_size=patch_size,
            num_layers=layers,
            num_heads=heads,
            hidden_dim=width,
            mlp_dim=mlp_width,
            dropout=dropout,
            attention_dropout=dropout,
            num_classes=num_classes,
        )
        # Both as torchvision initialises those that they replace.
        self.conv_proj = nn.Conv2d(channels, width, patch_size, patch_size)
        nn.init.trunc_normal_(self.conv_proj.weight, std=sqrt(1 / (channels * patch_size**2)))
        assert self.conv_proj.bias is not None
        nn.init.zeros_(self.conv_proj.bias)
        tokens = 1 + (sides[0] // patch_size) * (sides[1] // patch_size)
        self.encoder.pos_embedding = nn.Parameter(torch.empty(1, tokens, width).normal_(std=0.02))

    def forward(self, images: Tensor) -> Tensor:
        """Images -> logits."""
        patches = self.conv_proj(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], dim=1)
        logits: Tensor = self.heads(self.encoder(tokens)[:, 0])
        return logits
