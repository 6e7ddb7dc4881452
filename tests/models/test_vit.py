"""The vision transformer, beside torchvision's."""

import re

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from optim_cli.models.vit import ViT


def made(shape: tuple[int, int, int], patch_size: int = 4, heads: int = 2) -> ViT:
    return ViT(
        input_shape=shape,
        num_classes=5,
        patch_size=patch_size,
        width=8,
        layers=2,
        heads=heads,
        mlp_width=16,
        dropout=0.0,
    )


def test_square_images_of_three_channels_are_as_in_torchvision() -> None:
    """Weights of either load into the other and give the same logits."""
    original = VisionTransformer(8, 4, 2, 2, 8, 16, num_classes=5).eval()
    nn.init.normal_(original.heads.head.weight)
    model = made((3, 8, 8)).eval()
    model.load_state_dict(original.state_dict())
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(model(images), original(images))
    original.load_state_dict(model.state_dict())


def test_every_patch_counts() -> None:
    """One pixel of each, in an image that is not square."""
    model = made((2, 4, 12)).eval()
    nn.init.normal_(model.heads.head.weight)
    images = torch.randn(1, 2, 4, 12).requires_grad_()
    model(images).sum().backward()
    assert isinstance(images.grad, Tensor)
    assert images.grad.ne(0).all()
    assert model.encoder.pos_embedding.shape == (1, 4, 8)


def test_patches_are_initialised_as_those_that_they_replace() -> None:
    weight = made((1, 32, 32), patch_size=16).conv_proj.weight
    assert weight.std().item() == pytest.approx(1 / 16, rel=0.1)


def test_what_does_not_divide_is_refused() -> None:
    told = "patch_size 5 does not divide images of 12 x 18; allowed: 1, 2, 3, 6"
    with pytest.raises(ValueError, match=re.escape(told)):
        made((1, 12, 18), patch_size=5)
    with pytest.raises(ValueError, match="heads 3 does not divide width 8"):
        made((1, 8, 8), heads=3)
