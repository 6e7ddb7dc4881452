import pytest
import torch

from optim_cli.models.cnn import CNN


def test_resolution_is_halved_between_stages() -> None:
    model = CNN(input_shape=(3, 20, 12), num_classes=5, widths=[4, 6, 8])
    assert model.body(torch.randn(2, 3, 20, 12)).shape == (2, 8, 5, 3)


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_no_image_is_too_small(side: int) -> None:
    model = CNN(input_shape=(1, side, side), num_classes=5, widths=[4, 4, 4, 4])
    assert model(torch.randn(2, 1, side, side)).shape == (2, 5)


def test_size_is_that_of_a_small_network() -> None:
    model = CNN(input_shape=(1, 28, 28), num_classes=10, widths=[32, 64, 128])
    assert sum(parameter.numel() for parameter in model.parameters()) == 288_170
