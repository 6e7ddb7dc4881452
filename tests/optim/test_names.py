"""Parameters with names: what is saved of them, with and without names on the other side."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.optim.any_algorithm import made, matrices, names, step
from tests.optim.oracle import params_of
from tests.results import same_bits

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")


def named(*wanted: str) -> list[tuple[str, nn.Parameter]]:
    return list(zip(wanted, matrices(), strict=True))


@names
def test_named_and_unnamed_states_load_into_each_other(name: str) -> None:
    with_names, without = made(name, named("first", "second")), made(name)
    step(with_names, 2)
    step(without, 2)
    for source, target in ((with_names, made(name)), (without, made(name, named("first", "second")))):
        saved = copy.deepcopy(source.state_dict())  # loading shares the tensors, as with torch
        target.load_state_dict(saved)
        assert same_bits(target.state_dict()["state"], saved["state"])
        with torch.no_grad():
            for x, y in zip(params_of(target), params_of(source), strict=True):
                x.copy_(y)
        step(source)
        step(target)
        assert all(map(torch.equal, params_of(target), params_of(source)))


@names
def test_names_that_are_loaded_are_added(name: str) -> None:
    """Where there are none; those there stay."""
    for given, there, expected in (("ab", "", "ab"), ("", "cd", "cd"), ("", "", "")):
        source, target = (made(name, named(*x) if x else None) for x in (given, there))
        step(source)
        target.load_state_dict(source.state_dict())
        assert target.param_groups[0].get("param_names", []) == [*expected]


@names
def test_a_hook_may_match_by_name(name: str) -> None:
    """Parameters come in another order than they were saved in."""
    source = made(name, named("a", "b"))
    step(source)
    saved = source.state_dict()
    if len(saved["state"]) < 2:
        pytest.skip(f"{name} keeps no state for each parameter")
    target = made(name, list(reversed(named("a", "b"))))

    def by_name(optimizer: torch.optim.Optimizer, state: dict[str, object]) -> dict[str, object]:
        groups = [{**saved["param_groups"][0], "param_names": ["b", "a"]}]
        return {"param_groups": groups, "state": {0: saved["state"][1], 1: saved["state"][0]}}

    target.register_load_state_dict_pre_hook(by_name)
    target.load_state_dict(saved)
    found = target.state_dict()["state"]
    assert same_bits([found[1], found[0]], [saved["state"][0], saved["state"][1]])


@names
def test_groups_are_all_named_or_none(name: str) -> None:
    first, second = matrices()
    unnamed = made(name, [first])
    with pytest.raises(ValueError, match="all optimizer param groups should be with/without names"):
        unnamed.add_param_group({"params": [("second", second)]})
    assert params_of(unnamed) == [first]
    ours = made(name, [("first", first)])
    with pytest.raises(ValueError, match="all optimizer param groups should be with/without names"):
        ours.add_param_group({"params": [second]})
    ours.add_param_group({"params": [("second", second)]})
    assert [group["param_names"] for group in ours.param_groups] == [["first"], ["second"]]
