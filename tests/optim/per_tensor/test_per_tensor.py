"""Per-tensor algorithms against torch.optim: options, dtypes, executions, and the optimizer's protocol."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS
from optim_cli.optim.execution import foreach
from optim_cli.optim.optimizer import Optimizer
from optim_cli.optim.per_tensor.base import PerTensor
from tests.optim.oracle import (
    TOLERANCES,
    Options,
    align,
    combinations,
    copied,
    difference,
    drawn,
    entries,
    fresh,
    give,
    like,
    parameters,
    params_of,
    plain,
    ran,
    step_both,
    takes,
    theirs_of,
)

NAMES = [
    name for name, cls in ALGORITHMS.items() if issubclass(cls, PerTensor) and hasattr(torch.optim, name)
]
STEPS = 3
EXECUTIONS = {"auto": "foreach", "foreach": "foreach", "for_loop": "for_loop"}
# Muon's iteration is in bfloat16, and makes a rounding (2^-9) larger where singular values are small. The
# products of many matrices may sum in another order than those of one; a CPU gives torch's bits.
IN_BFLOAT16 = (2**-6, 2**-6)

names = pytest.mark.parametrize("name", NAMES)
executions = pytest.mark.parametrize("execution", EXECUTIONS)


def tolerance(name: str, dtype: torch.dtype) -> tuple[float, float]:
    """(rtol, atol) of one step on values of size 1."""
    return max(TOLERANCES[dtype], IN_BFLOAT16) if name == "Muon" else TOLERANCES[dtype]


def values_for(name: str, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Values of size 1: matrices, two of one shape, a transposed, a strided one; vectors, images."""
    shapes = ((3, 2), (2, 3), (3, 2), (6, 4), (2, 6), (3, 8))
    *matrices, transposed, columns = (torch.randn(shape, generator=generator) for shape in shapes)
    matrices += [transposed.t(), columns[:, ::2]]
    if name == "Adafactor":
        others = [torch.randn(shape, generator=generator) for shape in ((), (5,), (1,), (2, 3, 4, 3))]
        matrices += [
            *others,
            torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last),
        ]
    return [torch.empty_strided(x.shape, x.stride(), dtype=dtype).copy_(x) for x in matrices]


def arithmetics(name: str) -> list[Options]:
    """Options as numbers, of which torch accepts the combination."""
    found: dict[str, Options] = {}
    for options in map(plain, combinations(name)):
        with suppress(ValueError):
            theirs_of(name)([torch.ones(1, 1)], **options)
            found[repr(options)] = options
    return list(found.values())


def pair(
    name: str, values: Sequence[Tensor], options: Options | None = None, execution: str = "auto"
) -> tuple[Optimizer, torch.optim.Optimizer]:
    """Our optimizer and torch's on parameters of equal values."""
    asked = {"foreach": execution == "foreach"} if execution != "auto" and takes(name, "foreach") else {}
    ours = ALGORITHMS[name](parameters(values), **fresh(options or {}), implementation=execution)
    return ours, theirs_of(name)(parameters(values), **fresh(options or {}), **asked)


def assert_alike(
    ours: torch.optim.Optimizer,
    theirs: torch.optim.Optimizer,
    tolerance: tuple[float, float],
    context: str = "",
) -> None:
    found = difference(entries(ours), entries(theirs), tolerance)
    assert found is None, f"{context} {found}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@executions
