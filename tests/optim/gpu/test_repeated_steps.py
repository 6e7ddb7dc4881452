"""Steps like the last one but for something: other or missing gradients, other numbers, other streams."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import fusing
from tests.optim.gpu.device import (
    DEVICE,
    ON_GPU,
    SHAPES,
    assert_close,
    drawn,
    made,
    names,
    on_host,
    reference,
    some_steps,
    step,
)
from tests.optim.oracle import Options, params_of, ran, theirs_of

pytestmark = ON_GPU

FLOAT64 = torch.float64


@names
def test_gradients_at_fresh_addresses(name: str, generator: torch.Generator) -> None:
    """All of them are alive, so that no address comes twice."""
    values = drawn(generator, FLOAT64)
    ours, expected = made(name, values), reference(name, values)
    alive: list[list[Tensor]] = []
    for _ in range(50):
        alive.append(drawn(generator, FLOAT64))
        for p, q, g in zip(params_of(ours), params_of(expected), alive[-1], strict=True):
            p.grad, q.grad = g, on_host(g)
        ours.step()
        expected.step()
    # Errors add up over the steps.
    assert_close(ours, expected, (1e-5, 1e-5))
    assert ran(ours) == {"fused": 50}


@names
def test_gradients_that_are_missing(name: str, generator: torch.Generator) -> None:
    """Other ones in each step, all of them in one, so that step counts differ."""
    values = drawn(generator, FLOAT64)
    ours, expected = made(name, values), reference(name, values)
    for count in range(12):
        gradients: list[Tensor | None] = [
            None if (count + i) % 3 == 0 or count == 5 else g for i, g in enumerate(drawn(generator, FLOAT64))
        ]
        step([ours, expected], gradients)
        assert_close(ours, expected, some_steps(name, FLOAT64), f"step {count}:")
    counts = [int(ours.state[p]["step"]) for p in params_of(ours) if "step" in ours.state[p]]
    assert not counts or len(set(counts)) > 1
    assert ran(ours) == {"fused": 11}


@names
def test_options_that_change(name: str, generator: torch.Generator) -> None:
    """As schedulers and users change them, also to what needs another kernel."""
    values = drawn(generator, FLOAT64)
    ours, expected = made(name, values), reference(name, values)
    changes: list[Options] = [
        {},
        {"lr": 0.03},
        {"weight_decay": 0.2},
        {"maximize": True},
        {"maximize": False, "lr": 0.01},
    ]
    for count, change in enumerate(changes):
        for optimizer in (ours, expected):
            known = optimizer.param_groups[0]
            known.update({key: value for key, value in change.items() if key in known})
        step([ours, expected], drawn(generator, FLOAT64))
        assert_close(ours, expected, some_steps(name, FLOAT64), f"step {count}:")
    assert ran(ours) == {"fused": len(changes)}


@names
def test_states_from_a_checkpoint(name: str, generator: torch.Generator) -> None:
    """Also in the middle of a training, and from the host."""
    values = drawn(generator, FLOAT64)
    ours, expected = made(name, values), reference(name, values)
    for count in range(4):
        step([ours, expected], drawn(generator, FLOAT64))
        if count == 1:
            groups = ours.state_dict()["param_groups"]
            ours.load_state_dict(deepcopy(expected.state_dict()) | {"param_groups": groups})
        assert_close(ours, expected, some_steps(name, FLOAT64), f"step {count}:")
    assert ran(ours) == {"fused": 4}


@names
def test_kernels_serve_every_optimizer_of_the_class(name: str, generator: torch.Generator) -> None:
    values = drawn(generator)
    one, other = made(name, values), made(name, values, lr=0.3)
    step([one], drawn(generator))
    known = dict(fusing._kernels)
    step([other], drawn(generator))
    assert fusing._kernels == known


@pytest.mark.parametrize("count", [0, 2])
@names
def test_autograd_notices(name: str, count: int, generator: torch.Generator) -> None:
    """A backward pass through values that a step has overwritten, the first step or a repeated one."""
    values = drawn(generator)
    ours = made(name, values)
    for _ in range(count):
        step([ours], drawn(generator))
    loss = params_of(ours)[0].square().sum()
    step([ours], drawn(generator))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_streams(generator: torch.Generator) -> None:
    """Each step on a stream of its own, behind the work there that makes the gradients."""
    values = drawn(generator, FLOAT64)
    ours, expected = made("AdamW", values), reference("AdamW", values)
    alive = []
    for _ in range(6):
        gradients = drawn(generator, FLOAT64)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            for p, g in zip(params_of(ours), gradients, strict=True):
                p.grad = g * 2
            ours.step()
        torch.cuda.current_stream().wait_stream(stream)
        alive.append([p.grad for p in params_of(ours)])
        step([expected], [g * 2 for g in gradients])
    assert_close(ours, expected, some_steps("AdamW", FLOAT64))


def test_a_host_that_is_far_ahead(generator: torch.Generator) -> None:
    """Of a device that is busy: every step's table waits in a place of its own."""
    values = drawn(generator, FLOAT64)
    ours, expected = made("Adam", values), reference("Adam", values)
    several = [drawn(generator, FLOAT64) for _ in range(40)]
    for optimizer in (ours, expected):
        step([optimizer], several[0])
    torch.cuda._sleep(400_000_000)
    for count, gradients in enumerate(several):
        ours.param_groups[0]["lr"] = 0.001 * (count + 1)
        for p, g in zip(params_of(ours), gradients, strict=True):
            p.grad = g
        ours.step()
    for count, gradients in enumerate(several):
        expected.param_groups[0]["lr"] = 0.001 * (count + 1)
        step([expected], gradients)
    assert_close(ours, expected, (1e-9, 1e-9))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("clipped", [False, True])
@names
def test_two_devices_in_one_group(name: str, clipped: bool, generator: torch.Generator) -> None:
    values = drawn(generator, FLOAT64)
    places = [torch.device(DEVICE, i % 2) for i in range(len(SHAPES))]
    ours, expected = made(name, values), reference(name, values)
    ours.param_groups[0]["params"] = [
        nn.Parameter(x.to(place)) for x, place in zip(values, places, strict=True)
    ]
    for optimizer in (ours, expected):
        optimizer.clip_gradients(max_norm=0.5 if clipped else None)
    for count in range(4):
        step([ours, expected], drawn(generator, FLOAT64))
        assert_close(ours, expected, some_steps(name, FLOAT64), f"step {count}:")
    assert ran(ours) == {"fused": 8}


@pytest.mark.parametrize("name", ["Adam", "NAdam"])
@pytest.mark.parametrize("capturable", [False, True])
def test_counts_are_saved_where_torch_has_them(
    name: str, capturable: bool, generator: torch.Generator
) -> None:
    ours, *others = (made(name, drawn(generator), capturable=capturable) for _ in range(2))
    step([ours], drawn(generator))
    saved = ours.state_dict()
    assert {x["step"].is_cuda for x in ours.state.values()} == {True}
    assert {x["step"].is_cuda for x in saved["state"].values()} == {capturable}
    theirs = theirs_of(name)(params_of(ours), capturable=capturable)
    theirs.load_state_dict(saved)
    for other in others:
        other.load_state_dict(theirs.state_dict())
        step([other], drawn(generator))
        assert {float(x["step"]) for x in other.state.values()} == {2.0}
