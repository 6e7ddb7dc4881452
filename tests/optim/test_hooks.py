"""Hooks around steps, saving and loading: their order, what they may replace, when they are gone."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from tests.optim.any_algorithm import made, names, names_after_loading, step
from tests.optim.oracle import params_of
from tests.results import same_bits

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")


@names
def test_step_hooks_run_in_order(name: str) -> None:
    """Global ones are the first before a step and the last after it; those of a kind run in order."""
    ours, other = made(name), made(name)
    step(other)
    seen: list[str] = []

    def note(what: str) -> Any:
        return lambda optimizer, args, kwargs: seen.append(what)

    handles = [ours.register_step_post_hook(note("post 1")), ours.register_step_pre_hook(note("pre 1"))]
    handles += [register_optimizer_step_post_hook(note("global post"))]
    handles += [register_optimizer_step_pre_hook(note("global pre"))]
    handles += [ours.register_step_post_hook(note("post 2")), ours.register_step_pre_hook(note("pre 2"))]
    try:
        step(ours)
        assert seen == ["global pre", "pre 1", "pre 2", "post 1", "post 2", "global post"]
        step(other)
        assert seen[6:] == ["global pre", "global post"]
    finally:
        for handle in handles:
            handle.remove()
    step(ours)
    assert len(seen) == 8


@names
def test_a_step_pre_hook_with_a_wrong_result_is_refused(name: str) -> None:
    ours = made(name)
    ours.register_step_pre_hook(lambda optimizer, args, kwargs: 3)  # type: ignore[arg-type, return-value]
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        step(ours)


@names
def test_state_dict_hooks_may_replace_what_is_saved(name: str) -> None:
    ours = made(name)
    step(ours)
    seen: list[str] = []

    def extend(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        seen.append("post 2")
        return {**state, "note": "replaced"}

    handles = [
        ours.register_state_dict_post_hook(extend),
        ours.register_state_dict_post_hook(lambda optimizer, state: seen.append("post 1"), prepend=True),
        ours.register_state_dict_pre_hook(lambda optimizer: seen.append("pre 2")),
        ours.register_state_dict_pre_hook(lambda optimizer: seen.append("pre 1"), prepend=True),
    ]
    assert ours.state_dict()["note"] == "replaced"
    assert seen == ["pre 1", "pre 2", "post 1", "post 2"]
    for handle in handles:
        handle.remove()
    assert ours.state_dict().keys() == {"state", "param_groups"}


@names
def test_loading_hooks_may_replace_what_is_loaded(name: str) -> None:
    ours, source = made(name), made(name)
    step(source, 2)
    saved = source.state_dict()
    seen: list[str] = []

    def slower(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        seen.append("pre 2")
        return {**state, "param_groups": [{**group, "lr": 0.125} for group in state["param_groups"]]}

    ours.register_load_state_dict_pre_hook(slower)
    ours.register_load_state_dict_pre_hook(lambda optimizer, state: seen.append("pre 1"), prepend=True)
    ours.register_load_state_dict_post_hook(lambda optimizer: seen.append("post 2"))
    ours.register_load_state_dict_post_hook(lambda optimizer: seen.append("post 1"), prepend=True)
    ours.load_state_dict(saved)
    assert seen == ["pre 1", "pre 2", "post 1", "post 2"]
    assert ours.param_groups[0]["lr"] == 0.125
    assert same_bits(ours.state_dict()["state"], saved["state"])
    # Not even the hook has changed what was given.
    assert saved["param_groups"][0]["lr"] == source.param_groups[0]["lr"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@names_after_loading
def test_copies_have_what_is_public_and_no_hooks(name: str, duplicate: Any) -> None:
    """As torch's: a copy holds options and state, and is of use at once."""
    ours = made(name)
    step(ours, 2)
    ours.register_step_post_hook(_fail)
    ours.register_state_dict_pre_hook(_fail)
    ours.register_load_state_dict_pre_hook(_fail)
    twin = duplicate(ours)
    public = {key for key in vars(ours) if not key.startswith("_")}
    assert public == {key for key in vars(twin) if not key.startswith("_")}
    assert ours.defaults.items() <= twin.defaults.items()  # torch adds `differentiable` where it is missing
    twin.load_state_dict(twin.state_dict())
    before = [p.clone() for p in params_of(twin)]
    step(twin)
    assert not any(map(torch.equal, before, params_of(twin)))


def _fail(*arguments: Any) -> None:
    raise AssertionError("a hook of the original ran")
