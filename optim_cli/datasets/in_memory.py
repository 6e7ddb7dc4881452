"""From tensors of images and labels to a `Dataset`."""

from torch import Tensor

from optim_cli.datasets.augmentation import Augmentation
from optim_cli.datasets.dataset import Dataset
from optim_cli.datasets.normalization import Normalization
from optim_cli.datasets.splitting import stratified_split
from optim_cli.datasets.tensor_split import TensorSplit

Samples = tuple[Tensor, Tensor]  # images, uint8 or float32 [N, C, H, W]; labels, int64 [N]


def in_memory(
    train: Samples,
    test: Samples,
    *,
    num_classes: int,
    normalization: Normalization,
    batch_size: int,
    val_fraction: float,
    seed: int,
    split_seed: int,
    augmentation: Augmentation | None,
    synthetic: bool = False,
) -> Dataset:
    """The validation set is a stratified part of `train`; only the rest of it is augmented.

    Raises:
        ConfigError: `val_fraction` leaves a class out of a part.
    """
    images, labels = train
    rest, part = stratified_split(labels, val_fraction, split_seed)
    channels, height, width = images.shape[1:]
    return Dataset(
        input_shape=(channels, height, width),
        num_classes=num_classes,
        batch_size=batch_size,
        train=TensorSplit(images[rest], labels[rest], normalization, seed, augmentation),
        val=TensorSplit(images[part], labels[part], normalization) if len(part) else None,
        test=TensorSplit(*test, normalization),
        synthetic=synthetic,
    )
