"""Pixels as stored -> float32 inputs of mean 0 and variance 1 per channel."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, in the units of the stored pixels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def on(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """A function from [..., C, H, W] of uint8 or float32 to float32 on `device`."""
        mean = torch.tensor(self.mean, device=device).view(-1, 1, 1)
        scale = torch.tensor(self.std, device=device).reciprocal().view(-1, 1, 1)
        # uint8 minus float32 is float32: two operations in all, and no conversion on its own.
        return lambda images: (images - mean).mul_(scale)
