"""L-BFGS: the way that torch's takes, what it accepts, and what it refuses."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.optim.whole_vector.objectives import (
    LBFGS,
    Run,
    assert_same_way,
    both,
    far_from_it,
    least_squares,
    rosenbrock,
)

FIXED: dict[str, Any] = {"lr": 1e-3}
WOLFE: dict[str, Any] = {"line_search_fn": "strong_wolfe"}
searches = pytest.mark.parametrize("search", [FIXED, WOLFE], ids=["fixed", "strong_wolfe"])


def test_constructor_is_torchs() -> None:
    ours, theirs = (inspect.signature(x).parameters for x in (LBFGS, torch.optim.LBFGS))
    assert [(x.name, x.default) for x in theirs.values()] == [
        (x.name, x.default) for x in ours.values() if x.name != "implementation"
    ]
    pair = both(rosenbrock, [far_from_it(2)])
    assert pair[0].optimizer.defaults == pair[1].optimizer.defaults
    assert repr(pair[0].optimizer) == repr(pair[1].optimizer)


@pytest.mark.parametrize("history_size", [1, 5, 100])
@searches
def test_rosenbrock(search: dict[str, Any], history_size: int) -> None:
    ours, theirs = both(rosenbrock, [far_from_it(2)], history_size=history_size, **search)
    for _ in range(4):
        ours.step()
        theirs.step()
        for count in ("n_iter", "func_evals"):
            assert ours.state[count] == theirs.state[count]
    assert_same_way(ours, theirs, 1e-6)
    assert ours.optimizer.executions == {"whole_vector": 4}
    if search is WOLFE:
        assert rosenbrock(*ours.params) < 1e-8


@pytest.mark.parametrize("per_step", [1, 10, 30])
@pytest.mark.parametrize("history_size", [1, 5, 100])
@searches
def test_thirty_iterations_in_a_hundred_dimensions(
    search: dict[str, Any], history_size: int, per_step: int
) -> None:
    options = {"max_iter": per_step, "max_eval": 100, "history_size": history_size} | search
    ours, theirs = both(rosenbrock, [far_from_it(100)], **options)
    for run in (ours, theirs):
        run.step(30 // per_step)
        assert run.state["n_iter"] == 30
    assert_same_way(ours, theirs, 1e-6)


@pytest.mark.parametrize("history_size", [3, 100])
@pytest.mark.parametrize("search", [{"lr": 0.5}, WOLFE], ids=["fixed", "strong_wolfe"])
def test_least_squares(search: dict[str, Any], history_size: int, generator: torch.Generator) -> None:
    function = least_squares(generator)
    start = torch.randn(20, generator=generator, dtype=torch.float64)
    ours, theirs = both(function, [start], max_iter=30, max_eval=60, history_size=history_size, **search)
    for run in (ours, theirs):
        run.step()
    assert len(ours.evaluated) > 25
    assert_same_way(ours, theirs, 1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
def test_low_precision_comes_as_far(dtype: torch.dtype, tolerance: float, generator: torch.Generator) -> None:
    """Roundings part the ways, not what they come to."""
    start = torch.randn(10, generator=generator)
    ours, theirs = both(lambda x: (x - 2).square().sum() + x[0] * x[1], [start.to(dtype)], **WOLFE)
    for run in (ours, theirs):
        run.step(3)
    torch.testing.assert_close(ours.where(), theirs.where(), rtol=tolerance, atol=tolerance)


def mixture(*params: Tensor) -> Tensor:
    """Every parameter is tied to every other, but for the last one, which gets no gradient."""
    total, squares = torch.zeros(()), torch.zeros(())
    for weight, x in enumerate(params[:-1], start=1):
        total = total + weight * x.abs().square().sum()
        squares = squares + weight * (x - 1).abs().square().sum()
    return squares + 0.1 * total**2


@searches
def test_parameters_of_all_kinds(search: dict[str, Any], generator: torch.Generator) -> None:
    """Complex, 0-d, empty, transposed, channels-last, without gradient, of two precisions."""

    def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    values = [
        random(3, dtype=torch.complex128),
        random(),
        random(0),
        random(2, 3, 2, 2),
        random(4, dtype=torch.float32),
        random(5),
    ]
    ours, theirs = both(mixture, values, max_iter=5, **search)
    for run in (ours, theirs):
        run.step(2)
    assert ours.params[-1].grad is None
    assert_same_way(ours, theirs, 1e-6)
    # torch views gradients, which must be contiguous for that.
    shapes = [(2, 3, 2, 2), (3, 4)]
    flat = [random(*shape) for shape in shapes]
    laid_out = [flat[0].to(memory_format=torch.channels_last), flat[1].t().contiguous().t()]
    function = lambda x, y: mixture(x, y, x)  # noqa: E731
    plain, strange = (Run(LBFGS, function, x, max_iter=5, **search) for x in (flat, laid_out))
    for run in (plain, strange):
        run.step(2)
    assert [p.stride() for p in strange.params] == [x.stride() for x in laid_out]
    assert_same_way(strange, plain, 1e-12)


def test_a_conjugated_gradient() -> None:
    p = nn.Parameter(torch.tensor([1 + 2j, 3 - 1j]))

    def closure() -> float:
        p.grad = 2 * p.detach().conj().resolve_conj()
        p.grad = p.grad.conj()
        assert p.grad.is_conj()
        return float(p.detach().abs().square().sum())

    LBFGS([p]).step(closure)
    torch.testing.assert_close(p.detach(), torch.zeros(2, dtype=torch.complex64))


@searches
def test_sparse_gradients(search: dict[str, Any], generator: torch.Generator) -> None:
    index = torch.tensor([0, 2, 2, 5])
    function = lambda x: (nn.functional.embedding(index, x, sparse=True) - 1).square().sum()  # noqa: E731
    start = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    ours, theirs = both(function, [start], **search)
    for run in (ours, theirs):
        run.step(2)
    assert ours.params[0].grad is not None
    assert ours.params[0].grad.is_sparse
    assert_same_way(ours, theirs, 1e-8)


def test_several_groups_are_one_vector(generator: torch.Generator) -> None:
    values = [torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(3)]
    function = lambda *x: rosenbrock(torch.cat(x))  # noqa: E731
    whole = Run(LBFGS, function, values, **WOLFE)
    parts = Run(LBFGS, function, values, **WOLFE)
    parts.optimizer = LBFGS([{"params": parts.params[:1]}, {"params": parts.params[1:]}], **WOLFE)
    for run in (whole, parts):
        run.step(3)
    assert torch.equal(torch.stack(whole.evaluated), torch.stack(parts.evaluated))
    assert len(parts.optimizer.state_dict()["param_groups"]) == 2


def test_unequal_groups_are_refused_wherever_they_come_from() -> None:
    first, second = (nn.Parameter(torch.ones(2)) for _ in range(2))
    says = r"doesn't support per-parameter options: lr is 1 .* group 0 and 0.5 in group 1"
    with pytest.raises(ValueError, match=says):
        LBFGS([{"params": [first]}, {"params": [second], "lr": 0.5}])
    ours = LBFGS([first])
    with pytest.raises(ValueError, match=says):
        ours.add_param_group({"params": [second], "lr": 0.5})
    assert len(ours.param_groups) == 1
    ours.add_param_group({"params": [second]})
    saved = ours.state_dict()
    saved["param_groups"][1] = saved["param_groups"][1] | {"lr": 0.5}
    with pytest.raises(ValueError, match=says):
        ours.load_state_dict(saved)
    assert ours.param_groups[1]["lr"] == 1
    ours.param_groups[1]["lr"] = 0.5
    with pytest.raises(ValueError, match=says):
        ours.step(lambda: 0.0)


def test_a_group_that_comes_later_starts_anew() -> None:
    run = Run(LBFGS, lambda x: (x - 3).square().sum(), [torch.zeros(2)], max_iter=2)
    run.step()
    run.params.append(nn.Parameter(torch.zeros(3)))
    run.function = lambda x, y: (x - 3).square().sum() + (y - 1).square().sum()
    run.optimizer.add_param_group({"params": run.params[1:]})
    assert not run.optimizer.state
    run.step(10)
    torch.testing.assert_close(run.where(), torch.tensor([3.0, 3, 1, 1, 1]))


@pytest.mark.parametrize("asked", ["foreach", "fused"])
def test_other_executions_are_refused(asked: str) -> None:
    says = f"has no {asked} execution, since it takes all parameters as one vector; .* may be auto$"
    with pytest.raises(ValueError, match=says):
        LBFGS([nn.Parameter(torch.ones(1))], implementation=asked)
    with pytest.raises(ValueError, match=says):
        LBFGS([{"params": [nn.Parameter(torch.ones(1))], "implementation": asked}])
    with pytest.raises(TypeError, match=asked):
        LBFGS([nn.Parameter(torch.ones(1))], **{asked: True})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"lr": math.nan}, "Invalid learning rate: nan"),
        ({"lr": torch.ones(2)}, "Tensor lr.* must be 1-element"),
        ({"line_search_fn": "armijo"}, "only 'strong_wolfe' is supported"),
    ],
    ids=str,
)
def test_what_torch_refuses(options: dict[str, Any], says: str) -> None:
    refused = []
    for cls in (torch.optim.LBFGS, LBFGS):
        # torch looks at the line search only then.
        with pytest.raises(Exception, match=says) as error:
            Run(cls, lambda x: x.square().sum(), [torch.ones(1)], **options).step()
        refused.append(error.type)
    assert refused[0] is refused[1]
    with pytest.raises(refused[0]):
        LBFGS([nn.Parameter(torch.ones(1))], **options)


def test_an_empty_history_is_refused() -> None:
    with pytest.raises(ValueError, match="history_size must be >= 1"):
        LBFGS([nn.Parameter(torch.ones(1))], history_size=0)


def test_a_step_without_a_closure_is_refused() -> None:
    optimizer = LBFGS([nn.Parameter(torch.ones(1))])
    with pytest.raises(TypeError, match="closure"):
        optimizer.step()
    with pytest.raises(TypeError, match=r"several times: step\(closure\) needs a function that clears"):
        optimizer.step(None)


def test_a_rate_in_a_tensor() -> None:
    runs = [Run(LBFGS, rosenbrock, [far_from_it(2)], lr=lr) for lr in (0.5**10, torch.tensor(0.5**10))]
    for run in runs:
        run.step(2)
    assert_same_way(runs[0], runs[1], 0)


@searches
def test_nothing_to_do(search: dict[str, Any]) -> None:
    ours, theirs = both(lambda x: (x - 1).square().sum(), [torch.ones(2)], **search)
    for run in (ours, theirs):
        run.step(2)
        assert run.state == {"func_evals": 2, "n_iter": 0}
    assert len(ours.evaluated) == 2
    unused = LBFGS([nn.Parameter(torch.ones(2))], **search)
    assert unused.step(lambda: 7) == 7


@pytest.mark.parametrize("max_eval", [1, 2, 3, 7])
@searches
def test_evaluations_run_out(search: dict[str, Any], max_eval: int) -> None:
    ours, theirs = both(rosenbrock, [far_from_it(10)], max_eval=max_eval, **search)
    for _ in range(5):
        ours.step()
        theirs.step()
    assert ours.state["func_evals"] == theirs.state["func_evals"] == len(ours.evaluated)
    assert_same_way(ours, theirs, 1e-9)


@pytest.mark.parametrize("options", [{"tolerance_grad": 1.0}, {"tolerance_change": 1e-2}, {"max_iter": 0}])
@searches
def test_a_step_ends_where_torchs_does(search: dict[str, Any], options: dict[str, Any]) -> None:
    ours, theirs = both(rosenbrock, [far_from_it(4)], **(search | options))
    for _ in range(6):
        ours.step()
        theirs.step()
        assert ours.state["n_iter"] == theirs.state["n_iter"]
    assert_same_way(ours, theirs, 1e-8)


def test_a_line_that_falls_for_ever() -> None:
    """Steps grow tenfold, as far as there are evaluations."""
    run = Run(LBFGS, lambda x: x.sum(), [torch.zeros(4, dtype=torch.float64)], max_eval=6, **WOLFE)
    run.step()
    assert len(run.evaluated) == 7
    torch.testing.assert_close(run.where(), torch.full((4,), -0.25e5, dtype=torch.float64))


@searches
def test_a_closure_that_raises_loses_nothing(search: dict[str, Any]) -> None:
    """It may be called again, and the way goes on downhill."""
    run = Run(LBFGS, rosenbrock, [far_from_it(100)], **search)
    run.step()
    for calls in (1, 2, 3):
        before, level = run.where(), rosenbrock(*run.params)
        function, left = run.function, [calls]

        def breaks(x: Tensor, left: list[int] = left) -> Tensor:
            left[0] -= 1
            if left[0] == 0:
                raise ArithmeticError
            return rosenbrock(x)

        run.function = breaks
        with pytest.raises(ArithmeticError):
            run.step()
        run.function = function
        if search is WOLFE and calls < 3:
            assert torch.equal(run.where(), before)
        run.step(2)
        assert rosenbrock(*run.params) < level


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_line_search_comes_back_from_where_there_is_no_number(value: float) -> None:
    """Torch's accepts NaN, or goes to it."""
    function = lambda x: torch.where(x < 1, x.square() - x, value).sum()  # noqa: E731
    run = Run(LBFGS, function, [torch.full((1,), -30.0)], lr=50, **WOLFE)
    run.step(5)
    assert any(x > 1 for x in run.evaluated), "it never came to where there is no number"
    torch.testing.assert_close(run.where(), torch.full((1,), 0.5), rtol=0, atol=1e-3)


