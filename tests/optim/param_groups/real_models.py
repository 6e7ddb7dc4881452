"""Models as people train them, each with what it says of itself."""

from __future__ import annotations

import torchvision
from torch import nn

from optim_cli.models.mlp import MLP
from optim_cli.optim.param_groups import Structure

VIT = Structure(
    head="heads.*",
    depth=[
        ["class_token", "conv_proj.*", "encoder.pos_embedding"],
        r"regex:encoder\.layers\.encoder_layer_(\d+)\..*",
        ["encoder.ln.*", "heads.*"],
    ],
)
RESNET = Structure(head="fc.*", depth=[["conv1.*", "bn1.*"], r"regex:layer(\d+)\..*", ["fc.*"]])
PERCEPTRON = Structure(head="head.*", depth=[r"regex:body\.(\d+)\..*", "head.*"])


def vit(layers: int = 3) -> nn.Module:
    model: nn.Module = torchvision.models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=layers, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5
    )
    return model


def resnet18() -> nn.Module:
    model: nn.Module = torchvision.models.resnet18(num_classes=5)
    return model


def mlp() -> nn.Module:
    return MLP(input_shape=(1, 4, 4), num_classes=5, hidden=[12, 10, 8], activation="relu", dropout=0.1)


REAL = {"vit": (vit, VIT), "resnet18": (resnet18, RESNET), "mlp": (mlp, PERCEPTRON)}
