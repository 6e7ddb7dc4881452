"""What holds for every model in configs/model."""

import inspect
import random
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import get_object, instantiate
from torch import nn

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "model").glob("*.yaml"))
SHAPES = [(1, 8, 8), (3, 13, 10), (2, 32, 32)]

every_model = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def build(path: Path, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed: {seed}")
    torch.manual_seed(seed)
    model: nn.Module = instantiate(
        yaml.safe_load(path.read_text()),
        input_shape=input_shape,
        num_classes=num_classes,
        _convert_="all",
    )
    return model


def test_there_are_configs() -> None:
    assert CONFIGS


@every_model
def test_yaml_sets_every_argument_and_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")
    values = yaml.safe_load(path.read_text())
    constructor = get_object(values.pop("_target_"))
    parameters = set(inspect.signature(constructor).parameters)
    assert set(values) == parameters - {"input_shape", "num_classes"}


@every_model
@pytest.mark.parametrize("input_shape", SHAPES, ids=str)
def test_logits_and_gradients(path: Path, input_shape: tuple[int, ...]) -> None:
    model = build(path, input_shape, num_classes=7)
    logits = model(torch.randn(4, *input_shape))
    assert logits.shape == (4, 7)
    nn.functional.cross_entropy(logits, torch.tensor([0, 2, 4, 6])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_model
def test_evaluation_treats_samples_one_by_one(path: Path) -> None:
    model = build(path, (1, 8, 8), num_classes=10).eval()
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        separate = torch.cat([model(image.unsqueeze(0)) for image in images])
        assert torch.allclose(model(images), separate, atol=1e-4)


@every_model
def test_the_head_has_a_conventional_name(path: Path) -> None:
    model = build(path, (1, 8, 8), num_classes=7)
    head = getattr(model, "fc" if "resnet" in path.stem else "head")
    assert isinstance(head, nn.Linear)
    assert head.out_features == 7
