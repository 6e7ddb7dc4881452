"""MNIST and Fashion-MNIST: 60000 + 10000 grey images of 28x28, 10 classes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from optim_cli.datasets.absent import absent_files
from optim_cli.datasets.augmentation import Augmentation
from optim_cli.datasets.dataset import BatchSize, Dataset, Fraction, Seed
from optim_cli.datasets.idx import read_idx
from optim_cli.datasets.in_memory import Samples, in_memory
from optim_cli.datasets.normalization import Normalization
from optim_cli.errors import ConfigError

NUM_CLASSES = 10
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True)
class Variant:
    """What tells the members of the family apart, their files having the same names and sizes."""

    title: str
    normalization: Normalization  # of the training images; pixels are 0 .. 255
    first_labels: tuple[int, ...]  # of the training set


# By the name of torchvision's class, which is that of the folder it downloads into, too.
VARIANTS = {
    "MNIST": Variant("MNIST", Normalization((33.3184,), (78.5675,)), (5, 0, 4, 1, 9, 2, 1, 3, 1, 4)),
    "FashionMNIST": Variant(
        "Fashion-MNIST", Normalization((72.9404,), (90.0212,)), (9, 0, 0, 3, 0, 2, 7, 2, 5, 5)
    ),
}


def mnist(
    *,
    variant: Literal["MNIST", "FashionMNIST"],
    root: str,
    download: bool,
    batch_size: BatchSize,
    val_fraction: Fraction,
    seed: Seed,
    split_seed: Seed,
    augmentation: Augmentation | None,
) -> Dataset:
    """Handwritten digits or articles of clothing; inputs [B, 1, 28, 28].

    Sources: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document
    recognition", Proc. IEEE 86, 1998, https://doi.org/10.1109/5.726791; Xiao, Rasul, Vollgraf,
    "Fashion-MNIST", https://arxiv.org/abs/1708.07747.

    Args:
        root: folder of the four IDX files, plain or `.gz`; or of torchvision's `<variant>/raw`.
        download: fetch the files by torchvision if they are not there.

    Raises:
        ConfigError: files are absent or damaged, or `val_fraction` leaves a class out of a part.
    """
    train, test = _read(variant, Path(root).expanduser().absolute(), download)
    return in_memory(
        train,
        test,
        num_classes=NUM_CLASSES,
        normalization=VARIANTS[variant].normalization,
        batch_size=batch_size,
        val_fraction=val_fraction,
        seed=seed,
        split_seed=split_seed,
        augmentation=augmentation,
    )


def _read(variant: str, root: Path, download: bool) -> tuple[Samples, Samples]:
    title = VARIANTS[variant].title
    expected = [f"{root / name}[.gz]" for name in FILES]
    paths = _find(variant, root)
    if paths is None and download:
        try:
            _download(variant, root)
        except (OSError, RuntimeError) as error:
            raise absent_files(title, expected, error) from error
        paths = _find(variant, root)
    if paths is None:
        raise absent_files(title, expected)

    train, test = _samples(*paths[:2]), _samples(*paths[2:])
    if train[0].shape[1:] != test[0].shape[1:]:
        raise ConfigError(
            f"{paths[0]} has images of {tuple(train[0].shape[2:])} pixels and {paths[2]} of "
            f"{tuple(test[0].shape[2:])}; both sets must have one size. Replace the files."
        )
    _refuse_other_variant(variant, paths[1], train[1])
    return train, test


def _find(variant: str, root: Path) -> list[Path] | None:
    """The four files, in `root` itself or where torchvision puts them."""
    for folder in (root, root / variant / "raw"):
        pairs = [(folder / name, folder / f"{name}.gz") for name in FILES]
        found = [next(filter(Path.is_file, pair), None) for pair in pairs]
        if all(found):
            return [path for path in found if path]
    return None


def _download(variant: str, root: Path) -> None:
    import torchvision  # takes seconds, which only a download needs to spend

    getattr(torchvision.datasets, variant)(root, download=True)


def _samples(images_path: Path, labels_path: Path) -> Samples:
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise ConfigError(
            f"{images_path} has {len(images)} images, but {labels_path} has {len(labels)} labels; "
            "the two must belong together. Replace the files."
        )
    if (largest := int(labels.max())) >= NUM_CLASSES:
        raise ConfigError(
            f"{labels_path} has a label {largest}; labels are 0 .. {NUM_CLASSES - 1}. Replace the file."
        )
    return images.unsqueeze(1), labels.long()


def _refuse_other_variant(variant: str, path: Path, labels: Tensor) -> None:
    """The files of one set, taken for the other's, would otherwise train without a word."""
    for name, other in VARIANTS.items():
        if name != variant and tuple(labels[:10].tolist()) == other.first_labels:
            title = VARIANTS[variant].title
            raise ConfigError(
                f"{path} belongs to {other.title}, not to {title}. Set dataset.root=PATH, or the "
                f"environment variable OPTIM_DATA, to the folder of {title}."
            )