def test_nan_everywhere() -> None:
    for search in (FIXED, WOLFE):
        run = Run(LBFGS, lambda x: (x * math.nan).sum(), [torch.ones(2)], **search)
        run.step(2)


def test_hooks_and_profiler_see_the_step() -> None:
    run = Run(LBFGS, rosenbrock, [far_from_it(2)], **WOLFE)
    seen: list[tuple[str, float]] = []
    run.optimizer.register_step_pre_hook(lambda *_: seen.append(("pre", float(run.where()[0]))))
    run.optimizer.register_step_post_hook(lambda *_: seen.append(("post", float(run.where()[0]))))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run.step()
    assert seen == [("pre", -1.2), ("post", float(run.where()[0]))]
    assert "Optimizer.step#LBFGS.step" in {event.key for event in profile.key_averages()}


def test_gradients_are_on_in_the_closure() -> None:
    run = Run(LBFGS, rosenbrock, [far_from_it(2)], **WOLFE)
    with torch.no_grad():
        loss = run.optimizer.step(run.closure)
    assert loss == rosenbrock(far_from_it(2))
    assert isinstance(loss, Tensor)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_function_may_step() -> None:
    compiled, eager = (Run(LBFGS, rosenbrock, [far_from_it(2)], max_iter=3) for _ in range(2))
    step = torch.compile(lambda: compiled.optimizer.step(compiled.closure), backend="eager")
    step()
    eager.step()
    torch.testing.assert_close(compiled.where(), eager.where())


def test_schedulers_of_torch_drive_it() -> None:
    run = Run(LBFGS, rosenbrock, [far_from_it(2)], **WOLFE)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(run.optimizer, 0.5, total_steps=4, cycle_momentum=False)
    rates = set()
    for _ in range(3):
        run.step()
        scheduler.step()
        rates.add(run.optimizer.param_groups[0]["lr"])
    assert len(rates) == 3
    assert copy.deepcopy(run.optimizer).param_groups[0]["lr"] in rates
