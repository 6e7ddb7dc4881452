"""Multilayer perceptron."""

from collections.abc import Sequence
from math import prod
from typing import Annotated, Literal

from annotated_types import Ge, Lt
from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class MLP(nn.Module):
    """Fully connected layers, an activation and dropout after each but the last.

    Inputs [B, *input_shape] (flattened here), outputs logits [B, num_classes].

    Source: Rumelhart, Hinton, Williams, "Learning representations by back-propagating errors",
    Nature 323, 1986, https://doi.org/10.1038/323533a0.

    Args:
        hidden: width of each hidden layer; none makes logistic regression.
        dropout: probability that a hidden unit is dropped in training.
        bias: whether the layers have biases; without them, all parameters are matrices.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        hidden: list[Annotated[int, Ge(1)]],
        activation: Literal["relu", "gelu", "silu", "tanh"],
        dropout: Annotated[float, Ge(0), Lt(1)],
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten())
        width = prod(input_shape)
        for next_width in hidden:
            self.body.append(nn.Linear(width, next_width, bias))
            self.body.append(ACTIVATIONS[activation]())
            if dropout:
                self.body.append(nn.Dropout(dropout))
            width = next_width
        self.head = nn.Linear(width, num_classes, bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images -> logits."""
        logits: Tensor = self.head(self.body(images))
        return logits