@names
def test_steps_are_those_of_torch(
    name: str,
    execution: str,
    dtype: torch.dtype,
    generator: torch.Generator,
    matrix: list[tuple[str, ...]],
    request: pytest.FixtureRequest,
) -> None:
    """Each step by itself, from torch's parameters and states."""
    values = values_for(name, generator, dtype)
    gradients = [like(values, generator) for _ in range(STEPS)]
    grid, compared = combinations(name), 0
    if name == "Muon" and dtype == torch.bfloat16:
        # Without nesterov, torch overwrites its momentum there: tests/optim/per_tensor/test_muon.py.
        grid = [options for options in grid if options["nesterov"]]
    if not request.config.getoption("--all-combinations"):
        grid = drawn(grid, generator, 32)
    for options in grid:
        try:
            ours, theirs = pair(name, values, options, execution)
        except ValueError as refusal:
            with pytest.raises(type(refusal)):
                theirs_of(name)(parameters(values), **fresh(options))
            continue
        for now in gradients:
            step_both(ours, theirs, now)
            assert all(map(torch.equal, now, [p.grad for p in params_of(ours) if p.grad is not None])), (
                options
            )
            assert_alike(ours, theirs, tolerance(name, dtype), str(options))
            align(ours, copied(entries(theirs)))
        assert set(ran(ours)) == {EXECUTIONS[execution]}, options
        compared += 1
    counts = map(str, (len(grid), compared, 0, len(grid) - compared))
    matrix.append((name, str(dtype).removeprefix("torch."), execution, *counts))
    assert compared > len(grid) / 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@names
