import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from optim_cli.datasets import file_split
from optim_cli.datasets.dataset import Dataset, Split
from optim_cli.datasets.draws import permutation
from optim_cli.errors import ConfigError

CPU = torch.device("cpu")
CLASSES = ("ant", "bee", "cat")
Build = Callable[..., Dataset]

# From Python 3.12 on, starting a worker by fork warns of the threads that torch has started.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture
def root(tmp_path: Path, generator: torch.Generator) -> Path:
    """Eight training and three test images of each class, of various sizes."""
    for part, count in (("train", 8), ("test", 3)):
        for name in CLASSES:
            write_images(tmp_path / part / name, count, generator)
    return tmp_path


@pytest.fixture
def load(root: Path, build: Build) -> Build:
    """The images of `root`, without validation set and workers unless asked for."""

    def load(**overrides: Any) -> Dataset:
        defaults = {"root": str(root), "image_size": 16, "workers": 0, "val_fraction": 0}
        return build("image_folder", **{**defaults, **overrides})

    return load


def write_images(folder: Path, count: int, generator: torch.Generator) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        height, width = torch.randint(20, 40, (2,), generator=generator).tolist()
        pixels = torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")


def epoch_of(split: Split | None, batch_size: int, epoch: int | None) -> tuple[Tensor, Tensor]:
    assert split is not None
    inputs, targets = zip(*split.batches(batch_size, CPU, epoch), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def test_splits_have_the_promised_form(load: Build) -> None:
    data = load(val_fraction=0.25)
    assert (data.input_shape, data.num_classes) == ((3, 16, 16), 3)
    for split, per_class in ((data.train, 6), (data.val, 2), (data.test, 3)):
        for epoch in (None, 0):
            inputs, targets = epoch_of(split, 4, epoch)
            assert inputs.shape == (3 * per_class, 3, 16, 16)
            assert inputs.dtype == torch.float32
            assert targets.dtype == torch.int64
            assert targets.bincount().tolist() == [per_class] * 3
    assert data.train.num_batches(4) == 5


def test_evaluation_takes_the_middle_and_normalises(root: Path, load: Build) -> None:
    shade = Image.new("RGB", (40, 20), (255, 0, 0))
    shade.paste((10, 20, 30), (10, 0, 30, 20))
    shade.save(root / "test" / "ant" / "0.png")
    data = load(image_size=14)
    inputs, _ = epoch_of(data.test, 4, None)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    expected = (torch.tensor([10.0, 20.0, 30.0]) - mean) / std
    assert torch.allclose(inputs[0], expected.view(3, 1, 1).expand(3, 14, 14), atol=1e-5)


def test_workers_and_batch_size_change_nothing(load: Build) -> None:
    def data(workers: int) -> Dataset:
        return load(workers=workers)

    for epoch in (None, 2):
        inputs, targets = epoch_of(data(0).train, 5, epoch)
        for workers, batch_size in ((0, 1), (2, 4)):
            again, targets_again = epoch_of(data(workers).train, batch_size, epoch)
            assert torch.equal(again, inputs)
            assert torch.equal(targets_again, targets)


def test_order_and_augmentation_change_with_epoch_and_seed(load: Build) -> None:
    def epoch(seed: int, number: int) -> Tensor:
        data = load(seed=seed)
        return epoch_of(data.train, 5, number)[0]

    reference = epoch(0, 0)
    for other in (epoch(0, 1), epoch(1, 0)):
        same = (reference.unsqueeze(0) == other.unsqueeze(1)).flatten(2).all(2)
        assert not same.any()  # no image came out as before, in any place


def test_augmentation_of_a_sample_does_not_depend_on_its_place(
    load: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load()
    inputs, _ = epoch_of(data.train, 5, 1)
    order = permutation(len(data.train), 0, 1)
    monkeypatch.setattr(file_split, "permutation", lambda count, seed, epoch: torch.arange(count))
    assert torch.equal(epoch_of(data.train, 5, 1)[0][order], inputs)


def test_without_augmentation_training_sees_the_middle(load: Build) -> None:
    data = load(augmentation=None)
    evaluated, _ = epoch_of(data.train, 5, None)
    trained, _ = epoch_of(data.train, 5, 0)
    same = (trained.unsqueeze(0) == evaluated.unsqueeze(1)).flatten(2).all(2)
    assert same.sum(0).tolist() == same.sum(1).tolist() == [1] * 24
    assert not torch.equal(trained, evaluated)


def test_a_resumed_epoch_continues_where_it_stood(load: Build) -> None:
    data = load()
    whole = [inputs for inputs, _ in data.train.batches(5, CPU, 3)]
    rest = [inputs for inputs, _ in data.train.batches(5, CPU, 3, start=2)]
    assert torch.equal(torch.cat(rest), torch.cat(whole[2:]))


@pytest.mark.parametrize("workers", [0, 2])
def test_global_generator_is_left_alone(load: Build, workers: int) -> None:
    data = load(workers=workers)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    for epoch in (None, 0):
        for _ in data.train.batches(5, CPU, epoch):
            assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_folder_val_is_the_validation_set(root: Path, load: Build, generator: torch.Generator) -> None:
    for name in CLASSES:
        write_images(root / "val" / name, 1, generator)
    data = load(val_fraction=0.25)
    assert data.val is not None
    assert [len(data.train), len(data.val)] == [24, 3]


def test_val_fraction_zero_gives_no_validation_set(load: Build) -> None:
    data = load()
    assert data.val is None
    assert len(data.train) == 24


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("damage", ["absent", "no classes", "no images"])
def test_a_wrong_layout_is_explained(root: Path, load: Build, part: str, damage: str) -> None:
    shutil.rmtree(root / part)
    if damage != "absent":
        (root / part).mkdir()
    if damage == "no images":
        (root / part / "ant").mkdir()
    with pytest.raises(ConfigError, match="Expected is one folder per class") as failure:
        load()
    message = str(failure.value)
    assert str(root / part) in message
    assert f"{root}/train/CLASS/IMAGE.jpg" in message
    assert "dataset.root=PATH" in message


def test_other_classes_than_train_are_refused(root: Path, load: Build, generator: torch.Generator) -> None:
    write_images(root / "test" / "dog", 1, generator)
    with pytest.raises(ConfigError, match="only one of them has: dog"):
        load()
