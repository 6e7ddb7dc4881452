"""Multinomial logistic regression."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn


class Logistic(nn.Module):
    """One linear layer on the flattened image: a convex problem under cross-entropy.

    Inputs [B, *input_shape], outputs logits [B, num_classes].

    Source: Cox, "The Regression Analysis of Binary Sequences", J. R. Stat. Soc. B 20, 1958,
    https://doi.org/10.1111/j.2517-6161.1958.tb00292.x.
    """

    def __init__(self, *, input_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(prod(input_shape), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images -> logits."""
        logits: Tensor = self.head(images.flatten(1))
        return logits
