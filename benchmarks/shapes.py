"""Shapes of the parameters of known models, in the order in which their modules hold them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

Shapes = list[tuple[int, ...]]


def mlp() -> Shapes:
    """Three layers: 6 tensors, 26 K parameters."""
    widths = (64, 128, 128, 10)
    return [shape for fan_in, fan_out in pairwise(widths) for shape in ((fan_out, fan_in), (fan_out,))]


def residual(blocks: Sequence[int], bottleneck: bool) -> Shapes:
    """Shapes of a residual network as torchvision builds it: convolutions, normalisations, head."""
    shapes: Shapes = []

    def convolution(fan_out: int, fan_in: int, kernel: int) -> None:
        shapes.extend(((fan_out, fan_in, kernel, kernel), (fan_out,), (fan_out,)))

    convolution(64, 3, 7)
    channels = 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        out = width * 4 if bottleneck else width
        for block in range(count):
            if bottleneck:
                convolution(width, channels, 1)
                convolution(width, width, 3)
                convolution(out, width, 1)
            else:
                convolution(width, channels, 3)
                convolution(width, width, 3)
            if block == 0 and channels != out:
                convolution(out, channels, 1)
            channels = out
    return [*shapes, (1000, channels), (1000,)]


def gpt2(width: int = 768, layers: int = 12) -> Shapes:
    """GPT-2 with its vocabulary filled up to a multiple of 128; 148 tensors, 124 M parameters."""
    norm: Shapes = [(width,), (width,)]
    attention: Shapes = [(3 * width, width), (3 * width,), (width, width), (width,)]
    feed_forward: Shapes = [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [
        (50304, width),
        (1024, width),
        *[*norm, *attention, *norm, *feed_forward] * layers,
        *norm,
    ]


def llama(width: int = 2048, layers: int = 16) -> Shapes:
    """A LLaMA with grouped queries and tied embeddings; 146 tensors, 1.2 G parameters."""
    attention: Shapes = [(width, width), (width // 4, width), (width // 4, width), (width, width)]
    feed_forward: Shapes = [(4 * width, width), (4 * width, width), (width, 4 * width)]
    norms: Shapes = [(width,), (width,)]
    return [(128256, width), *[*attention, *feed_forward, *norms] * layers, (width,)]


MODELS: dict[str, Callable[[], Shapes]] = {
    "mlp": mlp,
    "resnet18": lambda: residual((2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda: residual((3, 4, 6, 3), bottleneck=True),
    "gpt2": gpt2,
    "llama": llama,
}
