"""What holds for every model in configs/model, on images or on texts, whichever it takes."""

import inspect
import random
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import get_object, instantiate
from torch import Tensor, nn

from optim_cli.config.groups import unfitting_structure
from optim_cli.optim.param_groups import Structure
from optim_cli.optim.param_groups.conditions import fits, subjects_of
from optim_cli.optim.param_groups.depth import layers_of

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "model").glob("*.yaml"))
SHAPES = [(1, 8, 8), (3, 13, 10), (2, 32, 32)]
VOCABULARY = 50
# What lets a model take all of these shapes.
FITTING = {"vit": {"patch_size": 1}}

every_model = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def structure_of(path: Path) -> Structure:
    return Structure(**yaml.safe_load(path.read_text())["structure"])


def parameters_of(path: Path) -> set[str]:
    return set(inspect.signature(get_object(yaml.safe_load(path.read_text())["_target_"])).parameters)


def build(path: Path, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed: {seed}")
    torch.manual_seed(seed)
    supplied = {"input_shape": input_shape, "vocabulary": VOCABULARY, "num_classes": num_classes}
    node = yaml.safe_load(path.read_text()) | FITTING.get(path.stem, {})
    del node["structure"]
    model: nn.Module = instantiate(
        node,
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
    del values["_target_"], values["structure"]
    assert set(values) == parameters_of(path) - {"input_shape", "vocabulary", "num_classes"}


@every_model
@pytest.mark.parametrize("input_shape", SHAPES, ids=str)
def test_logits_and_gradients(path: Path, input_shape: tuple[int, ...]) -> None:
    model = build(path, input_shape, num_classes=7)
    for parameter in model.parameters():
        if not parameter.any():  # a head that begins at zero hides what is before it
            nn.init.normal_(parameter)
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
def test_the_structure_names_the_head_and_a_layer_for_every_parameter(path: Path) -> None:
    model, structure = build(path, (1, 8, 8), num_classes=7), structure_of(path)
    assert not [*unfitting_structure(structure, model)]
    names = [name for name, _ in model.named_parameters()]
    head = [name for name in names if fits(structure.head, name)]
    assert 1 <= len(head) <= 2
    weight = model.get_parameter(head[0])
    assert isinstance(weight, nn.Parameter)
    assert 7 in weight.shape
    layers = layers_of(subjects_of(model), structure.depth)
    assert layers.keys() == set(names)
    # What is before in the network is before in the list of parameters, but for a head.
    assert {layers[name] for name in head} == {max(layers.values())}
    assert list(layers.values()) == sorted(layers.values())
