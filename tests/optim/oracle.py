"""torch.optim as the oracle: option grids, inputs, tolerances, and a step compared with torch's.

What can be varied is read from the constructors, so a new algorithm is tested without a word here.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import product
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS
from optim_cli.optim.elementwise import Elementwise
from optim_cli.optim.hyperparameters import check_ranges
from optim_cli.optim.optimizer import Optimizer

Options = dict[str, Any]
Entries = dict[str, list[Tensor]]

# Elementwise algorithms that torch has too, and that take dense gradients.
NAMES = [
    name
    for name, cls in ALGORITHMS.items()
    if issubclass(cls, Elementwise) and cls.sparse_gradients != "required" and hasattr(torch.optim, name)
]

# What asks for an execution, in torch's words.
EXECUTIONS: dict[str, Options] = {
    "auto": {},
    "for_loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
# Where torch has no fused form, only our own switch can ask for it.
FUSED_HERE: Options = {"implementation": "fused"}

# (rtol, atol) of one step from equal parameters, gradients and states of size 1.
TOLERANCES = {
    # The same operations in another order or association: a few roundings of 2^-53 and 2^-24. The
    # absolute part is for sums that cancel; in float32 it also covers torch's float32 arithmetic on
    # step counts held in tensors, which makes 1 - 0.999 a relative 3e-5 wrong and the step 3e-5 * lr.
    torch.float64: (1e-13, 1e-14),
    torch.float32: (2e-6, 6e-6),
    # Our for-loop rounds once; torch and both foreach forms round after every operation, each time by
    # up to 2^-9, and a step chains about eight operations, on gradients of size 2 to 5.
    torch.bfloat16: (2**-5, 2**-6),
    # Pairs of float32. One option tensor of float64 makes torch's for-loop no more exact here.
    torch.complex64: (2e-6, 6e-6),
}
# One rounding to bfloat16 (2^-8, where a tie may fall either way) after float32 arithmetic.
ONE_ROUNDING = (2**-8, 1e-6)


def theirs_of(name: str) -> Any:
    """torch's class of that name."""
    return getattr(torch.optim, name)


def drift(name: str) -> tuple[float, float]:
    """(rtol, atol) of some steps of equal arithmetic on numbers of size 1 in float64.

    0-d states are float32 there. Ours round them once; torch rounds what they are computed from, too.
    """
    cls = ALGORITHMS[name]
    assert issubclass(cls, Elementwise)
    return (1e-11, 1e-11) if {*cls.zero_dim_state} <= {"step"} else (5e-7, 5e-7)


def takes(name: str, option: str) -> bool:
    """Whether an algorithm has that option."""
    return option in inspect.signature(ALGORITHMS[name]).parameters


def asked(name: str, execution: str) -> tuple[Options, Options]:
    """What asks ours and torch's for an execution; a fused form that torch lacks is not asked for there."""
    if execution == "fused" and not takes(name, "fused"):
        return FUSED_HERE, {}
    return EXECUTIONS[execution], EXECUTIONS[execution]


def combinations(name: str) -> list[Options]:
    """Every combination of an algorithm's options, but for the choice of the execution."""
    theirs = get_type_hints(theirs_of(name).__init__)
    ours = get_type_hints(ALGORITHMS[name].__init__, include_extras=True)
    choices: dict[str, list[Any]] = {}
    for option, parameter in inspect.signature(ALGORITHMS[name]).parameters.items():
        if option in ("params", "foreach", "fused") or option not in theirs:
            continue
        values = [*_values(name, option, ours[option], parameter.default)]
        if "Tensor" in str(theirs[option]):
            values.append(_as_tensors(values[0] or values[1]))
        choices[option] = values
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def _values(name: str, option: str, hint: Any, default: Any) -> list[Any]:
    if hint is bool:
        return [False, True]
    if choices := [x for part in get_args(hint) if get_origin(part) is Literal for x in get_args(part)]:
        return choices
    if option == "lr":
        return [0.125]  # with 0 no parameter would move, and less is lost in bfloat16
    if isinstance(default, tuple):
        return [default, _others(name, option, default)]
    if get_origin(hint) is Annotated or hint in (float, int):
        return [0.0, 0.3] if default == 0 else [default, _other(default)]
    raise AssertionError(f"no values known for {option}: {hint}")


def _other(default: float) -> float:
    """Another value: what is small may vanish, a rate is halved, a time is short enough to pass in a test."""
    if default < 0.01:
        return 0.0
    return default / 2 if default <= 1 else type(default)(1)


def _others(name: str, option: str, default: tuple[float | None, ...]) -> tuple[float | None, ...]:
    """Halves, or where the declared range does not allow that, twice the default."""
    found = default
    for index, number in enumerate(default):
        for value in () if number is None else (number / 2, number * 2):
            candidate = (*found[:index], value, *found[index + 1 :])
            with suppress(ValueError):
                check_ranges(ALGORITHMS[name], {option: candidate})
                found = candidate
                break
    return found


def _as_tensors(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_as_tensors(item) for item in value)
    return torch.tensor(value, dtype=torch.float64)


def fresh(options: Options, dtype: torch.dtype | None = None) -> Options:
    """Options with tensors of their own, so that no optimizer sees another's."""
    return {name: _fresh(value, dtype) for name, value in options.items()}


def _fresh(value: Any, dtype: torch.dtype | None) -> Any:
    if isinstance(value, tuple):
        return tuple(_fresh(item, dtype) for item in value)
    return value.to(dtype or value.dtype, copy=True) if isinstance(value, Tensor) else value


def plain(options: Options) -> Options:
    """The same arithmetic in the form that torch's for-loop accepts: numbers, no special modes."""
    modes = {mode: False for mode in ("capturable", "differentiable") if mode in options}
    return {name: _number(value) for name, value in options.items()} | modes