def test_trajectory_is_torchs(name: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Fifty steps without re-alignment."""
    values = values_for(name, generator, dtype)
    gradients = [like(values, generator) for _ in range(50)]
    for options in drawn(arithmetics(name), generator, 6):
        ours, theirs = pair(name, values, options | {"lr": 0.01})
        for now in gradients:
            step_both(ours, theirs, now)
        drift = IN_BFLOAT16 if name == "Muon" else (1e-11, 1e-12) if dtype == torch.float64 else (1e-3, 1e-4)
        assert_alike(ours, theirs, drift, str(options))
        assert set(ran(ours)) == {"foreach"}
        assert not torch.equal(params_of(ours)[0], values[0])


@names
def test_all_at_once_is_one_by_one(
    name: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors of a kind in one call, in portions, or alone."""
    values = values_for(name, generator) * 3
    gradients = [like(values, generator) for _ in range(3)]
    for options in arithmetics(name)[::5]:
        found = []
        for execution, portion in (("for_loop", None), ("foreach", None), ("foreach", 100)):
            with monkeypatch.context() as patch:
                if portion:
                    patch.setitem(foreach.PORTION_BYTES, "cpu", portion)
                ours, _ = pair(name, values, options, execution)
                for now in gradients:
                    give(params_of(ours), now)
                    ours.step()
            assert set(ran(ours)) == {execution}
            found.append(ours)
        alone, *together = found
        for ours in together:
            assert_alike(ours, alone, IN_BFLOAT16 if name == "Muon" else (1e-6, 1e-6), str(options))


@executions
@names
def test_a_parameter_without_gradient_misses_the_step(
    name: str, execution: str, generator: torch.Generator
) -> None:
    values = values_for(name, generator, torch.float64)
    ours, theirs = pair(name, values, None, execution)
    for step in range(5):
        gradients: list[Tensor | None] = [*like(values, generator)]
        gradients[0] = None
        gradients[2] = None if step % 2 else gradients[2]
        gradients[3] = None if step < 3 else gradients[3]
        step_both(ours, theirs, gradients)
    assert_alike(ours, theirs, tolerance(name, torch.float64))
    assert torch.equal(params_of(ours)[0], values[0])
    assert params_of(ours)[0] not in ours.state
    assert set(ran(ours)) == {EXECUTIONS[execution]}


@names
def test_a_step_without_any_gradient_does_nothing(name: str) -> None:
    ours, theirs = pair(name, [torch.ones(3, 2)])
    step_both(ours, theirs, [None])
    assert_alike(ours, theirs, (0, 0))
    assert ran(ours) == {}
    assert not ours.state


@executions
@names
def test_groups_have_options_of_their_own(name: str, execution: str, generator: torch.Generator) -> None:
    values = values_for(name, generator, torch.float64)
    grid = [options | {"lr": 0.1 / (1 + i)} for i, options in enumerate(arithmetics(name))]
    ours, theirs = pair(name, values, None, execution)
    for optimizer in (ours, theirs):
        for options in grid:
            optimizer.add_param_group({"params": parameters(values), **options})
    for _ in range(2):
        step_both(ours, theirs, like(values, generator) * (1 + len(grid)))
    assert_alike(ours, theirs, tolerance(name, torch.float64))
    assert set(ran(ours)) == {EXECUTIONS[execution]}


@names
def test_a_parameter_group_may_name_its_implementation(name: str) -> None:
    first, second = parameters([torch.ones(3, 2), torch.ones(3, 2)])
    ours = ALGORITHMS[name]([{"params": [first], "implementation": "for_loop"}, {"params": [second]}])
    give([first, second], [torch.ones(3, 2)] * 2)
    ours.step()
    assert ran(ours) == {"for_loop": 1, "foreach": 1}
    assert all("implementation" not in group for group in ours.param_groups)
    for wrong in ("fused", "fast"):
        with pytest.raises(ValueError, match=r"auto, for_loop, foreach"):
            ours.add_param_group({"params": parameters([torch.ones(3, 2)]), "implementation": wrong})
    assert len(ours.param_groups) == 2


@names
def test_there_is_no_fused_execution(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has no fused .* auto, for_loop, foreach"):
        ALGORITHMS[name](parameters([torch.ones(3, 2)]), implementation="fused")
    with pytest.raises(ValueError, match=r"'quick'.*auto, for_loop, foreach, fused"):
        ALGORITHMS[name](parameters([torch.ones(3, 2)]), implementation="quick")
    for absent in ("fused", "capturable", "differentiable"):
        for cls in (ALGORITHMS[name], theirs_of(name)):
            with pytest.raises(TypeError, match=f"unexpected keyword argument '{absent}'"):
                cls(parameters([torch.ones(3, 2)]), **{absent: True})


@executions
@names
def test_a_learning_rate_in_a_tensor_is_changed_in_place(
    name: str, execution: str, generator: torch.Generator
) -> None:
    values = values_for(name, generator, torch.float64)
    for shape in ((), (1,), (1, 1)):
        ours, theirs = pair(name, values, {"lr": torch.full(shape, 0.1, dtype=torch.float64)}, execution)
        for lr in (0.1, 0.05, 0.2):
            for optimizer in (ours, theirs):
                optimizer.param_groups[0]["lr"].fill_(lr)
            step_both(ours, theirs, like(values, generator))
        assert_alike(ours, theirs, tolerance(name, torch.float64))
        assert set(ran(ours)) == {EXECUTIONS[execution]}


@executions
@names
def test_memory_layouts_are_kept(name: str, execution: str, generator: torch.Generator) -> None:
    values = values_for(name, generator)
    ours, theirs = pair(name, values, None, execution)
    # Gradients in other layouts than their parameters.
    gradients = [x.contiguous() for x in like(values, generator)]
    for _ in range(2):
        step_both(ours, theirs, gradients)
    assert_alike(ours, theirs, tolerance(name, torch.float32))
    assert [p.stride() for p in params_of(ours)] == [x.stride() for x in values]


@executions
@names
def test_dtypes_may_be_mixed_in_a_group(name: str, execution: str, generator: torch.Generator) -> None:
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float32)
    values = [torch.randn(3, 4, generator=generator).to(dtype) for dtype in dtypes]
    ours, theirs = pair(name, values, {"lr": 0.125}, execution)
    for _ in range(2):
        step_both(ours, theirs, like(values, generator))
    assert_alike(ours, theirs, TOLERANCES[torch.bfloat16])
    for key, found in entries(ours).items():
        assert [x.dtype for x in found] == [x.dtype for x in entries(theirs)[key]]
    assert ran(ours) == {EXECUTIONS[execution]: 4 * 2}


@executions
@names
def test_parameters_without_elements(name: str, execution: str) -> None:
    """torch divides by their size."""
    values = [torch.ones(0, 3), torch.ones(3, 0), torch.ones(2, 3)]
    ours, _ = pair(name, values, None, execution)
    alone, _ = pair(name, values[2:], None, execution)
    for optimizer, count in ((ours, 3), (alone, 1)):
        give(params_of(optimizer), [x * 0.5 for x in values[-count:]])
        optimizer.step()
    assert torch.equal(params_of(ours)[2], params_of(alone)[0])
    assert not params_of(ours)[2].isnan().any()


def shape_of(value: Any) -> Any:
    """What a checkpoint's layout consists of: everything but the values of tensors."""
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [shape_of(item) for item in value]
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.stride(), value.device, value.requires_grad
    return value


@names
def test_state_is_exchanged_with_torch(name: str, generator: torch.Generator) -> None:
    """In torch's layout and in both directions; the trajectory goes on."""
    values = values_for(name, generator, torch.float64)
    for options in arithmetics(name)[::3]:
        both: Sequence[torch.optim.Optimizer] = pair(name, values, options)
        straight = pair(name, values, options)[1]
        runner, other = both
        for _ in range(4):
            gradients = like(values, generator)
            for optimizer in (straight, runner):
                give(params_of(optimizer), gradients)
                optimizer.step()
            with torch.no_grad():
                for p, q in zip(params_of(other), params_of(runner), strict=True):
                    p.copy_(q)
            other.load_state_dict(copy.deepcopy(runner.state_dict()))
            assert shape_of(other.state_dict()) == shape_of(straight.state_dict()), options
            runner, other = other, runner
        assert_alike(runner, straight, tolerance(name, torch.float64), str(options))
        assert set(ran(both[0])) <= {"foreach", "for_loop"}


@names
def test_defaults_and_groups_are_torchs(name: str) -> None:
    ours, theirs = pair(name, [torch.ones(3, 2)])
    assert ours.defaults == theirs.defaults
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@names
def test_copies_train_on_alone(name: str, duplicate: Any, generator: torch.Generator) -> None:
    values = values_for(name, generator)
    first, second = like(values, generator), like(values, generator)
    ours, _ = pair(name, values)
    give(params_of(ours), first)
    ours.step()
    twin = duplicate(ours)
    held = copied(entries(ours))
    give(params_of(twin), second)
    twin.step()
    assert difference(entries(ours), held, (0, 0)) is None
    give(params_of(ours), second)
    ours.step()
    assert_alike(twin, ours, (0, 0))
    assert set(ran(twin)) == {"foreach"}


@pytest.mark.parametrize("execution", ["for_loop", "foreach"])
@names
def test_a_state_wider_than_its_parameter_keeps_its_precision(
    name: str, execution: str, generator: torch.Generator
) -> None:
    """float32 state beside bfloat16 parameters, loaded: the state goes on as torch's does in float32."""
    values = [torch.randn(6, 4, generator=generator).bfloat16() for _ in range(2)]
    wide, theirs = pair(name, [x.float() for x in values], {"lr": 0.125})
    narrow, _ = pair(name, values, {"lr": 0.125}, execution)
    for optimizer in (wide, theirs):
        give(params_of(optimizer), [x.float() for x in values])
        optimizer.step()
    saved = wide.state_dict()
    narrow.load_state_dict(saved)
    narrow.param_groups[0]["foreach"] = execution == "foreach"
    loaded = entries(narrow)
    assert all(x.dtype == torch.float32 for key in loaded if key != "p" for x in loaded[key])
    gradients = like(values, generator)
    give(params_of(narrow), gradients)
    give(params_of(theirs), [g.float() for g in gradients])
    narrow.step()
    theirs.step()
    for key, found in entries(narrow).items():
        if key != "p":
            assert torch.allclose(torch.stack(found), torch.stack(entries(theirs)[key]), 1e-6, 1e-6), key
            assert not torch.equal(found[0].bfloat16().float(), found[0]) or key == "step", key
    assert not torch.equal(params_of(narrow)[0], values[0])
    assert ran(narrow) == {execution: 1}
    assert ran(wide) == {"foreach": 1}
    # What was loaded is a copy.
    assert saved["state"][0] is not narrow.state[params_of(narrow)[0]]


@names
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(name: str, generator: torch.Generator) -> None:
    values = values_for(name, generator)
    straight, resumed = pair(name, values)[0], pair(name, values)[0]
    for turn in range(2):
        gradients = like(values, generator)
        for optimizer in (straight, resumed)[: 2 if turn else 1]:
            give(params_of(optimizer), gradients)
            optimizer.step()
        if not turn:
            resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
            with torch.no_grad():
                for p, q in zip(params_of(resumed), params_of(straight), strict=True):
                    p.copy_(q)
    assert_alike(resumed, straight, (0, 0))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@names
def test_gradients_that_torch_refuses(name: str) -> None:
    given = {"sparse gradients": torch.ones(2, 3).to_sparse(), "complex parameters": torch.ones(2, 3) * 1j}
    for what, gradient in given.items():
        for cls in (ALGORITHMS[name], theirs_of(name)):
            value = torch.zeros(2, 3, dtype=gradient.dtype)
            params = parameters([torch.zeros(2, 3), value])
            optimizer = cls(params)
            params[0].grad, params[1].grad = torch.ones(2, 3), gradient
            with pytest.raises(RuntimeError, match=f"^{name} does not support {what}"):
                optimizer.step()
            if cls is ALGORITHMS[name]:
                assert not params[0].any(), "a refused step is no step"
                assert ran(optimizer) == {}


@names
def test_closures_hooks_and_compiled_functions(name: str) -> None:
    ours, theirs = pair(name, [torch.ones(3, 2)])
    seen: list[str] = []
    ours.register_step_pre_hook(lambda *_: seen.append("pre"))
    ours.register_step_post_hook(lambda *_: seen.append("post"))
    for optimizer in (ours, theirs):
        (p,) = params_of(optimizer)

        def closure(p: Tensor = p) -> Any:
            p.grad = None
            loss = (p**2).sum()
            loss.backward()
            return loss

        assert optimizer.step(closure) == 6
    assert seen == ["pre", "post"]
    assert_alike(ours, theirs, tolerance(name, torch.float32))


@pytest.mark.filterwarnings("ignore:Dynamo detected")
@names
def test_a_compiled_function_may_step(name: str) -> None:
    compiled, eager = (pair(name, [torch.ones(3, 2), torch.full((2, 2), 2.0)])[0] for _ in range(2))
    step = torch.compile(lambda: compiled.step(), backend="eager")
    for _ in range(2):
        for optimizer in (compiled, eager):
            give(params_of(optimizer), [torch.ones(3, 2), torch.ones(2, 2)])
        step()
        eager.step()
    assert_alike(compiled, eager, (0, 0))


class _Subclass(Tensor):
    """A tensor subclass, which need not know foreach functions."""


@names
def test_auto_runs_tensor_subclasses_in_the_for_loop(name: str) -> None:
    ours, theirs = (
        cls([torch.ones(3, 2).as_subclass(_Subclass)]) for cls in (ALGORITHMS[name], theirs_of(name))
    )
    step_both(ours, theirs, [torch.ones(3, 2).as_subclass(_Subclass)])
    assert_alike(ours, theirs, tolerance(name, torch.float32))
    assert ran(ours) == {"for_loop": 1}


@names
def test_nan_is_outside_every_range(name: str) -> None:
    for option in ("lr", "weight_decay"):
        for wrong in (torch.nan, -1.0):
            with pytest.raises(ValueError, match=f"{option} must be >= 0"):
                ALGORITHMS[name]([nn.Parameter(torch.ones(2, 2))], **{option: wrong})
    with pytest.raises(ValueError, match="Tensor lr must be 1-element"):
        ALGORITHMS[name]([nn.Parameter(torch.ones(2, 2))], lr=torch.ones(2))


def test_there_are_algorithms() -> None:
    assert {"Adafactor", "Muon"} <= set(NAMES)
