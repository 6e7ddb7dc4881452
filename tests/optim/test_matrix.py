"""Every algorithm, option combination, dtype and execution against torch.optim, step by step.

Some combinations are drawn for each; `--all-combinations` compares them all. Parameters and states are set
to torch's after each step, so that each step is compared by itself. Where torch refuses a combination that
we accept (capturable on a CPU, tensors with foreach), its for-loop with the same numbers is the reference.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from optim_cli.optim import ALGORITHMS
from tests.optim.oracle import (
    EXECUTIONS,
    NAMES,
    ONE_ROUNDING,
    TOLERANCES,
    Entries,
    Options,
    align,
    arithmetics,
    asked,
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
    tensors,
    theirs_of,
)

STEPS = 3
DRAWN = 15
REFUSALS = (ValueError, RuntimeError, AssertionError)


@pytest.fixture(params=TOLERANCES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """float64 is also the default dtype of its tests, as torch keeps step counts in that."""
    chosen: torch.dtype = request.param
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if chosen == torch.float64 else default)
    yield chosen
    torch.set_default_dtype(default)


def trajectory(
    name: str, options: Options, values: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]
) -> list[Entries] | Exception:
    """What torch holds after each step, or how it refuses."""
    try:
        theirs = build(theirs_of(name), options, values)
        held = []
        for now in gradients:
            give(params_of(theirs), now)
            theirs.step()
            held.append(copied(entries(theirs)))
        return held
    except REFUSALS as refusal:
        return refusal


def build(cls: Any, options: Options, values: Sequence[Tensor]) -> torch.optim.Optimizer:
    # Autograd refuses to change leaves that require a gradient in place, as `differentiable` does.
    params = parameters(values, requires_grad=not options.get("differentiable"))
    optimizer: torch.optim.Optimizer = cls(params, **fresh(options))
    return optimizer


def compare(
    ours: torch.optim.Optimizer,
    reference: Sequence[Entries],
    gradients: Sequence[Sequence[Tensor]],
    tolerance: tuple[float, float],
) -> str | None:
    """Step, compare, align; what differs first, or None."""
    for index, (now, expected) in enumerate(zip(gradients, reference, strict=True), start=1):
        params = params_of(ours)
        give(params, now)
        ours.step()
        if not all(torch.equal(p.grad, g) for p, g in zip(params, now, strict=True) if p.grad is not None):
            return f"step {index}: a gradient was overwritten"
        found = difference(entries(ours), expected, tolerance)
        if found is not None:
            return f"step {index}: {found}"
        align(ours, expected)
    return None


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_torch(
    name: str,
    dtype: torch.dtype,
    execution: str,
    generator: torch.Generator,
    matrix: list[tuple[str, ...]],
    request: pytest.FixtureRequest,
) -> None:
    values = tensors(generator, dtype)
    if execution == "fused":
        # torch's fused kernels for the CPU take the memory of every tensor for dense.
        values = [x.contiguous() for x in values]
    gradients = [like(values, generator) for _ in range(STEPS)]
    if dtype == torch.bfloat16:
        # A sum of gradient and weight decay that cancels is all rounding error, which a division by its
        # own size makes large: gradients are large enough for it not to.
        gradients = [[g + 2 * g.sign() for g in now] for now in gradients]
    failures: list[str] = []
    references: dict[str, list[Entries] | Exception] = {}
    compared = refused = both = 0
    grid = combinations(name)
    if not request.config.getoption("--all-combinations"):
        # Some that nobody refuses among them: of SGD's, all that are drawn may be refused.
        grid = drawn(arithmetics(name), generator, 2) + drawn(grid, generator, DRAWN)
    asking, asking_torch = asked(name, execution)
    for chosen in grid:
        options = chosen | asking
        reference = trajectory(name, chosen | asking_torch, values, gradients)
        recorded = chosen.get("differentiable") and execution in ("foreach", "fused")
        refusal = None
        if isinstance(reference, Exception) or recorded:
            refused += 1
            refusal = reference
            numbers = plain(chosen)
            key = repr(numbers)
            if key not in references:
                references[key] = trajectory(name, numbers | {"foreach": False}, values, gradients)
            reference = references[key]
            if recorded:  # torch refuses in words of many kinds, at construction or in a step, or not at all
                refusal = reference if isinstance(reference, Exception) else RuntimeError()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "[A-Za-z]+: no fused execution")
                ours = build(ALGORITHMS[name], options, values)
                if isinstance(reference, Exception):
                    failures.append(f"{options}: accepted, though not even torch's for-loop does")
                    continue
                found = compare(ours, reference, gradients, TOLERANCES[dtype])
        except REFUSALS as error:
            if refusal is None or type(error) is not type(refusal):
                failures.append(f"{options}: {error!r}, torch: {refusal!r}")
            both += 1
            continue
        expected = "for_loop" if execution == "for_loop" or options.get("differentiable") else "foreach"
        if found is None and ran(ours) != {expected: STEPS}:
            found = f"ran {ran(ours)} instead of {expected}"
        if found is not None:
            failures.append(f"{options}: {found}")
        compared += 1
    counts = map(str, (len(grid), compared, refused, both))
    matrix.append((name, str(dtype).removeprefix("torch."), execution, *counts))
    assert not failures, f"{len(failures)} of {len(grid)} differ:\n" + "\n".join(failures[:5])
    assert compared > len(grid) / 20
    assert compared + both == len(grid)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_rounds_once(name: str, generator: torch.Generator) -> None:
    """The for-loop in bfloat16 is torch's in float32 on the same inputs, rounded at the store."""
    values = tensors(generator, torch.bfloat16)
    gradients = [like(values, generator) for _ in range(STEPS)]
    compared = 0
    grid = drawn(combinations(name), generator, DRAWN)
    for options in grid:
        try:
            theirs = build(theirs_of(name), plain(options) | {"foreach": False}, [x.float() for x in values])
        except ValueError:
            continue
        ours = build(ALGORITHMS[name], options | EXECUTIONS["for_loop"], values)
        align(theirs, entries(ours))
        for now in gradients:
            give(params_of(theirs), [g.float() for g in now])
            give(params_of(ours), now)
            theirs.step()
            ours.step()
            found = difference(entries(ours), entries(theirs), ONE_ROUNDING)
            assert found is None, f"{options}: {found}"
            align(theirs, entries(ours))
        assert ran(ours) == {"for_loop": STEPS}
        compared += 1
    assert compared > len(grid) / 20


def test_grid_is_large() -> None:
    assert NAMES
    assert {"SGD", "Adam", "AdamW", "RMSprop"} <= set(NAMES)
    assert sum(len(combinations(name)) for name in NAMES) > 1500
    assert all(len(combinations(name)) >= 16 for name in NAMES)
