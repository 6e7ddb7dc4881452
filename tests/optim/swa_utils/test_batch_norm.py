"""Measuring the statistics of batch normalization, against torch's update_bn."""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import swa_utils as theirs

from optim_cli.optim.swa_utils import AveragedModel, update_bn

Pair = namedtuple("Pair", ["left", "right"])


class Model(nn.Module):
    """Takes one input or two; its layers have momenta of their own, and one of them is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm1d(3, momentum=0.3)
        self.second = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, momentum=None)).eval()
        self.third = nn.BatchNorm1d(2, track_running_stats=False)

    def forward(self, x: Any, y: Tensor | None = None) -> Tensor:
        if isinstance(x, tuple):
            x, y = x
        if isinstance(x, dict):
            x, y = x["x"], x["y"]
        out: Tensor = self.third(self.second(self.first(x if y is None else x + y)))
        return out


@pytest.fixture
def batches(generator: torch.Generator) -> list[Tensor]:
    return [3 * torch.randn(n, 3, generator=generator) + 1 for n in (8, 5, 2)]


def check(model: nn.Module, expected: nn.Module) -> None:
    for (key, x), y in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6, msg=key)


def modes(model: nn.Module) -> list[Any]:
    return [(x.training, getattr(x, "momentum", "none")) for x in model.modules()]


@pytest.mark.parametrize("device", [None, torch.device("cpu"), "cpu"], ids=str)
def test_batches_as_torch_takes_them(device: Any, batches: list[Tensor]) -> None:
    labels = torch.zeros(1)
    for loader in (batches, [[x, labels] for x in batches], [(x, labels) for x in batches]):
        model: Any = AveragedModel(Model())
        expected = copy.deepcopy(model)
        before = modes(model)
        update_bn(loader, model, device)
        theirs.update_bn(loader, expected, device)
        check(model, expected)
        assert modes(model) == before
    mean = torch.stack([x.mean(0) for x in batches]).mean(0)
    torch.testing.assert_close(model.module.first.running_mean, mean)


@pytest.mark.parametrize("device", [None, torch.device("cpu")], ids=str)
def test_other_batches(device: Any, batches: list[Tensor]) -> None:
    """All of them say the same."""
    expected = Model()
    theirs.update_bn([2 * x for x in batches], expected)
    forms: list[tuple[list[Any], Any]] = [
        ([{"x": x, "y": x} for x in batches], None),
        ([((x, x), "label") for x in batches], None),
        ([[{"x": x, "y": x}, 0] for x in batches], None),
        ([(Pair(x, x), 0) for x in batches], None),
        ([(x, x) for x in batches], lambda model, batch: model(*batch)),
        ([Pair(x, [x]) for x in batches], lambda model, batch: model(batch.left, batch.right[0])),
        ([{"deep": (x, 1)} for x in batches], lambda model, batch: model(batch["deep"][0] * 2)),
    ]
    for loader, forward in forms:
        model = Model()
        model.load_state_dict(expected.state_dict())
        update_bn(loader, model, device, forward=forward)
        check(model, expected)


def test_what_a_loader_raises_leaves_modes_and_momenta(batches: list[Tensor]) -> None:
    def broken() -> Iterator[Tensor]:
        yield batches[0]
        raise OSError("no such file")

    model = Model().eval()
    before = modes(model)
    with pytest.raises(OSError, match="no such file"):
        update_bn(broken(), model)
    assert modes(model) == before


def test_without_layers_no_batch_is_read() -> None:
    loader = iter([torch.ones(1, 2)])
    update_bn(loader, nn.Linear(2, 2))
    assert next(loader) is not None


def test_nothing_is_recorded(batches: list[Tensor]) -> None:
    seen: list[Tensor] = []
    update_bn(batches, Model(), forward=lambda model, batch: seen.append(model(batch)))
    assert len(seen) == len(batches)
    assert not any(x.requires_grad for x in seen)


def test_moved_on_the_meta_device(batches: list[Tensor]) -> None:
    """Whatever is in a batch goes where it is told to, and what is no tensor stays what it is."""
    seen: list[Any] = []
    loader = [{"x": x, "more": [Pair(x, (x, "name"))]} for x in batches]
    update_bn(loader, Model(), torch.device("meta"), forward=lambda _, batch: seen.append(batch))
    [first, *_] = seen
    [pair] = first["more"]
    assert isinstance(pair, Pair)
    assert pair.right[1] == "name"
    assert {x.device.type for x in (first["x"], pair.left, pair.right[0])} == {"meta"}
