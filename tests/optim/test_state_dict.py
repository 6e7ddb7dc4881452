"""Checkpoints: torch's layout, exchanged with torch in both directions in the midst of training."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS
from optim_cli.optim.optimizer import Optimizer
from tests.optim.oracle import (
    NAMES,
    Options,
    arithmetics,
    assert_close,
    drift,
    entries,
    give,
    like,
    pair,
    parameters,
    params_of,
    ran,
    step_both,
    tensors,
    theirs_of,
)

ON_CPU: list[Options] = [{"foreach": False}, {"foreach": True}, {}]


def as_saved(state: dict[str, Any]) -> dict[str, Any]:
    """Through the bytes of a checkpoint."""
    memory = io.BytesIO()
    torch.save(state, memory)
    memory.seek(0)
    loaded: dict[str, Any] = torch.load(memory, weights_only=True)
    return loaded


def shape_of(value: Any) -> Any:
    """What a checkpoint's layout consists of: types, and of tensors everything but their values."""
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [shape_of(item) for item in value]
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.stride(), value.device, value.requires_grad
    return value


def train(optimizer: torch.optim.Optimizer, gradients: Sequence[Sequence[Tensor]]) -> torch.optim.Optimizer:
    for now in gradients:
        give(params_of(optimizer), now)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("execution", ON_CPU, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_layout_is_torchs(name: str, execution: Options, generator: torch.Generator) -> None:
    values = tensors(generator)
    gradients: list[Tensor | None] = [*like(values, generator)]
    gradients[2] = None  # a parameter without a gradient has no state
    for options in arithmetics(name):
        ours, theirs = pair(name, values, options | execution)
        assert shape_of(ours.state_dict()) == shape_of(theirs.state_dict()), options
        for _ in range(2):
            step_both(ours, theirs, gradients)
            assert shape_of(ours.state_dict()) == shape_of(theirs.state_dict()), options
        assert sum(ran(ours).values()) == 2


@pytest.mark.parametrize("name", NAMES)
def test_names_of_parameters_are_saved_as_by_torch(name: str) -> None:
    models = [nn.Linear(2, 2), nn.Linear(2, 2)]
    ours = ALGORITHMS[name](models[0].named_parameters())
    theirs = theirs_of(name)(models[1].named_parameters())
    step_both(ours, theirs, [torch.ones(2, 2), torch.ones(2)])
    assert ours.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    assert shape_of(ours.state_dict()) == shape_of(theirs.state_dict())
    assert ran(ours) == {"foreach": 1}


@pytest.mark.parametrize("execution", ON_CPU, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_trajectory_goes_on_through_an_exchange_with_torch(
    name: str, execution: Options, generator: torch.Generator
) -> None:
    values = tensors(generator, torch.float64)
    legs = [[like(values, generator) for _ in range(3)] for _ in range(3)]
    for options in arithmetics(name):
        for turn in (1, -1):  # who runs the first and third leg: ours, then torch
            pairs: Sequence[torch.optim.Optimizer] = pair(name, values, options | execution)
            runner, other = pairs[::turn]
            straight = type(runner)(parameters(values), **options)
            for leg in legs:
                train(straight, leg)
                train(runner, leg)
                runner, other = hand_over(runner, other)
            assert_close(runner, straight, drift(name), str(options))
            assert sum(ran(pairs[0]).values()) > 0


def hand_over(
    source: torch.optim.Optimizer, target: torch.optim.Optimizer
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Carry parameters and state to the other optimizer, which goes on."""
    with torch.no_grad():
        for x, y in zip(params_of(target), params_of(source), strict=True):
            x.copy_(y)
    target.load_state_dict(as_saved(source.state_dict()))
    return target, source


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(
    name: str, steps: int, generator: torch.Generator
) -> None:
    values = tensors(generator)
    before = [like(values, generator) for _ in range(steps)]
    after = [like(values, generator) for _ in range(2)]
    for options in arithmetics(name):
        straight, resumed = (ALGORITHMS[name](parameters(values), **options) for _ in range(2))
        train(straight, before)
        hand_over(straight, resumed)
        train(straight, after)
        train(resumed, after)
        assert_close(resumed, straight, (0, 0), str(options))
        assert ran(resumed)["foreach"] == 2


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("name", NAMES)
def test_copies_of_an_optimizer_train_on_alone(name: str, duplicate: Any, generator: torch.Generator) -> None:
    values = tensors(generator)
    legs = [[like(values, generator) for _ in range(2)] for _ in range(2)]
    for options in arithmetics(name):
        optimizer = ALGORITHMS[name](parameters(values), **options)
        train(optimizer, legs[0])
        twin = duplicate(optimizer)
        assert isinstance(twin, Optimizer)
        held = {key: [x.clone() for x in found] for key, found in entries(optimizer).items()}
        train(twin, legs[1])
        for key, found in entries(optimizer).items():
            assert all(map(torch.equal, found, held[key])), f"{options}: the original's {key} changed"
        train(optimizer, legs[1])
        assert_close(twin, optimizer, (0, 0), str(options))
        assert ran(twin)["foreach"] == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_shows_the_state_itself_as_torchs_does(name: str, generator: torch.Generator) -> None:
    values = tensors(generator)
    for options in arithmetics(name):
        ours, theirs = pair(name, values, options)
        step_both(ours, theirs, like(values, generator))
        taken = ours.state_dict(), theirs.state_dict()
        for _ in range(2):
            step_both(ours, theirs, like(values, generator))
        mine, torchs = (state["state"] for state in taken)
        for index, state in torchs.items():
            for key, value in state.items():
                assert torch.allclose(mine[index][key], value, 1e-4, 1e-4), (options, key)
                assert mine[index][key] is ours.state_dict()["state"][index][key], (options, key)
        assert ran(ours) == {"foreach": 3}


@pytest.mark.parametrize("implementation", ["for_loop", "foreach"])
@pytest.mark.parametrize("name", NAMES)
def test_capturable_after_loading_goes_on_as_before(
    name: str, implementation: str, generator: torch.Generator
) -> None:
    if "capturable" not in ALGORITHMS[name]([torch.ones(1)]).defaults:
        pytest.skip(f"{name} has no capturable")
    values = tensors(generator, torch.float64)
    torch.set_default_dtype(torch.float64)
    try:
        for options in arithmetics(name):
            ours, theirs = pair(name, values, options)
            step_both(ours, theirs, like(values, generator))
            captured = ALGORITHMS[name](
                params_of(ours), **options | {"capturable": True}, implementation=implementation
            )
            captured.load_state_dict(as_saved(ours.state_dict()))
            assert captured.param_groups[0]["capturable"] is False  # as with torch: groups are loaded too
            captured.param_groups[0] |= {"capturable": True, "foreach": implementation == "foreach"}
            for _ in range(3):
                step_both(captured, theirs, like(values, generator))
            assert_close(captured, theirs, drift(name), str(options))
            assert ran(captured) == {implementation: 3}
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", NAMES)
def test_old_checkpoints_load_wherever_torch_loads_them(name: str, generator: torch.Generator) -> None:
    """Options that older versions did not save take the values that torch gives them."""
    values = tensors(generator)
    trained = train(theirs_of(name)(parameters(values)), [like(values, generator)])
    keys = [key for key in trained.param_groups[0] if key != "params"]
    restored = []
    for key in keys:
        saved = as_saved(trained.state_dict())
        del saved["param_groups"][0][key]
        ours, theirs = pair(name, [p.detach() for p in params_of(trained)])
        try:
            theirs.load_state_dict(copy.deepcopy(saved))
            theirs.param_groups[0][key]
            give(params_of(theirs), values)
            theirs.step()
        except KeyError:
            continue
        ours.load_state_dict(saved)
        give(params_of(ours), values)
        ours.step()
        assert_close(ours, theirs, None, key)
        assert bool(ours.param_groups[0][key]) == bool(theirs.param_groups[0][key]), key
        assert ran(ours)["foreach"] == 1
        restored.append(key)
    assert {"maximize", "foreach", "differentiable", "fused"} & set(keys) <= set(restored)
    assert "maximize" in restored


@pytest.mark.parametrize("name", NAMES)
def test_step_counts_of_old_checkpoints_are_plain_numbers(name: str, generator: torch.Generator) -> None:
    values = tensors(generator)
    ours, theirs = pair(name, values)
    step_both(ours, theirs, like(values, generator))
    for optimizer in (ours, theirs):
        saved = as_saved(optimizer.state_dict())
        for state in saved["state"].values():
            if "step" in state:
                state["step"] = state["step"].item()
        optimizer.load_state_dict(saved)
    step_both(ours, theirs, like(values, generator))
    assert_close(ours, theirs)
    assert shape_of(ours.state_dict()) == shape_of(theirs.state_dict())
    assert ran(ours)["foreach"] >= 1


@pytest.mark.parametrize("name", NAMES)
def test_states_saved_wider_than_their_parameter_keep_their_dtype(
    name: str, generator: torch.Generator
) -> None:
    """What a run in float32 has gathered goes on beside bfloat16 parameters as it would in float32."""
    values = tensors(generator, torch.bfloat16)
    gradients = [like(values, generator) for _ in range(2)]
    for options in arithmetics(name):
        wide = ALGORITHMS[name](parameters([x.float() for x in values]), **options)
        narrow = ALGORITHMS[name](parameters(values), **options)
        if not ALGORITHMS[name].variant_of(wide.param_groups[0]).states:
            continue
        give(params_of(wide), [g.float() for g in gradients[0]])
        wide.step()
        saved = copy.deepcopy(wide.state_dict())
        narrow.load_state_dict(saved)
        with torch.no_grad():
            for p, q in zip(params_of(wide), params_of(narrow), strict=True):
                p.copy_(q)
        for optimizer in (wide, narrow):
            give(params_of(optimizer), [g.to(params_of(optimizer)[0].dtype) for g in gradients[1]])
            optimizer.step()
        expected = entries(wide)
        for key, found in entries(narrow).items():
            for x, y in zip(found, expected[key], strict=True):
                tolerance = (2**-8, 1e-6) if key == "p" else (1e-6, 1e-6)
                assert x.dtype == (torch.bfloat16 if key == "p" else torch.float32), key
                assert torch.allclose(x.float(), y, *tolerance), f"{options}: {key}"
        assert ran(narrow) == {"for_loop": 1}


@pytest.mark.parametrize("name", NAMES)
def test_0d_states_are_loaded_as_they_were_saved(name: str, generator: torch.Generator) -> None:
    values = [torch.randn(3, generator=generator).bfloat16()]
    ours, other = (ALGORITHMS[name](parameters(values)) for _ in range(2))
    train(ours, [like(values, generator) for _ in range(3)])
    other.load_state_dict(as_saved(ours.state_dict()))
    for key, found in entries(ours).items():
        if key in ALGORITHMS[name].zero_dim_state:
            (loaded,) = entries(other)[key]
            assert (loaded.dtype, loaded.shape) == (torch.float32, ())
            assert torch.equal(loaded, found[0]), key
