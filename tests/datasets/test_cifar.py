import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from optim_cli.datasets.dataset import Dataset
from optim_cli.errors import ConfigError

CPU = torch.device("cpu")
Build = Callable[..., Dataset]


def write_files(
    root: Path, num_classes: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Tensor]:
    """A small set in torchvision's layout, its checksums told to torchvision; gives the test part."""
    from torchvision import datasets

    source = {10: datasets.CIFAR10, 100: datasets.CIFAR100}[num_classes]
    folder = root / source.base_folder
    folder.mkdir()

    def write(name: str, content: object) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    images = torch.empty(0)
    labels = torch.empty(0)
    for part in ("train_list", "test_list"):
        checksums = []
        for name, _ in getattr(source, part):
            images = torch.randint(256, (300, 3, 32, 32), generator=generator, dtype=torch.uint8)
            labels = torch.randperm(300, generator=generator) % num_classes
            key = "labels" if num_classes == 10 else "fine_labels"
            content = {"data": images.flatten(1).numpy(), key: labels.tolist()}
            checksums.append([name, write(name, content)])
        monkeypatch.setattr(source, part, checksums)
    meta = source.meta
    names = [str(number) for number in range(num_classes)]
    checksum = write(meta["filename"], {meta["key"]: names})
    monkeypatch.setattr(source, "meta", {**meta, "md5": checksum})
    return images, labels


@pytest.mark.parametrize(("num_classes", "train"), [(10, 1350), (100, 200)])
def test_files_are_read(
    tmp_path: Path,
    build: Build,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
    num_classes: int,
    train: int,
) -> None:
    images, labels = write_files(tmp_path, num_classes, generator, monkeypatch)
    fraction = 0.1 if num_classes == 10 else 1 / 3
    data = build(f"cifar{num_classes}", root=str(tmp_path), val_fraction=fraction)
    assert (data.input_shape, data.num_classes) == ((3, 32, 32), num_classes)
    assert [len(data.train), len(data.test)] == [train, 300]
    inputs, targets = next(data.test.batches(300, CPU))
    assert torch.equal(targets, labels)
    std = 62.993 if num_classes == 10 else 68.170
    assert torch.allclose(
        (inputs[:, 0] - inputs[0, 0, 0, 0]) * std,
        images[:, 0].float() - images[0, 0, 0, 0],
        atol=1e-3,
    )


def test_absent_files_are_named_with_the_remedies(tmp_path: Path, build: Build) -> None:
    with pytest.raises(ConfigError, match="CIFAR-10: files are missing") as failure:
        build("cifar10", root=str(tmp_path))
    message = str(failure.value)
    for name in ("data_batch_1", "data_batch_5", "test_batch", "batches.meta"):
        assert str(tmp_path / "cifar-10-batches-py" / name) in message
    for remedy in ("dataset.root=PATH", "OPTIM_DATA", "dataset.download=true"):
        assert remedy in message


def test_a_failed_download_is_explained(
    tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    def fail(self: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.CIFAR10, "download", fail)
    with pytest.raises(ConfigError, match="Fetching them failed: no route to host"):
        build("cifar100", root=str(tmp_path), download=True)
