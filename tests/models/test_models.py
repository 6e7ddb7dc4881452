"""What holds for every model in configs/model, on images or on texts, whichever it takes."""

import inspect
import random
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import get_object, instantiate
from torch import Tensor, nn

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "model").glob("*.yaml"))
SHAPES = [(1, 8, 8), (3, 13, 10), (2, 32, 32)]
VOCABULARY = 50

every_model = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def parameters_of(path: Path) -> set[str]:
    return set(inspect.signature(get_object(yaml.safe_load(path.read_text())["_target_"])).parameters)


def build(path: Path, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed: {seed}")
    torch.manual_seed(seed)
    supplied = {"input_shape": input_shape, "vocabulary": VOCABULARY, "num_classes": num_classes}
    model: nn.Module = instantiate(
        yaml.safe_load(path.read_text()),
        **{name: value for name, value in supplied.items() if name in parameters_of(path)},
        _convert_="all",
    )
    return model


def inputs(path: Path, count: int, input_shape: tuple[int, ...]) -> Tensor:
    """Images of that shape, or texts as long as one of its sides."""
    if "vocabulary" in parameters_of(path):
        return torch.randint(1, VOCABULARY, (count, input_shape[-1]))
    return torch.randn(count, *input_shape)


def test_there_are_configs() -> None:
    assert len({"vocabulary" in parameters_of(path) for path in CONFIGS}) == 2


@every_model
def test_yaml_sets_every_argument_and_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")
    values = yaml.safe_load(path.read_text())
    values.pop("_target_")
    assert set(values) == parameters_of(path) - {"input_shape", "vocabulary", "num_classes"}


@every_model
@pytest.mark.parametrize("input_shape", SHAPES, ids=str)
def test_logits_and_gradients(path: Path, input_shape: tuple[int, ...]) -> None:
    model = build(path, input_shape, num_classes=7)
    logits = model(inputs(path, 4, input_shape))
    assert logits.shape == (4, 7)
    nn.functional.cross_entropy(logits, torch.tensor([0, 2, 4, 6])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        grad = parameter.grad.to_dense()
        assert grad.isfinite().all(), name
        assert grad.any(), name


@every_model
def test_evaluation_treats_samples_one_by_one(path: Path) -> None:
    model = build(path, (1, 8, 8), num_classes=10).eval()
    samples = inputs(path, 3, (1, 8, 8))
    with torch.no_grad():
        separate = torch.cat([model(sample.unsqueeze(0)) for sample in samples])
        assert torch.allclose(model(samples), separate, atol=1e-4)


@every_model
def test_the_head_has_a_conventional_name(path: Path) -> None:
    model = build(path, (1, 8, 8), num_classes=7)
    head = getattr(model, "fc" if "resnet" in path.stem else "head")
    assert isinstance(head, nn.Linear | nn.EmbeddingBag)
    assert head.weight.shape[0 if isinstance(head, nn.Linear) else 1] == 7
