"""What a fused step costs besides its time: compilations, allocations, memory that stays in use."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import nn

from optim_cli.optim import ALGORITHMS, fusing
from optim_cli.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tests.optim.gpu.device import DEVICE, FUSED, ON_GPU, made, names
from tests.optim.oracle import params_of, ran

pytestmark = ON_GPU

MEBIBYTE = 2**20
MANY = 161  # as many tensors as ResNet-50 has
GRANULE = 512  # bytes that torch's allocator rounds up to


def allocations() -> int:
    """How many there have been so far."""
    count: int = torch.cuda.memory_stats()["allocation.all.allocated"]
    return count


def in_use() -> int:
    gc.collect()
    return torch.cuda.memory_allocated()


def give_ones(optimizer: Any) -> None:
    """Gradients that nobody else holds."""
    for p in params_of(optimizer):
        p.grad = torch.ones_like(p)


@pytest.mark.parametrize("composed", [False, True], ids=["plain", "clip and average"])
@names
def test_a_second_step_compiles_and_allocates_nothing(name: str, composed: bool) -> None:
    """Nor does any later one, wherever its gradients are."""
    model = nn.Sequential(*(nn.Linear(7, 7) for _ in range(MANY // 2))).to(DEVICE)
    ours: Any = ALGORITHMS[name](model.parameters(), **FUSED)
    if composed:
        ours.clip_gradients(max_norm=1.0, max_value=0.5)
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        ours.average_into(averaged, model)
    several = [[torch.ones_like(p) for p in model.parameters()] for _ in range(5)]
    counts = []
    for gradients in several:
        for p, g in zip(model.parameters(), gradients, strict=True):
            p.grad = g
        ours.step()
        counts.append((allocations(), len(fusing._kernels)))
    assert counts[1:] == [counts[0]] * 4
    assert ran(ours) == {"fused": 5}
    assert ours.launches["prologue"] == 5
    assert ours.launches["norm"] == (5 if composed else 0)


@names
def test_a_step_takes_less_than_a_mebibyte(name: str) -> None:
    """Beside the states, in the first one and in later ones."""
    ours = made(name, [torch.ones(10 * i, 100, device=DEVICE) for i in range(1, MANY + 1)])
    ours.clip_gradients(max_norm=1.0)
    give_ones(ours)
    before = in_use()
    torch.cuda.reset_peak_memory_stats()
    ours.step()
    ours.step()
    # 0-d states may share a buffer, which every one of them then reports.
    states = {
        x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
        for state in ours.state.values()
        for x in state.values()
    }
    kept = sum(-(-size // GRANULE) * GRANULE for size in states.values())
    assert torch.cuda.max_memory_allocated() - before - kept < MEBIBYTE


def test_nothing_is_kept_alive() -> None:
    """Gradients, replaced states, parameters and the states of an optimizer that is gone."""
    start = in_use()
    ours = made("Adam", [torch.ones(2**20, device=DEVICE)])
    for _ in range(3):
        give_ones(ours)
        ours.step()
    whole = in_use()
    ours.zero_grad()
    assert in_use() <= whole - 4 * MEBIBYTE
    (state,) = ours.state.values()
    state["exp_avg"] = state["exp_avg"].cpu()
    assert in_use() <= whole - 8 * MEBIBYTE
    del ours, state
    assert in_use() == start


def test_replaced_states_are_noticed() -> None:
    """By an optimizer that has only repeated its last step so far."""
    ours = made("Adam", [torch.ones(1025, device=DEVICE)])
    for _ in range(2):
        give_ones(ours)
        ours.step()
    (state,) = ours.state.values()
    old, state["exp_avg"] = state["exp_avg"], torch.full((1025,), 5.0, device=DEVICE)
    kept = old.clone()
    ours.step()
    assert torch.equal(old, kept)
    torch.testing.assert_close(state["exp_avg"], torch.full_like(old, 0.9 * 5 + 0.1))
    state["exp_avg"] = old.cpu()
    with pytest.raises(
        RuntimeError, match=r"the state exp_avg of a parameter of shape \(1025,\) on cuda:0 is"
    ):
        ours.step()
