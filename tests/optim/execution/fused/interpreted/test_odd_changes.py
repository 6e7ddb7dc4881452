"""What somebody may do between two steps, or give, that addresses kept from the last step do not show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS
from optim_cli.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tests.optim.execution.fused.interpreted.side_by_side import assert_same, both, values_of
from tests.optim.oracle import give, like, params_of, ran

STEPS = 5


class Model(nn.Module):
    """A weight with a memory layout, a vector, and a buffer."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        super().__init__()
        self.weight, self.vector = (nn.Parameter(x.clone()) for x in values)
        self.buffer: Tensor
        self.register_buffer("buffer", torch.zeros(2, dtype=torch.float64))


def new_buffer(model: Model, averaged: AveragedModel) -> None:
    model.buffer = model.buffer + 1


def other_averages(model: Model, averaged: AveragedModel) -> None:
    averaged.load_state_dict({key: x.clone() + 1 for key, x in averaged.state_dict().items()}, assign=True)


def other_layout(model: Model, averaged: AveragedModel) -> None:
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def another_average(model: Model, averaged: AveragedModel) -> None:
    averaged.multi_avg_fn = get_ema_multi_avg_fn(0.2)


def equal_weights(model: Model, averaged: AveragedModel) -> None:
    averaged.multi_avg_fn = None


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize(
    "change",
    [new_buffer, other_averages, other_layout, another_average, equal_weights],
    ids=lambda x: x.__name__,
)
def test_averages(
    change: Callable[[Model, AveragedModel], None], use_buffers: bool, generator: torch.Generator
) -> None:
    values = values_of(generator, [(3, 2, 2, 2), (5,)])
    gradients = [like(values, generator) for _ in range(STEPS)]
    found = []
    for implementation in ("fused", "for_loop"):
        model = Model(values)
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=use_buffers)
        optimizer: Any = ALGORITHMS["AdamW"](model.parameters(), implementation=implementation)
        optimizer.average_into(averaged, model)
        for step in range(STEPS):
            if step in (2, 4):
                change(model, averaged)
            give(params_of(optimizer), [g.clone() for g in gradients[step]])
            optimizer.step()
        assert set(ran(optimizer)) == {implementation}
        found.append(averaged.state_dict())
    for key, x in found[0].items():
        torch.testing.assert_close(x, found[1][key], rtol=1e-12, atol=1e-12, msg=key)


def test_a_model_none_of_which_steps_is_averaged(generator: torch.Generator) -> None:
    """As that of a generator, while the discriminator steps."""
    values = values_of(generator, [(3,), (5,)])
    for implementation in ("fused", "for_loop"):
        inside: Any = nn.Module()
        inside.weight = nn.Parameter(values[0].clone())
        outside = nn.Parameter(values[1].clone())
        averaged = AveragedModel(inside, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        optimizer: Any = ALGORITHMS["SGD"]([inside.weight, outside], lr=1.0, implementation=implementation)
        optimizer.average_into(averaged, inside)
        for _ in range(3):
            give([outside], [values[1]])
            optimizer.step()
            with torch.no_grad():
                inside.weight.add_(1)
        assert int(averaged.n_averaged) == 3
        expected = values[0] + 1.25  # of 0, 1 and 2, the first of which counts whole
        torch.testing.assert_close(averaged.module.get_parameter("weight").detach(), expected)


def test_a_gradient_of_another_shape_is_refused(generator: torch.Generator) -> None:
    values = values_of(generator, [(5,)])
    fused, _ = both("SGD", values)
    (p,) = params_of(fused)
    p.grad = values[0].clone()
    p.data = torch.ones(10, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"shape \(10,\) is of shape \(5,\)"):
        fused.step()
    assert torch.equal(p.detach(), torch.ones(10, dtype=torch.float64))


def test_a_refused_alignment_is_not_remembered(generator: torch.Generator) -> None:
    values = values_of(generator, [(3,), (5,)], torch.float32)
    fused, loop = both("SGD", values, {"lr": 1.0})
    aligned = [torch.randn(x.shape, generator=generator) for x in values]
    odd = [torch.randn(x.numel() + 1, generator=generator)[1:] for x in values]
    for gradients in (aligned, odd, odd, aligned, odd):
        for optimizer in (fused, loop):
            give(params_of(optimizer), gradients)
            optimizer.step()
        assert_same(fused, loop)
    assert set(ran(fused)) == {"fused"}


@pytest.mark.parametrize(
    "lr", [1, 0.25, *(torch.tensor(2, dtype=x) for x in (torch.bfloat16, torch.int64))], ids=str
)
def test_numbers_of_any_kind(lr: float | Tensor, generator: torch.Generator) -> None:
    """Also limits: an integer's bits are no float64's."""
    values = values_of(generator)
    fused, loop = both("SGD", values, {"lr": 0.5, "momentum": 0.5})
    for _ in range(3):
        gradients = like(values, generator)
        for optimizer in (fused, loop):
            optimizer.clip_gradients(max_norm=1, max_value=1)
            give(params_of(optimizer), gradients)
            optimizer.step()
            optimizer.param_groups[0]["lr"] = lr
        assert_same(fused, loop)


@pytest.mark.parametrize("max_norm", [None, 1e9])
def test_a_scale_without_a_verdict(max_norm: float | None, generator: torch.Generator) -> None:
    values = values_of(generator)
    fused, loop = both("SGD", values, {"lr": 0.5})
    for scale in (None, 4.0, 8.0):
        gradients = like(values, generator)
        for optimizer in (fused, loop):
            optimizer.clip_gradients(max_norm)
            optimizer.grad_scale = None if scale is None else torch.tensor(scale)
            give(params_of(optimizer), gradients)
            optimizer.step()
        assert_same(fused, loop, f"{scale}:")


def test_states_in_hand_before_other_calls(generator: torch.Generator) -> None:
    values = values_of(generator)
    fused, loop = both("SGD", values, {"lr": 0.5, "momentum": 0.5})
    held = [optimizer.state for optimizer in (fused, loop)]
    for step in range(4):
        gradients = like(values, generator)
        for optimizer, states in zip((fused, loop), held, strict=True):
            optimizer.clip_gradients(max_norm=1e9)
            give(params_of(optimizer), gradients)
            optimizer.step()
            if step == 2:
                for p in params_of(optimizer):
                    states[p]["momentum_buffer"] = torch.full_like(p, 7.0).detach()
        assert_same(fused, loop, f"step {step}:")
