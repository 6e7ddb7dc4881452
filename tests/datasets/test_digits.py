import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from optim_cli.datasets import digits as digits_module
from optim_cli.datasets.dataset import Dataset, Split
from optim_cli.errors import ConfigError

CPU = torch.device("cpu")
Build = Callable[..., Dataset]


def all_of(split: Split | None) -> tuple[torch.Tensor, torch.Tensor]:
    assert split is not None
    inputs, targets = zip(*split.batches(100, CPU), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def test_images_and_labels_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    expected = load_digits()
    images, labels = digits_module._bundled()
    assert np.array_equal(images.squeeze(1), expected.images)
    assert np.array_equal(labels, expected.target)


def test_splits_hold_every_image_once(build: Build) -> None:
    data = build("digits")
    assert (data.input_shape, data.num_classes, data.batch_size) == ((1, 8, 8), 10, 64)
    assert not data.synthetic
    parts = [all_of(split) for split in (data.train, data.val, data.test)]
    assert [len(labels) for _, labels in parts] == [1294, 144, 359]
    for _, labels in parts:
        assert len(labels.unique()) == 10

    images, _ = digits_module._bundled()
    found = torch.cat([inputs for inputs, _ in parts]).flatten(1)
    expected = ((images.flatten(1).double() - 4.8842) / 6.0168).float()
    assert torch.allclose(sort_rows(found), sort_rows(expected), atol=1e-5)


def sort_rows(rows: torch.Tensor) -> torch.Tensor:
    """In an order that rounding does not change."""
    return rows[np.lexsort((rows * 6.0168).round().T.numpy())]


def test_inputs_are_normalised(build: Build) -> None:
    inputs, _ = all_of(build("digits").train)
    assert abs(inputs.mean().item()) < 0.02
    assert abs(inputs.std().item() - 1) < 0.02


def test_seed_shuffles_and_split_seed_splits(build: Build) -> None:
    data = build("digits")
    other_seed, other_split = build("digits", seed=5), build("digits", split_seed=5)
    assert torch.equal(all_of(other_seed.test)[0], all_of(data.test)[0])
    assert not torch.equal(all_of(other_split.test)[0], all_of(data.test)[0])

    def first(data: Dataset) -> torch.Tensor:
        return next(data.train.batches(64, CPU, epoch=0))[0]

    assert torch.equal(first(build("digits")), first(data))
    assert not torch.equal(first(other_seed), first(data))


def test_val_fraction_zero_gives_no_validation_set(build: Build) -> None:
    data = build("digits", val_fraction=0)
    assert data.val is None
    assert len(data.train) == 1438


def test_fractions_that_leave_a_class_out_are_refused(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.val_fraction=0\.001 of 1438 samples"):
        build("digits", val_fraction=0.001)


def test_building_needs_neither_scikit_learn_nor_torchvision() -> None:
    """Their imports take seconds each, in every run."""
    program = (
        "import sys\n"
        "from optim_cli.datasets.digits import digits\n"
        "digits(batch_size=64, val_fraction=0.1, test_fraction=0.2, seed=0, split_seed=0,"
        " augmentation=None)\n"
        "print([name for name in ('sklearn', 'torchvision') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_missing_scikit_learn_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits_module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install scikit-learn"):
        digits_module._bundled()
