"""Handwritten digits, 1797 images of 8x8, which come with scikit-learn."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt, Lt

from optim_cli.datasets.augmentation import Augmentation
from optim_cli.datasets.dataset import BatchSize, Dataset, Fraction, Seed
from optim_cli.datasets.in_memory import Samples, in_memory
from optim_cli.datasets.normalization import Normalization
from optim_cli.datasets.splitting import stratified_split
from optim_cli.errors import ConfigError

# Of all 1797 images; pixels are 0 .. 16.
NORMALIZATION = Normalization(mean=(4.8842,), std=(6.0168,))


def digits(
    *,
    batch_size: BatchSize,
    val_fraction: Fraction,
    test_fraction: Annotated[float, Gt(0), Lt(1)],
    seed: Seed,
    split_seed: Seed,
    augmentation: Augmentation | None,
) -> Dataset:
    """Inputs [B, 1, 8, 8], 10 classes; test set and then validation set are cut off, stratified.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository, https://doi.org/10.24432/C50P49 (its test part).

    Raises:
        ConfigError: scikit-learn is not installed, or a fraction leaves a class out of a part.
    """
    images, labels = _bundled()
    rest, test = stratified_split(labels, test_fraction, split_seed, "dataset.test_fraction")
    return in_memory(
        (images[rest], labels[rest]),
        (images[test], labels[test]),
        num_classes=10,
        normalization=NORMALIZATION,
        batch_size=batch_size,
        val_fraction=val_fraction,
        seed=seed,
        split_seed=split_seed,
        augmentation=augmentation,
    )


def _bundled() -> Samples:
    """Read the file itself: importing scikit-learn for it would take seconds."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ConfigError(
            "dataset=digits reads images that come with scikit-learn, which is not installed; "
            "pip install scikit-learn, or set another dataset: dataset=synthetic needs no files."
        )
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    rows = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.uint8))  # 64 pixels, 1 label
    return rows[:, :-1].reshape(-1, 1, 8, 8), rows[:, -1].long()
