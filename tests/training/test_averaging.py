"""The average of a run against torch's, over the run."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import swa_utils as theirs

from optim_cli.training.averaging import EMA


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 1.0])
def test_as_torch_s(decay: float, seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    left = EMA(model, decay)
    right = theirs.AveragedModel(model, multi_avg_fn=theirs.get_ema_multi_avg_fn(decay), use_buffers=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(30):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
        left.update_parameters(model)
        right.update_parameters(model)
    for (name, x), y in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        assert torch.equal(x, y), name
    assert int(left.n_averaged) == 30
    moved = not torch.equal(left.module.get_parameter("0.weight"), model.get_parameter("0.weight"))
    assert moved is (decay > 0)
