"""CIFAR-10 and CIFAR-100: 50000 + 10000 colour images of 32x32."""

from pathlib import Path
from typing import Any, Literal

import torch

from optim_cli.datasets.absent import absent_files
from optim_cli.datasets.augmentation import Augmentation
from optim_cli.datasets.dataset import BatchSize, Dataset, Fraction, Seed
from optim_cli.datasets.in_memory import Samples, in_memory
from optim_cli.datasets.normalization import Normalization

# Of the training images, by number of classes; pixels are 0 .. 255.
NORMALIZATIONS = {
    10: Normalization(mean=(125.307, 122.950, 113.865), std=(62.993, 62.089, 66.705)),
    100: Normalization(mean=(129.304, 124.070, 112.434), std=(68.170, 65.392, 70.418)),
}


def cifar(
    *,
    num_classes: Literal[10, 100],
    root: str,
    download: bool,
    batch_size: BatchSize,
    val_fraction: Fraction,
    seed: Seed,
    split_seed: Seed,
    augmentation: Augmentation | None,
) -> Dataset:
    """Photographs of things and animals; inputs [B, 3, 32, 32].

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html.

    Args:
        root: folder that holds torchvision's `cifar-10-batches-py` or `cifar-100-python`.
        download: fetch the files by torchvision if they are not there.

    Raises:
        ConfigError: files are absent or damaged, or `val_fraction` leaves a class out of a part.
    """
    train, test = _read(num_classes, Path(root).expanduser().absolute(), download)
    return in_memory(
        train,
        test,
        num_classes=num_classes,
        normalization=NORMALIZATIONS[num_classes],
        batch_size=batch_size,
        val_fraction=val_fraction,
        seed=seed,
        split_seed=split_seed,
        augmentation=augmentation,
    )


def _read(num_classes: int, root: Path, download: bool) -> tuple[Samples, Samples]:
    from torchvision import datasets  # takes seconds: not at the import of every config

    source = {10: datasets.CIFAR10, 100: datasets.CIFAR100}[num_classes]
    try:
        train, test = (source(root, train=train, download=download) for train in (True, False))
    except (OSError, RuntimeError) as error:
        names = [name for name, _ in source.train_list + source.test_list]
        files = [str(root / source.base_folder / name) for name in (*names, source.meta["filename"])]
        raise absent_files(f"CIFAR-{num_classes}", files, error if download else None) from error
    return _samples(train), _samples(test)


def _samples(dataset: Any) -> Samples:
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()  # from N, H, W, C
    return images, torch.tensor(dataset.targets)
