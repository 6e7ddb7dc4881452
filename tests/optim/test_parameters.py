"""Which tensors may be parameters, and what happens to those that miss steps, move or are of mixed kinds."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS
from tests.optim.oracle import (
    NAMES,
    TOLERANCES,
    Options,
    arithmetics,
    assert_close,
    difference,
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

IMPLEMENTATIONS = ("for_loop", "foreach", "auto")

implementations = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
names = pytest.mark.parametrize("name", NAMES)


@implementations
@names
def test_a_parameter_without_gradient_misses_the_step(
    name: str, implementation: str, generator: torch.Generator
) -> None:
    """Each has its own count of steps; one never has a gradient."""
    values = tensors(generator, torch.float64)
    for options in arithmetics(name):
        ours, theirs = pair(name, values, options, {"implementation": implementation})
        for step in range(7):
            gradients: list[Tensor | None] = [*like(values, generator)]
            gradients[0] = None
            gradients[2] = None if step % 2 == 0 else gradients[2]
            gradients[3] = None if step < 3 else gradients[3]
            step_both(ours, theirs, gradients)
        assert_close(ours, theirs, drift(name), str(options))
        assert torch.equal(params_of(ours)[0], values[0])
        assert (params_of(ours)[0] in ours.state) == (params_of(theirs)[0] in theirs.state)
        expected = "foreach" if implementation == "auto" else implementation
        assert set(ran(ours)) == {expected}
        assert ran(ours)[expected] >= 7


@names
def test_a_step_without_any_gradient_does_nothing(name: str) -> None:
    ours, theirs = pair(name, [torch.ones(3)])
    step_both(ours, theirs, [None])
    assert_close(ours, theirs, (0, 0))
    assert ran(ours) == {}


@implementations
@names
def test_gradients_are_never_overwritten(name: str, implementation: str, generator: torch.Generator) -> None:
    values = tensors(generator)
    for options in arithmetics(name):
        for tensor_lr in (False, True):
            lr = torch.tensor(0.1, dtype=torch.float64) if tensor_lr else 0.1
            params = parameters(values)
            ours = ALGORITHMS[name](params, **options | {"lr": lr}, implementation=implementation)
            for _ in range(2):
                gradients = like(values, generator)
                give(params, gradients)
                places = [p.grad.data_ptr() for p in params if p.grad is not None]
                ours.step()
                after = [p.grad for p in params if p.grad is not None]
                assert all(map(torch.equal, after, gradients)), options
                assert [g.data_ptr() for g in after] == places
            assert sum(ran(ours).values()) == 2


@implementations
@names
def test_memory_layouts_are_kept(name: str, implementation: str, generator: torch.Generator) -> None:
    image = torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last)
    values = [image, torch.randn(4, 3, generator=generator).t(), torch.randn(6, generator=generator)[::2]]
    # Gradients in other layouts than their parameters.
    gradients = [image.contiguous() * 0.5, values[1].contiguous() + 1, torch.ones(3)]
    for options in arithmetics(name):
        ours, theirs = pair(name, values, options, {"implementation": implementation})
        for _ in range(2):
            step_both(ours, theirs, gradients)
        assert_close(ours, theirs, None, str(options))
        for p, value in zip(params_of(ours), values, strict=True):
            assert p.stride() == value.stride()
            # torch's SGD gives its buffer the gradient's layout; ours is always the parameter's.
            for key, x in ours.state[p].items():
                assert x.dim() == 0 or x.stride() == torch.empty_like(p).stride(), (options, key)
        assert ran(ours) == {"foreach" if implementation == "auto" else implementation: 2}


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@implementations
@names
def test_complex_parameters(
    name: str, implementation: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    shapes = ((), (3,), (2, 2))
    for options in arithmetics(name):
        values = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
        ours, theirs = pair(name, values, options, {"implementation": implementation})
        for _ in range(3):
            step_both(ours, theirs, [torch.randn(x.shape, generator=generator, dtype=dtype) for x in values])
            assert_close(
                ours, theirs, (2e-5, 2e-5) if dtype == torch.complex64 else drift(name), str(options)
            )
        pairs = [key for key in entries(ours) if key not in ALGORITHMS[name].zero_dim_state]
        assert all(x.dtype == dtype for key in pairs for x in entries(ours)[key])
        assert ran(ours) == {"foreach" if implementation == "auto" else implementation: 3}


@implementations
@names
def test_dtypes_may_be_mixed_in_a_group(name: str, implementation: str, generator: torch.Generator) -> None:
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.float32)
    values = [torch.randn(3, generator=generator, dtype=torch.float64).to(dtype) for dtype in dtypes]
    ours, theirs = pair(name, values, None, {"implementation": implementation})
    for _ in range(2):
        step_both(ours, theirs, [torch.randn(3, generator=generator).to(dtype) for dtype in dtypes])
    for key, found in entries(ours).items():
        for x, y in zip(found, entries(theirs)[key], strict=True):
            assert x.dtype == y.dtype
            torch.testing.assert_close(x, y, rtol=2**-6, atol=2**-7)
    assert set(ran(ours)) == {"foreach" if implementation == "auto" else implementation}


@pytest.mark.parametrize("implementation", ["auto", "foreach", "for_loop"])
def test_a_state_wider_than_its_parameter_keeps_its_precision(
    implementation: str, generator: torch.Generator
) -> None:
    """float32 moments beside bfloat16 parameters: torch does not have it, its float32 run is the oracle."""
    value = torch.randn(64, generator=generator).bfloat16()
    for name in ("SGD", "Adam"):
        options = {"momentum": 0.9, "lr": 0.1} if name == "SGD" else {"lr": 0.1}
        ours, theirs = pair(name, [value], options, {"implementation": implementation})
        wide = theirs_of(name)([value.float()], **options)
        step_both(ours, theirs, [torch.ones(64, dtype=torch.bfloat16)])
        give(params_of(wide), [torch.ones(64)])
        wide.step()
        for optimizer in (ours, wide):
            state = optimizer.state[params_of(optimizer)[0]]
            for key in state:
                if key != "step":
                    state[key] = torch.rand(64, generator=torch.Generator().manual_seed(1)) + 1
        with torch.no_grad():
            params_of(wide)[0].copy_(params_of(ours)[0])
        g = torch.randn(64, generator=generator).bfloat16()
        give(params_of(ours), [g])
        give(params_of(wide), [g.float()])
        told = pytest.warns(UserWarning, match="foreach wants one dtype .*for_loop runs instead")
        with told if implementation == "foreach" else nullcontext():
            ours.step()
        wide.step()
        for key, found in entries(ours).items():
            rounded = TOLERANCES[torch.float32] if key != "p" else (2**-8, 1e-6)
            torch.testing.assert_close(
                found[0].float(), entries(wide)[key][0].float(), rtol=rounded[0], atol=rounded[1]
            )
        assert entries(ours)["momentum_buffer" if name == "SGD" else "exp_avg"][0].dtype == torch.float32
        assert ran(ours)["for_loop"] >= 1


@names
def test_step_counts_set_by_hand_count(name: str, generator: torch.Generator) -> None:
    values = tensors(generator, torch.float64)
    for replace in (True, False):
        ours, theirs = pair(name, values)
        step_both(ours, theirs, like(values, generator))
        if not any("step" in state for state in ours.state.values()):
            pytest.skip(f"{name} counts no steps")
        for optimizer in (ours, theirs):
            state = optimizer.state[params_of(optimizer)[2]]
            if replace:
                state["step"] = torch.tensor(100.0)
            else:
                state["step"].fill_(100)
        for _ in range(2):
            step_both(ours, theirs, like(values, generator))
        assert_close(ours, theirs, TOLERANCES[torch.float32])
        assert entries(ours)["step"][2] == 102
        assert entries(ours)["step"][0] == 3
        assert ran(ours)["foreach"] >= 3


@names
def test_state_moves_to_a_new_parameter(name: str, generator: torch.Generator) -> None:
    """As Gaussian splatting does when it adds and removes points."""
    values = tensors(generator, torch.float64)
    for options in arithmetics(name):
        ours, theirs = pair(name, values, options)
        step_both(ours, theirs, like(values, generator))
        grown = torch.randn(9, generator=generator, dtype=torch.float64)
        keep = torch.tensor([0, 1, 4, 2, 2, 3, 3, 3, 0])
        for optimizer in (ours, theirs):
            old = params_of(optimizer)[2]
            state = optimizer.state.pop(old, None)
            new = nn.Parameter(grown.clone())
            optimizer.param_groups[0]["params"][2] = new
            if state is not None:
                moved = {key: x[keep] if x.dim() else x for key, x in state.items()}
                optimizer.state[new] = moved
        gradients = like(values, generator)
        gradients[2] = torch.randn(9, generator=generator, dtype=torch.float64)
        for _ in range(3):
            step_both(ours, theirs, gradients)
        assert_close(ours, theirs, drift(name), str(options))
        assert ran(ours)["foreach"] >= 4


# Where an infinity of torch's for-loop may be NaN here: the average of infinite parameters, which torch's
# foreach form loses one step later, and a gradient that has changed its sign.
LOST = {"ASGD": ("p", "ax"), "Rprop": ("prev",)}


def lost_with(name: str, options: Options) -> tuple[str, ...]:
    """Also parameters under decoupled weight decay, as in torch's fused form: infinity less infinity."""
    decoupled = name == "AdamW" or options.get("decoupled_weight_decay")
    return (*LOST.get(name, ()), *["p"] * bool(decoupled and options["weight_decay"]))


