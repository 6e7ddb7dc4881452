import pytest
import torch
from torch import nn
from torchvision import models

from optim_cli.models.resnet import Stem, resnet18


def stem_of(stem: Stem, shape: tuple[int, int, int]) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
    """Kernel, stride, and whether there is max-pooling."""
    model = resnet18(input_shape=shape, num_classes=10, stem=stem)
    convolution, pooling = model.conv1, model.maxpool
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.in_channels == shape[0]
    return convolution.kernel_size, convolution.stride, isinstance(pooling, nn.MaxPool2d)


SMALL = ((3, 3), (1, 1), False)
STANDARD = ((7, 7), (2, 2), True)


@pytest.mark.parametrize(
    ("stem", "shape", "expected"),
    [
        ("auto", (3, 32, 32), SMALL),
        ("auto", (1, 63, 200), SMALL),
        ("auto", (3, 64, 64), STANDARD),
        ("auto", (4, 224, 224), STANDARD),
        ("small", (3, 224, 224), SMALL),
        ("standard", (1, 28, 28), STANDARD),
    ],
)
def test_stem(
    stem: Stem, shape: tuple[int, int, int], expected: tuple[tuple[int, int], tuple[int, int], bool]
) -> None:
    assert stem_of(stem, shape) == expected


def test_standard_network_is_that_of_torchvision() -> None:
    """Weights of either load into the other and give the same logits."""
    model = resnet18(input_shape=(3, 64, 64), num_classes=10, stem="standard").eval()
    original = models.resnet18(num_classes=10).eval()
    original.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), original(images))


def test_stem_is_initialised_as_the_layer_that_it_replaces() -> None:
    model = resnet18(input_shape=(3, 64, 64), num_classes=10, stem="standard")
    convolution = model.conv1
    assert isinstance(convolution, nn.Conv2d)
    expected = (2 / (64 * 7 * 7)) ** 0.5  # He initialisation by fan-out
    assert convolution.weight.std().item() == pytest.approx(expected, rel=0.05)
