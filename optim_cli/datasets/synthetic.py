"""Images drawn from a random generator: a task of any size without files."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Len, Lt
from torch.nn.functional import interpolate

from optim_cli.datasets.augmentation import Augmentation
from optim_cli.datasets.dataset import BatchSize, Dataset, Fraction, Seed
from optim_cli.datasets.in_memory import in_memory
from optim_cli.datasets.normalization import Normalization
from optim_cli.datasets.splitting import stratified_split

CLUSTERS_PER_CLASS = 3  # so that no single template, hence no linear model, tells the classes apart
PATTERN_SIZE = 4  # patterns are enlarged from 4x4: neighbouring pixels belong together


def synthetic(
    *,
    num_samples: Annotated[int, Ge(1)],
    num_classes: Annotated[int, Ge(2)],
    input_shape: Annotated[list[Annotated[int, Ge(1)]], Len(3, 3)],
    noise: Annotated[float, Ge(0)],
    batch_size: BatchSize,
    val_fraction: Fraction,
    test_fraction: Annotated[float, Gt(0), Lt(1)],
    seed: Seed,
    split_seed: Seed,
    data_seed: Seed,
    augmentation: Augmentation | None,
) -> Dataset:
    """Each class is a mixture of Gaussian clusters around smooth random patterns.

    Inputs [B, *input_shape], of mean square 1. The same arguments give the same images.

    Args:
        num_samples: in all, before the test and validation sets are cut off.
        input_shape: channels, height, width.
        noise: root mean square of the noise, where that of a pattern is 1.
        data_seed: of the images.

    Raises:
        ConfigError: a fraction leaves a class out of a part.
    """
    channels, height, width = input_shape
    generator = torch.Generator().manual_seed(data_seed)
    clusters = num_classes * CLUSTERS_PER_CLASS
    small = torch.randn(clusters, channels, PATTERN_SIZE, PATTERN_SIZE, generator=generator)
    patterns = interpolate(small, size=(height, width), mode="bilinear")
    patterns = patterns / patterns.square().mean((1, 2, 3), keepdim=True).sqrt()
    cluster = torch.randperm(num_samples, generator=generator) % clusters
    disturbance = torch.randn(num_samples, *input_shape, generator=generator)
    images = (patterns[cluster] + noise * disturbance) / (1 + noise**2) ** 0.5
    labels = cluster % num_classes

    rest, test = stratified_split(labels, test_fraction, split_seed, "dataset.test_fraction")
    return in_memory(
        (images[rest], labels[rest]),
        (images[test], labels[test]),
        num_classes=num_classes,
        normalization=Normalization(mean=(0.0,) * channels, std=(1.0,) * channels),
        batch_size=batch_size,
        val_fraction=val_fraction,
        seed=seed,
        split_seed=split_seed,
        augmentation=augmentation,
        synthetic=True,
    )
