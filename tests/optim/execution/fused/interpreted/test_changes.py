"""What may change from one step to the next: a step that is repeated must notice."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from optim_cli.optim import ALGORITHMS
from tests.optim.execution.fused.interpreted.side_by_side import SOME, assert_same, both, values_of
from tests.optim.oracle import NAMES, copied, entries, give, like, params_of, ran, step_both

STEPS = 4
SQUARES = [(3, 3), (3, 3), ()]
OPTIONS = {"SGD": {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}}
names = pytest.mark.parametrize("name", NAMES)
some = pytest.mark.parametrize("name", SOME)

Change = Callable[[Any], None]


def first_of(optimizer: Any) -> Any:
    return params_of(optimizer)[0]


def ask(optimizer: Any, implementation: str) -> None:
    """As torch would be asked, between steps."""
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = implementation == "fused", implementation == "foreach"


def set_options(**options: Any) -> Change:
    def change(optimizer: Any) -> None:
        for group in optimizer.param_groups:
            group.update({name: x for name, x in options.items() if name in group})

    return change


def replace_state(optimizer: Any) -> None:
    held = optimizer.state[first_of(optimizer)]
    name = next(name for name, x in held.items() if x.dim())
    held[name] = torch.full_like(held[name], 0.5)


def transpose_state(optimizer: Any) -> None:
    held = optimizer.state[first_of(optimizer)]
    name = next(name for name, x in held.items() if x.dim())
    held[name] = held[name].t().contiguous().t()


def move_state(optimizer: Any) -> None:
    for held in optimizer.state.values():
        for x in held.values():
            if x.dim():
                x.data = x.data + 0.25


def write_state(optimizer: Any) -> None:
    for held in optimizer.state.values():
        for x in held.values():
            x.add_(1)


def swap_states(optimizer: Any) -> None:
    p, q, *_ = params_of(optimizer)
    optimizer.state[p], optimizer.state[q] = optimizer.state[q], optimizer.state[p]


def swap_entries(optimizer: Any) -> None:
    held, other = (optimizer.state[p] for p in params_of(optimizer)[:2])
    for name in held:
        held[name], other[name] = other[name], held[name]


def load_itself(optimizer: Any) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def load_the_start(optimizer: Any) -> None:
    start = type(optimizer)(params_of(optimizer)).state_dict()
    optimizer.load_state_dict(start | {"param_groups": optimizer.state_dict()["param_groups"]})


def move_parameter(optimizer: Any) -> None:
    p = first_of(optimizer)
    p.data = p.data * 2


def transpose_parameter(optimizer: Any) -> None:
    p = first_of(optimizer)
    p.data = p.data.t()


def write_parameter(optimizer: Any) -> None:
    with torch.no_grad():
        first_of(optimizer).mul_(2)


def swap_parameters(optimizer: Any) -> None:
    p, q, *_ = params_of(optimizer)
    p.data, q.data = q.data, p.data


def add_group(optimizer: Any) -> None:
    optimizer.add_param_group({"params": [nn.Parameter(torch.full((7,), 2.0).double())], "lr": 0.3})


def remove_parameter(optimizer: Any) -> None:
    del optimizer.param_groups[0]["params"][0]


def replace_parameter(optimizer: Any) -> None:
    params = optimizer.param_groups[0]["params"]
    params[1] = nn.Parameter(params[1].detach() + 1)


def reverse_parameters(optimizer: Any) -> None:
    optimizer.param_groups[0]["params"].reverse()


CHANGES: dict[str, Change] = {
    "a rate": set_options(lr=0.05),
    "decay off": set_options(weight_decay=0.0),
    "momentum": set_options(momentum=0.5, betas=(0.5, 0.6)),
    "no momentum": set_options(momentum=0.0),
    "flags": set_options(nesterov=True, dampening=0.0, amsgrad=True, maximize=True),
    "a rate that becomes a tensor": set_options(lr=torch.tensor(0.05, dtype=torch.float64)),
    "a state replaced": replace_state,
    "a state in another order": transpose_state,
    "states moved": move_state,
    "states written": write_state,
    "states swapped": swap_states,
    "entries of states swapped": swap_entries,
    "states cleared": lambda optimizer: optimizer.state.clear(),
    "a state deleted": lambda optimizer: optimizer.state.pop(first_of(optimizer)),
    "a state emptied": lambda optimizer: optimizer.state[first_of(optimizer)].clear(),
    "states loaded": load_itself,
    "states of the start loaded": load_the_start,
    "a parameter moved": move_parameter,
    "a parameter transposed": transpose_parameter,
    "a parameter written": write_parameter,
    "parameters swapped": swap_parameters,
    "a group more": add_group,
    "a parameter less": remove_parameter,
    "another parameter": replace_parameter,
    "another order": reverse_parameters,
}


@pytest.mark.parametrize("kind", CHANGES)
def test_between_steps(kind: str, generator: torch.Generator) -> None:
    name = SOME[int(torch.randint(len(SOME), (), generator=generator))]
    fused, loop = both(name, values_of(generator, SQUARES), OPTIONS.get(name))
    for step in range(STEPS):
        step_both(fused, loop, values_of(generator, [p.shape for p in params_of(loop)]))
        assert_same(fused, loop, f"{name} step {step}:")
        if step == 1:
            for optimizer in (fused, loop):
                CHANGES[kind](optimizer)
    assert set(ran(fused)) == {"fused"}


def test_a_state_that_is_changed_by_who_has_had_it_in_hand(generator: torch.Generator) -> None:
    fused, loop = both("AdamW", values_of(generator))
    step_both(fused, loop, values_of(generator))
    held = [optimizer.state for optimizer in (fused, loop)]
    for _ in range(3):
        step_both(fused, loop, values_of(generator))
        fused.state_dict()
    for states in held:
        for of_parameter in states.values():
            of_parameter["exp_avg"] = torch.full_like(of_parameter["exp_avg"], 0.5)
    step_both(fused, loop, values_of(generator))
    assert_same(fused, loop)


@some
def test_missing_and_fresh_gradients(name: str, generator: torch.Generator) -> None:
    """Patterns alternate, counts differ, and every gradient has an address of its own."""
    values = values_of(generator, [(), (5,), (2, 3), (17,)])
    fused, loop = both(name, values, OPTIONS.get(name))
    kept = []
    for step in range(7):
        drawn = like(values, generator)
        gradients = [None if (i + step) % 3 == 0 else g for i, g in enumerate(drawn)]
        kept.append(gradients)
        step_both(fused, loop, gradients)
        assert_same(fused, loop, f"step {step}:")
    assert fused.launches["update"] == ran(fused)["fused"] == 7


def test_no_gradient_at_all(generator: torch.Generator) -> None:
    fused, loop = both("AdamW", values_of(generator))
    for step in range(4):
        step_both(fused, loop, [None] * 4 if step % 2 == 0 else values_of(generator))
        assert_same(fused, loop)
    assert fused.launches["update"] == 2


@names
def test_groups_are_one_launch(name: str, generator: torch.Generator) -> None:
    """With rates and decays of their own; one without decay does not even look at its parameters."""
    values = values_of(generator, [(3,), (5,), (2, 3)])
    values[0][0] = torch.inf

    def made(implementation: str) -> Any:
        params = [nn.Parameter(x.clone()) for x in values]
        groups = [{"params": [p], "lr": 0.1 * (i + 1)} for i, p in enumerate(params)]
        optimizer: Any = ALGORITHMS[name](groups, implementation=implementation)
        for i, group in enumerate(optimizer.param_groups):
            if "weight_decay" in group:
                group["weight_decay"] = 0.1 * i
        return optimizer

    fused, loop = made("fused"), made("for_loop")
    for _ in range(3):
        step_both(fused, loop, like(values, generator))
        assert_same(fused, loop)
    assert first_of(fused)[0] == torch.inf or name in ("ASGD", "NAdam")
    assert fused.launches["update"] == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@some
def test_hyperparameters_in_tensors(name: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    """They are read where they are, and may change there."""
    values = values_of(generator)
    fused, loop = both(name, values)
    held: list[list[torch.Tensor]] = []
    for optimizer in (fused, loop):
        [group] = optimizer.param_groups
        group["lr"], group["weight_decay"] = torch.tensor(0.1, dtype=dtype), torch.tensor(0.3, dtype=dtype)
        held.append([group["lr"], group["weight_decay"]])
        if "betas" in group:
            group["betas"] = torch.tensor(0.8, dtype=dtype), torch.tensor(0.9, dtype=dtype)
            held[-1] += group["betas"]
    for step in range(4):
        step_both(fused, loop, like(values, generator))
        # 1 - 0.999 in float32 is not what it is in float64; both read the same numbers here.
        assert_same(fused, loop, f"step {step}:")
        for tensors in held:
            for x in tensors:
                x.mul_(0.9)
    assert fused.launches == {"prologue": 4, "update": 4}


@some
def test_a_list_of_options_that_changes_in_place(name: str, generator: torch.Generator) -> None:
    if name == "SGD":
        pytest.skip("SGD has no pair of options")
    fused, loop = both(name, values_of(generator))
    for optimizer in (fused, loop):
        optimizer.param_groups[0]["betas"] = [0.9, 0.99]
    for _ in range(3):
        step_both(fused, loop, values_of(generator))
        assert_same(fused, loop)
        for optimizer in (fused, loop):
            optimizer.param_groups[0]["betas"][0] /= 2


@some
def test_another_implementation_halfway(name: str, generator: torch.Generator) -> None:
    """All on one trajectory: each goes on from what the one before has left."""
    values = values_of(generator)
    ours, loop = both(name, values, OPTIONS.get(name))
    for implementation in ("foreach", "fused", "for_loop", "fused", "foreach", "fused"):
        ask(ours, implementation)
        for _ in range(2):
            step_both(ours, loop, like(values, generator))
    # Nobody has had states in hand, which would be looked through from then on.
    assert_same(ours, loop)
    assert ran(ours) == {"foreach": 4, "fused": 6, "for_loop": 2}


@some
def test_checkpoints_go_both_ways(name: str, generator: torch.Generator) -> None:
    """What a fused optimizer saves is what the for-loop saves, and either goes on from the other's."""
    values = values_of(generator)
    fused, loop = both(name, values, OPTIONS.get(name))
    for _ in range(2):
        step_both(fused, loop, like(values, generator))
    saved, expected = copied_state(fused), copied_state(loop)
    assert saved["state"].keys() == expected["state"].keys()
    for index, held in expected["state"].items():
        assert list(saved["state"][index]) == list(held)
        for x, y in zip(saved["state"][index].values(), held.values(), strict=True):
            assert (x.dtype, x.shape, x.stride(), x.device) == (y.dtype, y.shape, y.stride(), y.device)
    fused.load_state_dict(expected)
    loop.load_state_dict(saved)
    ask(fused, "fused")
    ask(loop, "for_loop")
    for _ in range(2):
        step_both(fused, loop, like(values, generator))
        assert_same(fused, loop)


def copied_state(optimizer: Any) -> Any:
    return copy.deepcopy(optimizer.state_dict())


@pytest.mark.parametrize(
    "copy_of", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"]
)
@some
def test_copies_go_on_alone(name: str, copy_of: Callable[[Any], Any], generator: torch.Generator) -> None:
    values = values_of(generator)
    fused, loop = both(name, values, OPTIONS.get(name))
    for _ in range(2):
        step_both(fused, loop, like(values, generator))
    before = copied(entries(fused))
    other = copy_of(fused)
    for _ in range(2):
        step_both(other, loop, like(values, generator))
        assert_same(other, loop)
    after = entries(fused)
    assert all(torch.equal(x, y) for key in before for x, y in zip(before[key], after[key], strict=True))


def test_what_a_backward_pass_still_needs_is_not_overwritten_unnoticed() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer: Any = ALGORITHMS["SGD"]([p], lr=0.1, implementation="fused")
    loss = p.square().sum()
    for _ in range(2):
        give([p], [torch.ones(3)])
        optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
