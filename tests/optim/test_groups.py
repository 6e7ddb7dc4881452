"""Parameter groups: options of their own, changed between steps, added later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS
from tests.optim.oracle import (
    NAMES,
    Options,
    arithmetics,
    assert_close,
    drift,
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

names = pytest.mark.parametrize("name", NAMES)


@names
def test_groups_have_options_of_their_own(name: str, generator: torch.Generator) -> None:
    """All combinations as groups of one optimizer, beside different learning rates."""
    values = tensors(generator, torch.float64)
    grid = arithmetics(name)
    optimizers = []
    for cls in (ALGORITHMS[name], theirs_of(name)):
        groups = [
            {"params": parameters(values), **options, "lr": 0.1 / (1 + index)}
            for index, options in enumerate(grid)
        ]
        optimizers.append(cls(groups))
    ours, theirs = optimizers
    for _ in range(3):
        gradients = [g for _ in grid for g in like(values, generator)]
        step_both(ours, theirs, gradients)
    assert_close(ours, theirs, drift(name))
    assert ran(ours)["foreach"] >= 3


@names
def test_implementations_may_differ_between_groups(name: str, generator: torch.Generator) -> None:
    values = tensors(generator, torch.float64)
    groups = [{"params": parameters(values), "foreach": choice} for choice in (True, False, None)]
    ours = ALGORITHMS[name](groups)
    theirs = theirs_of(name)(parameters(values * 3))
    for _ in range(2):
        step_both(ours, theirs, like(values, generator) * 3)
    assert_close(ours, theirs, drift(name))
    assert ran(ours)["for_loop"] == 2
    assert ran(ours)["foreach"] >= 2


@names
def test_groups_of_equal_scalars_run_in_one_call(name: str) -> None:
    ours = ALGORITHMS[name]([{"params": [nn.Parameter(torch.ones(2))]} for _ in range(5)])
    give(params_of(ours), [torch.ones(2)] * 5)
    ours.step()
    assert ran(ours) == {"foreach": 1}


@names
def test_a_group_is_added_in_mid_training(name: str, generator: torch.Generator) -> None:
    values = tensors(generator, torch.float64)
    for options in arithmetics(name):
        both = pair(name, values, options)
        step_both(*both, like(values, generator))
        for optimizer in both:
            optimizer.add_param_group({"params": parameters(values), "lr": 0.01})
        for _ in range(2):
            step_both(*both, like(values, generator) * 2)
        assert_close(*both, drift(name), str(options))
        assert ran(both[0])["foreach"] >= 3


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "lr": lambda group: 0.02,
    "lr as a tensor": lambda group: torch.tensor(0.02, dtype=torch.float64),
    "weight_decay": lambda group: 0.0 if group["weight_decay"] else 0.2,
    "maximize": lambda group: not group["maximize"],
    "foreach": lambda group: False,
    "momentum": lambda group: 0.0 if group["momentum"] else 0.9,
    "dampening": lambda group: 0.25,
    "nesterov": lambda group: True,
    "betas": lambda group: (0.5, 0.75),
    "betas as a list": lambda group: [0.5, 0.75],
    "eps": lambda group: 0.125,
}


@pytest.mark.parametrize("change", CHANGES)
@names
def test_options_change_between_steps(name: str, change: str, generator: torch.Generator) -> None:
    option = change.partition(" ")[0]
    if option not in ALGORITHMS[name]([torch.ones(1)]).defaults:
        pytest.skip(f"{name} has no {option}")
    values = tensors(generator, torch.float64)
    for options in arithmetics(name):
        both = pair(name, values, options)
        for turn in range(3):
            gradients = like(values, generator)
            try:
                give(params_of(both[1]), gradients)
                both[1].step()
            except KeyError:
                break  # torch's RMSprop has no buffer for a momentum that begins later
            give(params_of(both[0]), gradients)
            both[0].step()
            if turn < 2:  # the second turn changes it once more: momentum on and off and on
                for optimizer in both:
                    group = optimizer.param_groups[0]
                    group[option] = CHANGES[change](group)
        else:
            assert_close(*both, drift(name), str(options))
            assert sum(ran(both[0]).values()) == 3


@names
def test_a_learning_rate_in_a_tensor_is_changed_in_place(name: str, generator: torch.Generator) -> None:
    values = tensors(generator, torch.float64)
    for implementation in ("for_loop", "foreach", "auto"):
        ours = ALGORITHMS[name](
            parameters(values), lr=torch.tensor(0.1, dtype=torch.float64), implementation=implementation
        )
        theirs = theirs_of(name)(parameters(values), lr=0.1)
        for lr in (0.1, 0.05, 0.2):
            ours.param_groups[0]["lr"].fill_(lr)
            theirs.param_groups[0]["lr"] = lr
            step_both(ours, theirs, like(values, generator))
        assert_close(ours, theirs, drift(name))
        assert ours.param_groups[0]["lr"] == 0.2
        assert ran(ours) == {"foreach" if implementation == "auto" else implementation: 3}


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@names
def test_option_tensors_of_one_element_may_have_dimensions(
    name: str, shape: tuple[int, ...], generator: torch.Generator
) -> None:
    values = tensors(generator, torch.float64)
    for capturable in (False, True):
        if capturable and "capturable" not in ALGORITHMS[name]([torch.ones(1)]).defaults:
            continue
        options: Options = {"capturable": True} if capturable else {}
        for implementation in ("for_loop", "foreach"):
            ours = ALGORITHMS[name](
                parameters(values),
                lr=torch.full(shape, 0.1, dtype=torch.float64),
                **options,
                implementation=implementation,
            )
            theirs = theirs_of(name)(parameters(values), lr=0.1)
            for _ in range(2):
                step_both(ours, theirs, like(values, generator))
            assert_close(ours, theirs, (1e-4, 1e-5) if capturable else drift(name))
            assert ran(ours) == {implementation: 2}


@pytest.mark.parametrize("betas", [[0.5, 0.75], (0.5, 0.75)], ids=["list", "tuple"])
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_betas_may_come_as_a_list(name: str, betas: Any, generator: torch.Generator) -> None:
    """As YAML and JSON give them; torch stores a tuple."""
    values = tensors(generator)
    ours, theirs = pair(name, values, {"betas": betas})
    assert ours.param_groups[0]["betas"] == theirs.param_groups[0]["betas"] == (0.5, 0.75)
    step_both(ours, theirs, like(values, generator))
    assert_close(ours, theirs)
    assert ran(ours) == {"foreach": 1}


@names
def test_groups_may_carry_keys_of_their_owner(name: str, generator: torch.Generator) -> None:
    """Other libraries keep their own notes in parameter groups."""
    values = tensors(generator)
    notes: dict[str, Any] = {
        "name": "head",
        "layers": (1, 2),
        "initial_lr": 0.5,
        "none": None,
        "tags": ("a",),
    }
    ours, theirs = pair(name, values)
    for optimizer in (ours, theirs):
        optimizer.param_groups[0].update(notes)
    step_both(ours, theirs, like(values, generator))
    assert_close(ours, theirs)
    assert {key: ours.param_groups[0][key] for key in notes} == notes
    assert ran(ours) == {"foreach": 1}


def test_the_first_step_of_sgd_is_not_dampened() -> None:
    params = parameters([torch.zeros(2), torch.zeros(2)])
    ours = ALGORITHMS["SGD"](params, lr=1, momentum=0.5, dampening=0.75)
    late: list[Tensor | None] = [torch.ones(2), None]
    for gradients in (late, [torch.ones(2)] * 2):
        give(params, gradients)
        ours.step()
    buffers = [ours.state[p]["momentum_buffer"] for p in params]
    assert torch.equal(buffers[0], torch.full((2,), 0.75))  # 0.5 * 1 + 0.25 * 1
    assert torch.equal(buffers[1], torch.ones(2))  # its first step
    assert ran(ours)["foreach"] == 3


def test_a_momentum_buffer_of_none_is_a_missing_one(generator: torch.Generator) -> None:
    """Older versions of torch saved None where there was no buffer yet."""
    values = tensors(generator)
    both = pair("SGD", values, {"momentum": 0.5, "dampening": 0.25})
    for optimizer in both:
        state = optimizer.state_dict()
        state["state"] = {index: {"momentum_buffer": None} for index in range(len(values))}
        optimizer.load_state_dict(state)
    for _ in range(2):
        step_both(*both, like(values, generator))
    assert_close(*both)
    assert ran(both[0])["foreach"] == 2


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_betas_may_be_whole_numbers(name: str, generator: torch.Generator) -> None:
    values = tensors(generator)
    ours = ALGORITHMS[name](parameters(values), betas=(0, 0.75))
    theirs = theirs_of(name)(parameters(values), betas=(0.0, 0.75))
    for _ in range(2):
        step_both(ours, theirs, like(values, generator))
    assert_close(ours, theirs)
