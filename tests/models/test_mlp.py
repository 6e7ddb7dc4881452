from typing import Literal, get_args, get_type_hints

import pytest
import torch
from torch import nn

from optim_cli.datasets.dataset import Split
from optim_cli.datasets.digits import digits
from optim_cli.models.mlp import ACTIVATIONS, MLP

CPU = torch.device("cpu")


def make(
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu",
    hidden: tuple[int, ...] = (5, 3),
    dropout: float = 0.0,
) -> MLP:
    return MLP(
        input_shape=(2, 3, 4),
        num_classes=6,
        hidden=list(hidden),
        activation=activation,
        dropout=dropout,
    )


def test_layers_have_the_widths_asked_for() -> None:
    layers = [layer for layer in make().modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(24, 5), (5, 3), (3, 6)]


def test_no_hidden_layer_is_logistic_regression() -> None:
    model = make(hidden=())
    images = torch.randn(2, 2, 3, 4)
    assert torch.equal(model(images), model.head(images.flatten(1)))


def test_without_biases_all_parameters_are_matrices() -> None:
    model = MLP(input_shape=(2, 3, 4), num_classes=6, hidden=[5], activation="relu", dropout=0.0, bias=False)
    assert [p.shape for p in model.parameters()] == [(5, 24), (6, 5)]


def test_dropout_acts_in_training_only() -> None:
    model = make(hidden=(200,), dropout=0.5)
    images = torch.randn(8, 2, 3, 4)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh"])
def test_activation_is_the_one_named(activation: Literal["relu", "gelu", "silu", "tanh"]) -> None:
    names = [type(layer).__name__.lower() for layer in make(activation).body]
    assert names == ["flatten", "linear", activation, "linear", activation]


def test_annotation_allows_exactly_the_known_activations() -> None:
    assert set(get_args(get_type_hints(MLP.__init__)["activation"])) == set(ACTIVATIONS)


def test_learns_digits() -> None:
    data = digits(batch_size=64, val_fraction=0.1, test_fraction=0.2, seed=0, split_seed=0, augmentation=None)
    torch.manual_seed(0)
    model = MLP(
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        hidden=[256, 128],
        activation="relu",
        dropout=0.0,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(12):
        for inputs, targets in data.train.batches(data.batch_size, CPU, epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    assert accuracy(model, data.test) > 0.95


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    correct = [(model(inputs).argmax(1) == targets).sum() for inputs, targets in split.batches(256, CPU)]
    return torch.stack(correct).sum().item() / len(split)
