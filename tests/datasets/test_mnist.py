import gzip
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from optim_cli.datasets import mnist as mnist_module
from optim_cli.datasets.dataset import Dataset
from optim_cli.datasets.mnist import FILES, mnist
from optim_cli.errors import ConfigError

CPU = torch.device("cpu")


def write_idx(path: Path, elements: Tensor) -> None:
    header = struct.pack(f">4B{elements.ndim}I", 0, 0, 8, elements.ndim, *elements.shape)
    content = header + elements.numpy().tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_files(folder: Path, generator: torch.Generator, ending: str = "") -> dict[str, Tensor]:
    """A set of 60 + 20 images of 6x5 pixels, in the four files of the family."""
    contents = {}
    for name in FILES:
        count = 60 if name.startswith("train") else 20
        contents[name] = (
            torch.randint(256, (count, 6, 5), generator=generator, dtype=torch.uint8)
            if "images" in name
            else (torch.randperm(count, generator=generator) % 10).to(torch.uint8)
        )
        write_idx(folder / f"{name}{ending}", contents[name])
    return contents


def load(root: Path, variant: str = "MNIST", download: bool = False) -> Dataset:
    return mnist(
        variant=variant,  # type: ignore[arg-type]
        root=str(root),
        download=download,
        batch_size=16,
        val_fraction=0.25,
        seed=0,
        split_seed=0,
        augmentation=None,
    )


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("folder", [".", "MNIST/raw"])
def test_files_are_found_and_read(
    tmp_path: Path, generator: torch.Generator, ending: str, folder: str
) -> None:
    contents = write_files(tmp_path / folder, generator, ending)
    data = load(tmp_path)
    assert (data.input_shape, data.num_classes, data.batch_size) == ((1, 6, 5), 10, 16)
    assert data.val is not None
    assert [len(split) for split in (data.train, data.val, data.test)] == [45, 15, 20]
    inputs, targets = next(data.test.batches(20, CPU))
    assert torch.equal(targets, contents["t10k-labels-idx1-ubyte"].long())
    pixels = (inputs * 78.5675 + 33.3184).round().to(torch.uint8)
    assert torch.equal(pixels.squeeze(1), contents["t10k-images-idx3-ubyte"])


def test_plain_and_packed_files_may_be_mixed(tmp_path: Path, generator: torch.Generator) -> None:
    write_files(tmp_path, generator)
    packed = tmp_path / FILES[2]
    (tmp_path / f"{FILES[2]}.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    assert len(load(tmp_path).test) == 20


@pytest.mark.parametrize("absent", FILES)
def test_absent_files_are_named_with_the_remedies(
    tmp_path: Path, generator: torch.Generator, absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "set", generator)
    (tmp_path / "set" / absent).unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as failure:
        load(Path("set"), "FashionMNIST")
    message = str(failure.value)
    assert message.startswith("Fashion-MNIST: files are missing.")
    for name in FILES:
        assert f"{tmp_path / 'set' / name}[.gz]" in message
    for remedy in ("dataset.root=PATH", "OPTIM_DATA", "dataset.download=true"):
        assert remedy in message


def test_a_failed_download_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(variant: str, root: Path) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(mnist_module, "_download", fail)
    with pytest.raises(ConfigError, match="Fetching them failed: no route to host"):
        load(tmp_path, download=True)


def test_downloaded_files_are_read(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(variant: str, root: Path) -> None:
        write_files(root / variant / "raw", generator)

    monkeypatch.setattr(mnist_module, "_download", download)
    assert len(load(tmp_path, "FashionMNIST", download=True).test) == 20


def test_damaged_files_are_named(tmp_path: Path, generator: torch.Generator) -> None:
    write_files(tmp_path, generator)
    path = tmp_path / FILES[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=f"{path} cannot be used"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "elements", "message"),
    [
        (FILES[1], torch.zeros(59), "60 images, but .* 59 labels"),
        (FILES[3], torch.full((20,), 10), "a label 10; labels are 0 .. 9"),
        (FILES[2], torch.zeros(20, 6, 6), r"\(6, 5\) pixels and .* \(6, 6\)"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, generator: torch.Generator, name: str, elements: Tensor, message: str
) -> None:
    write_files(tmp_path, generator)
    write_idx(tmp_path / name, elements.to(torch.uint8))
    with pytest.raises(ConfigError, match=message):
        load(tmp_path)


def test_files_of_the_other_set_are_refused(tmp_path: Path, generator: torch.Generator) -> None:
    contents = write_files(tmp_path, generator)
    labels = contents[FILES[1]]
    labels[:10] = torch.tensor([9, 0, 0, 3, 0, 2, 7, 2, 5, 5])
    write_idx(tmp_path / FILES[1], labels)
    with pytest.raises(ConfigError, match="belongs to Fashion-MNIST, not to MNIST"):
        load(tmp_path, "MNIST")
    assert len(load(tmp_path, "FashionMNIST").test) == 20


def test_reading_files_does_not_import_torchvision(tmp_path: Path, generator: torch.Generator) -> None:
    write_files(tmp_path, generator)
    program = (
        "import sys\n"
        "from optim_cli.datasets.mnist import mnist\n"
        f"mnist(variant='MNIST', root={str(tmp_path)!r}, download=True, batch_size=1,"
        " val_fraction=0.25, seed=0, split_seed=0, augmentation=None)\n"
        "print('torchvision' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def real_files_present() -> bool:
    root = Path(os.environ.get("OPTIM_DATA", ""))
    return all(any(root.glob(f"{name}*")) for name in FILES) if "OPTIM_DATA" in os.environ else False


@pytest.mark.skipif(not real_files_present(), reason="OPTIM_DATA names no folder of IDX files")
def test_real_fashion_mnist(build: Callable[..., Dataset]) -> None:
    data = build("fashion_mnist")
    assert data.val is not None
    assert [len(split) for split in (data.train, data.val, data.test)] == [54000, 6000, 10000]
    assert data.input_shape == (1, 28, 28)
    inputs = torch.cat([inputs for inputs, _ in data.train.batches(1000, CPU)])
    assert abs(inputs.mean().item()) < 0.01
    assert abs(inputs.std().item() - 1) < 0.01
    labels = torch.cat([targets for _, targets in data.val.batches(1000, CPU)])
    assert labels.bincount().tolist() == [600] * 10
