from collections.abc import Callable

import torch

from optim_cli.datasets.dataset import Dataset, Split

CPU = torch.device("cpu")
Build = Callable[..., Dataset]


def all_of(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    return next(split.batches(len(split), CPU))


def test_form_and_name(build: Build) -> None:
    data = build("synthetic", num_samples=400, num_classes=4, input_shape=[2, 9, 7])
    assert data.synthetic
    assert (data.input_shape, data.num_classes) == ((2, 9, 7), 4)
    assert data.val is not None
    assert [len(split) for split in (data.train, data.val, data.test)] == [288, 32, 80]
    inputs, targets = all_of(data.train)
    assert targets.bincount().tolist() == [72] * 4
    assert abs(inputs.square().mean().item() - 1) < 0.1


def test_images_depend_on_data_seed_alone(build: Build) -> None:
    torch.manual_seed(3)
    inputs, targets = all_of(build("synthetic").train)
    torch.manual_seed(4)
    again, targets_again = all_of(build("synthetic", seed=9).train)
    assert torch.equal(again, inputs)
    assert torch.equal(targets_again, targets)
    assert not torch.equal(all_of(build("synthetic", data_seed=1).train)[0], inputs)


def test_classes_can_be_learned_but_not_by_templates(build: Build) -> None:
    """Nearest class mean beats chance by far, and stays far from the nearest cluster's knowledge."""
    data = build("synthetic")
    inputs, targets = (part.flatten(1) if part.ndim > 1 else part for part in all_of(data.train))
    means = torch.stack([inputs[targets == label].mean(0) for label in range(10)])
    test_inputs, test_targets = all_of(data.test)
    nearest = torch.cdist(test_inputs.flatten(1), means).argmin(1)
    accuracy = (nearest == test_targets).double().mean().item()
    assert 0.3 < accuracy < 0.9


def test_smallest_images_are_finite(build: Build) -> None:
    inputs, _ = all_of(build("synthetic", input_shape=[1, 1, 1], noise=0.0).train)
    assert inputs.isfinite().all()
