"""Checkpoints and copies of L-BFGS: torch's layout, exchanged with torch in the midst of a way."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.optim.whole_vector.objectives import LBFGS, Run, both, far_from_it, rosenbrock

WOLFE = "strong_wolfe"
OPTIONS: list[dict[str, Any]] = [
    {"lr": 1e-3, "max_iter": 3},
    {"line_search_fn": WOLFE, "max_iter": 3},
    {"line_search_fn": WOLFE, "max_iter": 2, "history_size": 4},
    {"line_search_fn": WOLFE, "max_iter": 4, "history_size": 1},
]
options = pytest.mark.parametrize("options", OPTIONS, ids=str)


def as_saved(state: dict[str, Any]) -> dict[str, Any]:
    """Through the bytes of a checkpoint, read as data."""
    memory = io.BytesIO()
    torch.save(state, memory)
    memory.seek(0)
    loaded: dict[str, Any] = torch.load(memory, weights_only=True)
    return loaded


def layout(value: Any) -> Any:
    """Types, and of tensors everything but their values; t is a number here, and with torch sometimes 0-d."""
    if isinstance(value, dict):
        return {key: layout(item) if key != "t" else None for key, item in value.items()}
    if isinstance(value, list):
        return [layout(item) for item in value]
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.stride(), value.device, value.requires_grad
    return type(value)


def hand_over(source: Run, target: Run) -> None:
    """Carry parameters and state to another optimizer."""
    with torch.no_grad():
        for x, y in zip(target.params, source.params, strict=True):
            x.copy_(y)
    target.optimizer.load_state_dict(as_saved(source.optimizer.state_dict()))


@options
def test_layout_is_torchs(options: dict[str, Any]) -> None:
    ours, theirs = both(rosenbrock, [far_from_it(10)], **options)
    for _ in range(5):
        left, right = ours.optimizer.state_dict(), theirs.optimizer.state_dict()
        assert layout(left) == layout(right)
        assert left["param_groups"] == right["param_groups"]
        for key, value in right["state"].get(0, {}).items():
            mine = left["state"][0][key]
            if key == "t":
                mine, value = float(mine), float(value)
            torch.testing.assert_close(mine, value, rtol=1e-6, atol=1e-6)
        ours.step()
        theirs.step()


@options
@pytest.mark.parametrize("ours_begins", [True, False])
def test_the_way_goes_on_through_an_exchange_with_torch(options: dict[str, Any], ours_begins: bool) -> None:
    runner, other = both(rosenbrock, [far_from_it(10)], **options)[:: 1 if ours_begins else -1]
    straight = Run(type(runner.optimizer), rosenbrock, [far_from_it(10)], **options)
    for leg in (1, 3, 2, 4):
        straight.step(leg)
        runner.step(leg)
        hand_over(runner, other)
        runner, other = other, runner
    torch.testing.assert_close(runner.where(), straight.where(), rtol=1e-6, atol=1e-6)
    assert runner.state["func_evals"] == straight.state["func_evals"]


@pytest.mark.parametrize("steps", range(6))
@options
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(options: dict[str, Any], steps: int) -> None:
    """Odd sizes and float32, so that any other order of rows or operations shows."""
    start = far_from_it(38)[:37].float()
    straight, resumed = (Run(LBFGS, rosenbrock, [start], **options) for _ in range(2))
    straight.step(steps)
    hand_over(straight, resumed)
    for run in (straight, resumed):
        run.evaluated.clear()
        run.step(9)
    assert torch.equal(torch.stack(straight.evaluated), torch.stack(resumed.evaluated))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@options
def test_copies_go_on_alone(options: dict[str, Any], duplicate: Any) -> None:
    for steps in (0, 2, 5):
        run = Run(LBFGS, rosenbrock, [far_from_it(10).float()], **options)
        run.step(steps)
        twin = duplicate(Run.__new__(Run))
        twin.function, twin.evaluated = rosenbrock, []
        twin.optimizer = duplicate(run.optimizer)
        twin.params = twin.optimizer.param_groups[0]["params"]
        before = as_saved(run.optimizer.state_dict())
        twin.step(4)
        after = run.optimizer.state_dict()
        torch.testing.assert_close(after["state"], before["state"], rtol=0, atol=0)
        run.step(4)
        assert torch.equal(twin.where(), run.where())
        assert layout(twin.optimizer.state_dict()) == layout(run.optimizer.state_dict())


def test_a_pickle_holds_every_pair_once() -> None:
    run = Run(LBFGS, rosenbrock, [far_from_it(1000)], line_search_fn=WOLFE, max_iter=30, history_size=20)
    run.step()
    assert len(run.state["old_dirs"]) == 20
    assert len(pickle.dumps(run.optimizer)) < 1.1 * 8 * 1000 * (2 * 20 + 4)


def test_loading_leaves_what_is_loaded_alone() -> None:
    run, other = (Run(LBFGS, rosenbrock, [far_from_it(10)], history_size=3, max_iter=6) for _ in range(2))
    run.step(2)
    held = copy.deepcopy(run.optimizer.state_dict()["state"])
    other.optimizer.load_state_dict(run.optimizer.state_dict())
    other.step(3)
    torch.testing.assert_close(run.optimizer.state_dict()["state"], held, rtol=0, atol=0)


def test_state_wider_than_the_first_parameter_keeps_its_dtype() -> None:
    """Torch rounds it."""
    values = [far_from_it(2).float(), far_from_it(4)]
    function = lambda x, y: rosenbrock(torch.cat([x, y]))  # noqa: E731
    run, other = (Run(LBFGS, function, values, line_search_fn=WOLFE, max_iter=4) for _ in range(2))
    run.step(3)
    hand_over(run, other)
    for name in ("d", "prev_flat_grad", "H_diag"):
        assert other.state[name].dtype == torch.float64
        assert torch.equal(other.state[name], run.state[name])
    for optimizer in (run, other):
        optimizer.step(2)
    assert torch.equal(run.where(), other.where())


def test_hooks_of_checkpoints_run() -> None:
    run = Run(LBFGS, rosenbrock, [far_from_it(4)])
    run.step()
    seen: list[str] = []
    run.optimizer.register_state_dict_post_hook(lambda *_: seen.append("saved"))
    run.optimizer.register_load_state_dict_pre_hook(lambda *_: seen.append("loading"))
    run.optimizer.register_load_state_dict_post_hook(lambda *_: seen.append("loaded"))
    run.optimizer.load_state_dict(run.optimizer.state_dict())
    assert seen == ["saved", "loading", "loaded"]


def test_a_state_of_other_parameters_is_refused() -> None:
    run = Run(LBFGS, rosenbrock, [far_from_it(4)])
    run.step()
    other = Run(LBFGS, lambda x, y: x.sum() + y.sum(), [torch.ones(2), torch.ones(2)])
    with pytest.raises(ValueError, match="doesn't match the size"):
        other.optimizer.load_state_dict(run.optimizer.state_dict())
    assert not other.optimizer.state