@names
def test_nan_and_infinity_stay_where_torch_has_them(name: str) -> None:
    inf, nan = torch.inf, torch.nan
    values = [torch.tensor([1.0, inf, nan, -inf, 0.0, 0.0, 1.0, 0.0, inf])]
    gradients = [torch.tensor([nan, 1.0, 1.0, inf, -inf, 0.0, 0.0, 1e30, -inf])]
    for options in arithmetics(name):
        for implementation in IMPLEMENTATIONS:
            ours, theirs = pair(name, values, options, {"implementation": implementation})
            for _ in range(3):
                step_both(ours, theirs, gradients)
                held, expected = entries(ours), entries(theirs)
                for key in lost_with(name, options):
                    (lost,), (kept,) = held.pop(key), expected.pop(key)
                    finite = kept.isfinite() & lost.isfinite()
                    assert not (lost.isnan() & kept.isfinite() & ~gradients[0].isinf()).any()
                    torch.testing.assert_close(lost[finite], kept[finite], rtol=1e-4, atol=1e-4)
                found = difference(held, expected, (1e-4, 1e-4))
                assert found is None, f"{implementation} {options}: {found}"
            assert sum(ran(ours).values()) == 3


class _Counting(Tensor):
    """A tensor subclass, which torch's `auto` runs in the for-loop."""

    seen: list[str] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen.append(getattr(func, "__name__", ""))
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


@names
def test_auto_runs_tensor_subclasses_in_the_for_loop_as_torch_does(name: str) -> None:
    ours, theirs = (
        cls([torch.ones(3).as_subclass(_Counting)]) for cls in (ALGORITHMS[name], theirs_of(name))
    )
    _Counting.seen.clear()
    step_both(ours, theirs, [torch.ones(3).as_subclass(_Counting)])
    assert not [function for function in _Counting.seen if "foreach" in function]
    assert ran(ours) == {"for_loop": 1}
    assert_close(ours, theirs)


@names
def test_tensors_of_two_sizes_share_a_call(name: str) -> None:
    """A list is worked through in portions; one larger than a portion goes alone."""
    values = [torch.ones(n) for n in (3, 300_000, 5, 100, 200_000)]
    ours, theirs = pair(name, values)
    step_both(ours, theirs, [x * 0.5 for x in values])
    assert_close(ours, theirs)
    assert ran(ours) == {"foreach": 1}
