"""From tensors of images or texts and labels to a `Dataset`."""

from torch import Tensor

from optim_cli.datasets.augmentation import Augmentation
from optim_cli.datasets.dataset import Dataset
from optim_cli.datasets.normalization import Normalization
from optim_cli.datasets.splitting import stratified_split
from optim_cli.datasets.tensor_split import TensorSplit

# Images, uint8 or float32 [N, C, H, W], or texts, int64 [N, L]; labels, int64 [N].
Samples = tuple[Tensor, Tensor]


def in_memory(
    train: Samples,
    test: Samples,
    *,
    num_classes: int,
    normalization: Normalization | None,
    batch_size: int,
    val_fraction: float,
    seed: int,
    split_seed: int,
    augmentation: Augmentation | None,
    synthetic: bool = False,
    vocabulary: int | None = None,
) -> Dataset:
    """The validation set is a stratified part of `train`; only the rest of it is augmented.

    Texts have a vocabulary, and neither normalization nor augmentation.

    Raises:
        ConfigError: `val_fraction` leaves a class out of a part.
    """
    inputs, labels = train
    rest, part = stratified_split(labels, val_fraction, split_seed)
    return Dataset(
        input_shape=tuple(inputs.shape[1:]),
        num_classes=num_classes,
        batch_size=batch_size,
        train=TensorSplit(inputs[rest], labels[rest], normalization, seed, augmentation),
        val=TensorSplit(inputs[part], labels[part], normalization) if len(part) else None,
        test=TensorSplit(*test, normalization),
        synthetic=synthetic,
        vocabulary=vocabulary,
    )