def drawn(grid: list[Options], generator: torch.Generator, count: int) -> list[Options]:
    """Some of a grid, without repetition."""
    order = torch.randperm(len(grid), generator=generator).tolist()
    return [grid[i] for i in order[:count]]


@cache
def arithmetics(name: str) -> list[Options]:
    """Combinations that torch accepts and that compute different things: few, with every three values."""
    found: dict[str, Options] = {}
    for options in map(plain, combinations(name)):
        with suppress(ValueError):
            theirs_of(name)([torch.ones(1)], **options)
            found[repr(options)] = options
    triples = {
        key: set(itertools.combinations([f"{option}={value}" for option, value in options.items()], 3))
        for key, options in found.items()
    }
    chosen, missing = [], set().union(*triples.values())
    while missing:
        best = max(triples, key=lambda key: len(triples[key] & missing))
        missing -= triples[best]
        chosen.append(found[best])
    return chosen


def _number(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_number(item) for item in value)
    return value.item() if isinstance(value, Tensor) else value


def tensors(generator: torch.Generator, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Values of size 1 in small shapes: 0-d, empty, contiguous, transposed, every second column."""
    wide = [_random(shape, dtype, generator) for shape in ((), (0,), (5,), (2, 3), (2, 6))]
    *others, transposed, columns = (x.to(dtype) for x in wide)
    return [*others, transposed.t(), columns[:, ::2]]


def like(values: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Other values of the same shapes and memory layouts."""
    return [x.clone().copy_(_random(x.shape, x.dtype, generator)) for x in values]


def _random(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    widest = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(tuple(shape), generator=generator, dtype=widest)


def parameters(values: Sequence[Tensor], requires_grad: bool = True) -> list[nn.Parameter]:
    """Parameters of their own memory, laid out as the values are."""
    params = []
    for value in values:
        memory = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).copy_(value)
        params.append(nn.Parameter(memory, requires_grad))
    return params


def give(params: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Set gradients, a copy for each parameter."""
    for p, g in zip(params, gradients, strict=True):
        p.grad = None if g is None else g.clone()


def params_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def entries(optimizer: torch.optim.Optimizer) -> Entries:
    """Parameters and state entries by name, in order of the parameters; not copied."""
    params = params_of(optimizer)
    found: Entries = {"p": [p.detach() for p in params]}
    for p in params:
        for name, value in optimizer.state.get(p, {}).items():
            found.setdefault(name, []).append(value.detach())
    return found


def copied(source: Entries) -> Entries:
    return {name: [x.clone() for x in values] for name, values in source.items()}


def align(optimizer: torch.optim.Optimizer, reference: Entries) -> None:
    """Overwrite parameters and states with those of the reference."""
    with torch.no_grad():
        for name, values in entries(optimizer).items():
            for x, y in zip(values, reference[name], strict=True):
                x.copy_(y)


def difference(ours: Entries, reference: Entries, tolerance: tuple[float, float]) -> str | None:
    """The first entry that differs, in words, or None.

    The absolute part is for values of size 1; where larger ones stand in an entry, it grows with the largest.
    """
    rtol, atol = tolerance
    if list(map(len, ours.values())) != [len(reference.get(name, ())) for name in ours] or len(ours) != len(
        reference
    ):
        return f"entries {_counted(ours)} instead of {_counted(reference)}"
    x, y = _flat(ours), _flat(reference, list(ours))
    if torch.allclose(x, y, *tolerance, equal_nan=True):
        return None
    for name, values in ours.items():
        x, y = _flat({name: values}), _flat({name: reference[name]})
        largest = y[y.isfinite()].abs().max().item() if y.isfinite().any() else 0.0
        if not torch.allclose(x, y, rtol, atol * max(1.0, largest), equal_nan=True):
            worst = (x - y).abs().max().item()
            return f"{name} differs by up to {worst:.3g}: {x.tolist()} instead of {y.tolist()}"
    return None


def _counted(found: Entries) -> dict[str, int]:
    return {name: len(values) for name, values in found.items()}


def _flat(found: Entries, order: Sequence[str] | None = None) -> Tensor:
    pieces = [x.reshape(-1) for name in order or found for x in found[name]]
    pieces = [torch.view_as_real(x).reshape(-1) if x.is_complex() else x for x in pieces]
    return torch.cat([x.double() if x.dtype != torch.float64 else x for x in pieces])


def assert_close(
    ours: torch.optim.Optimizer,
    theirs: torch.optim.Optimizer,
    tolerance: tuple[float, float] | None = None,
    context: str = "",
) -> None:
    """Parameters and every state entry agree; the tolerance defaults to that of one step."""
    dtypes = {p.dtype.to_real() for p in params_of(theirs)}
    loosest = max((TOLERANCES[dtype] for dtype in dtypes), default=(0.0, 0.0))
    found = difference(entries(ours), entries(theirs), tolerance or loosest)
    assert found is None, f"{context} {found}"


def ran(optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Which executions of ours ran, and how often."""
    assert isinstance(optimizer, Optimizer)
    return dict(optimizer.executions)


def pair(
    name: str, values: Sequence[Tensor], options: Options | None = None, ours: Options | None = None
) -> tuple[Optimizer, torch.optim.Optimizer]:
    """Our optimizer and torch's on parameters of equal values; `ours` holds options for ours alone."""
    options = options or {}
    mine = ALGORITHMS[name](parameters(values), **fresh(options), **(ours or {}))
    return mine, theirs_of(name)(parameters(values), **fresh(options))


def step_both(
    ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer, gradients: Sequence[Tensor | None]
) -> None:
    """One step each on equal gradients."""
    for optimizer in (ours, theirs):
        give(params_of(optimizer), gradients)
        optimizer.step()
