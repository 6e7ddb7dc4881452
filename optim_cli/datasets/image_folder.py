"""Your own images: a folder per class, read from files while training."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch.utils.data import Subset

from optim_cli.datasets.dataset import BatchSize, Dataset, Fraction, Seed
from optim_cli.datasets.file_split import FileSplit, Source, Transform
from optim_cli.datasets.normalization import Normalization
from optim_cli.datasets.splitting import stratified_split
from optim_cli.errors import ConfigError

if TYPE_CHECKING:  # importing torchvision takes seconds: not at the import of every config
    from torchvision.datasets import ImageFolder

# Of ImageNet, as is the custom for photographs; pixels are 0 .. 255.
NORMALIZATION = Normalization(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


@dataclass(frozen=True)
class ResizedCropFlip:
    """Cut a random part of the image, bring it to the wanted size, mirror half of the images.

    Source: Szegedy et al., "Going Deeper with Convolutions", section 6,
    https://arxiv.org/abs/1409.4842.

    Args:
        min_area: smallest part to cut, as a fraction of the image's area; the largest is 1.
        flip: whether left and right are exchanged with probability 1/2.
    """

    min_area: Annotated[float, Gt(0), Le(1)]
    flip: bool

    def transform(self, image_size: int) -> Transform:
        """From an image to uint8 [3, image_size, image_size]."""
        from torchvision.transforms import v2

        crop = v2.RandomResizedCrop(image_size, scale=(self.min_area, 1.0), antialias=True)
        flip = v2.RandomHorizontalFlip(0.5 if self.flip else 0.0)
        compose: Transform = v2.Compose([crop, flip, v2.PILToTensor()])
        return compose


def image_folder(
    *,
    root: str,
    image_size: Annotated[int, Ge(1)],
    workers: Annotated[int, Ge(0)],
    batch_size: BatchSize,
    val_fraction: Fraction,
    seed: Seed,
    split_seed: Seed,
    augmentation: ResizedCropFlip | None,
) -> Dataset:
    """Inputs [B, 3, image_size, image_size]; the classes are the names of the folders, sorted.

    Args:
        root: folder that holds `train/CLASS/IMAGE`, `test/CLASS/IMAGE` and perhaps `val/...`.
        val_fraction: part of `train` used for validation if there is no folder `val`.

    Raises:
        ConfigError: a folder is absent, has no images or other classes than `train`, or
            `val_fraction` leaves a class out of a part.
    """
    folder = Path(root).expanduser().absolute()
    images, test = _open(folder, "train"), _open(folder, "test")
    _same_classes(images, test)
    train: Source = images
    val: Source | None = None
    if (folder / "val").is_dir():
        val = _open(folder, "val")
        _same_classes(images, val)
    elif val_fraction:
        rest, part = stratified_split(torch.tensor(images.targets), val_fraction, split_seed)
        train, val = Subset(images, rest.tolist()), Subset(images, part.tolist())

    center = _center_crop(image_size)
    random = augmentation.transform(image_size) if augmentation else None
    return Dataset(
        input_shape=(3, image_size, image_size),
        num_classes=len(images.classes),
        batch_size=batch_size,
        train=FileSplit(train, NORMALIZATION, center, random, seed, workers),
        val=FileSplit(val, NORMALIZATION, center, workers=workers) if val is not None else None,
        test=FileSplit(test, NORMALIZATION, center, workers=workers),
    )


def _center_crop(image_size: int) -> Transform:
    """The middle of the image: its shorter side scaled to 8/7 of the size, as 256 is to 224."""
    from torchvision.transforms import v2

    resize = v2.Resize(round(image_size * 8 / 7), antialias=True)
    compose: Transform = v2.Compose([resize, v2.CenterCrop(image_size), v2.PILToTensor()])
    return compose


def _open(root: Path, name: str) -> "ImageFolder":
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(root / name, loader=_load)
    except OSError as error:
        raise ConfigError(
            f"{root / name}: {error}. Expected is one folder per class, with its images in it:\n"
            f"  {root}/train/CLASS/IMAGE.jpg\n"
            f"  {root}/test/CLASS/IMAGE.jpg\n"
            f"  {root}/val/CLASS/IMAGE.jpg  (may be absent: dataset.val_fraction of train then)\n"
            "Say where it is: dataset.root=PATH, or the environment variable OPTIM_DATA."
        ) from error


def _load(path: str) -> Any:
    """Read an image; a damaged file is named, which not all of Pillow's errors do."""
    from torchvision.datasets.folder import default_loader

    try:
        return default_loader(path)
    except OSError as error:
        raise OSError(f"{path} cannot be read as an image: {error}") from error


def _same_classes(train: "ImageFolder", other: "ImageFolder") -> None:
    """Labels are positions among the folders: another set of folders would shift them."""
    if different := sorted(set(train.classes) ^ set(other.classes)):
        raise ConfigError(
            f"{train.root} and {other.root} must have the same folders (one per class); only one "
            f"of them has: {', '.join(different)}. Add what is missing, or set dataset.root=PATH."
        )
