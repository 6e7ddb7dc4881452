from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from optim_cli.datasets import tensor_split
from optim_cli.datasets.augmentation import CropFlip
from optim_cli.datasets.normalization import Normalization
from optim_cli.datasets.tensor_split import TensorSplit

CPU = torch.device("cpu")
COUNT = 103
NORMALIZATION = Normalization(mean=(3.0, 100.0), std=(2.0, 50.0))
CROP_FLIP = CropFlip(padding=2, flip=True)

Make = Callable[..., TensorSplit]


@pytest.fixture(params=["ready", "uint8"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, seed: int) -> Make:
    """Splits of the same images, small enough to be normalised once, or too large for it."""
    if request.param == "uint8":
        monkeypatch.setattr(tensor_split, "READY_BYTES", 0)

    def make(augmentation: CropFlip | None = None, more_seed: int = 0) -> TensorSplit:
        return TensorSplit(*samples(seed), NORMALIZATION, seed + more_seed, augmentation)

    return make


def samples(seed: int) -> tuple[Tensor, Tensor]:
    """Random images; the labels are the numbers of the samples."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (COUNT, 2, 6, 6), generator=generator, dtype=torch.uint8)
    return images, torch.arange(COUNT)


def epoch_of(split: TensorSplit, batch_size: int, epoch: int | None) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*split.batches(batch_size, CPU, epoch), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def test_batches_have_the_promised_form(make: Make) -> None:
    split = make(CROP_FLIP)
    for epoch in (None, 0):
        sizes = []
        for inputs, targets in split.batches(25, CPU, epoch):
            assert inputs.dtype == torch.float32
            assert targets.dtype == torch.int64
            assert inputs.shape == (len(targets), 2, 6, 6)
            sizes.append(len(targets))
        assert sizes == [25, 25, 25, 25, 3]
    assert len(split) == COUNT
    assert [split.num_batches(n) for n in (1, 25, 102, 103, 200)] == [103, 5, 2, 1, 1]


@pytest.mark.parametrize("augmentation", [None, CROP_FLIP])
def test_evaluation_is_in_order_and_normalised(make: Make, seed: int, augmentation: CropFlip | None) -> None:
    images, labels = samples(seed)
    inputs, targets = epoch_of(make(augmentation), 25, None)
    assert torch.equal(targets, labels)
    mean, std = torch.tensor([3.0, 100.0]), torch.tensor([2.0, 50.0])
    expected = (images.float() - mean.view(2, 1, 1)) / std.view(2, 1, 1)
    assert torch.allclose(inputs, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("augmentation", [None, CROP_FLIP])
def test_an_epoch_does_not_depend_on_the_batch_size(make: Make, augmentation: CropFlip | None) -> None:
    inputs, targets = epoch_of(make(augmentation), 103, 5)
    for batch_size in (1, 7, 64, 500):
        again, targets_again = epoch_of(make(augmentation), batch_size, 5)
        assert torch.equal(again, inputs)
        assert torch.equal(targets_again, targets)


def test_training_without_augmentation_only_reorders(make: Make) -> None:
    inputs, _ = epoch_of(make(), 25, None)
    shuffled, targets = epoch_of(make(), 25, 0)
    assert not torch.equal(targets, torch.arange(COUNT))
    assert targets.sort().values.tolist() == list(range(COUNT))
    assert torch.equal(shuffled, inputs[targets])


def test_order_and_augmentation_change_with_epoch_and_seed(make: Make) -> None:
    def by_sample(split: TensorSplit, epoch: int) -> tuple[Tensor, Tensor]:
        inputs, targets = epoch_of(split, 25, epoch)
        return inputs[targets.argsort()], targets

    images, order = by_sample(make(CROP_FLIP), 1)
    for split, epoch in ((make(CROP_FLIP), 2), (make(CROP_FLIP, more_seed=1), 1)):
        other_images, other_order = by_sample(split, epoch)
        assert not torch.equal(other_order, order)
        changed = (other_images != images).flatten(1).any(1)
        assert changed.sum() > 0.8 * COUNT


def test_augmentation_of_a_sample_does_not_depend_on_its_place(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, targets = epoch_of(make(CROP_FLIP), 10, 3)
    monkeypatch.setattr(tensor_split, "permutation", lambda count, seed, epoch: torch.arange(count))
    assert torch.equal(epoch_of(make(CROP_FLIP), 10, 3)[0], inputs[targets.argsort()])


def test_black_comes_in_from_outside(seed: int) -> None:
    white = torch.full((40, 2, 6, 6), 255, dtype=torch.uint8)
    split = TensorSplit(white, torch.zeros(40, dtype=torch.int64), NORMALIZATION, seed, CROP_FLIP)
    inputs, _ = epoch_of(split, 40, 0)
    for channel, (mean, std) in enumerate(((3, 2), (100, 50))):
        values = inputs[:, channel].unique()
        assert torch.allclose(values, torch.tensor([(0 - mean) / std, (255 - mean) / std]))


def test_a_resumed_epoch_continues_where_it_stood(make: Make) -> None:
    for epoch in (None, 4):
        whole = list(make(CROP_FLIP).batches(10, CPU, epoch))
        rest = list(make(CROP_FLIP).batches(10, CPU, epoch, start=7))
        assert len(rest) == len(whole) - 7
        for (inputs, targets), (whole_inputs, whole_targets) in zip(rest, whole[7:], strict=True):
            assert torch.equal(inputs, whole_inputs)
            assert torch.equal(targets, whole_targets)
        assert list(make(CROP_FLIP).batches(10, CPU, epoch, start=11)) == []


def test_global_generator_is_left_alone_and_does_not_matter(make: Make) -> None:
    torch.manual_seed(1)
    inputs, _ = epoch_of(make(CROP_FLIP), 10, 0)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(epoch_of(make(CROP_FLIP), 10, 0)[0], inputs)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_ready_and_uint8_images_give_the_same_inputs(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def inputs(limit: int) -> Tensor:
        monkeypatch.setattr(tensor_split, "READY_BYTES", limit)
        return epoch_of(TensorSplit(*samples(seed), NORMALIZATION, seed, CROP_FLIP), 10, 0)[0]

    # Black is the same pixel value in both, so not even the margins differ.
    assert torch.equal(inputs(0), inputs(2**30))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_on_a_gpu_equal_those_on_the_cpu(make: Make) -> None:
    for epoch in (None, 0):
        expected = list(make(CROP_FLIP).batches(10, CPU, epoch))
        found = list(make(CROP_FLIP).batches(10, torch.device("cuda"), epoch))
        for (inputs, targets), (cpu_inputs, cpu_targets) in zip(found, expected, strict=True):
            assert inputs.is_cuda
            assert targets.is_cuda
            assert torch.equal(inputs.cpu(), cpu_inputs)
            assert torch.equal(targets.cpu(), cpu_targets)
