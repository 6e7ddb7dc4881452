"""Without Triton, or with kernels that do not compile: foreach runs, which is told once."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest
import torch

from optim_cli.optim import fusing
from optim_cli.optim.execution.fused import kernels
from tests.optim.execution.fused.interpreted.side_by_side import SOME, assert_same, both, values_of
from tests.optim.oracle import like, ran, step_both

some = pytest.mark.parametrize("name", SOME)


@pytest.fixture
def without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [x for x in sys.modules if x.startswith("optim_cli.optim.execution.fused.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "triton", None)


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(fusing, "_kernels", {})
    monkeypatch.setattr(kernels, "Kernels", refuse)


def steps(name: str, generator: torch.Generator, count: int = 3) -> tuple[Any, Any]:
    fused, loop = both(name, values_of(generator))
    for _ in range(count):
        step_both(fused, loop, like(values_of(generator), generator))
        assert_same(fused, loop)
    return fused, loop


@pytest.mark.usefixtures("without_triton")
@some
def test_without_triton(name: str, generator: torch.Generator) -> None:
    with pytest.warns(UserWarning, match="no fused execution here, since Triton is not there") as told:
        fused, _ = steps(name, generator)
    assert len([x for x in told if "Triton" in str(x.message)]) == 1
    assert f"{name}: " in str(told[0].message)
    assert ran(fused) == {"foreach": 3}
    assert not fused.launches


@pytest.mark.usefixtures("without_compiler")
@some
def test_without_a_compiler(name: str, generator: torch.Generator, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.warns(
        UserWarning, match=r"its kernel does not compile \(Failed to find C compiler\)"
    ) as told:
        fused, _ = steps(name, generator)
    assert len([x for x in told if "compile" in str(x.message)]) == 1
    assert ran(fused) == {"foreach": 3}
    [record] = caplog.records
    assert record.getMessage() == f"{name}: a fused kernel does not compile"
    assert record.exc_info is not None


def test_a_kernel_that_is_needed_later(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and states go on from what kernels have left."""
    values = values_of(generator)
    fused, loop = both("NAdam", values)
    for _ in range(3):
        step_both(fused, loop, like(values, generator))

    def refuse(*_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(kernels, "Kernels", refuse)
    monkeypatch.setattr(fusing, "_kernels", {})
    for optimizer in (fused, loop):
        optimizer.param_groups[0]["maximize"] = True
    with pytest.warns(UserWarning, match="foreach runs instead"):
        step_both(fused, loop, like(values, generator))
    for _ in range(2):
        step_both(fused, loop, like(values, generator))
        assert_same(fused, loop)
    assert ran(fused) == {"fused": 3, "foreach": 3}


@pytest.mark.usefixtures("without_compiler")
def test_clipping_and_averaging_go_on(generator: torch.Generator) -> None:
    values = values_of(generator)
    fused, loop = both("AdamW", values)
    for optimizer in (fused, loop):
        optimizer.clip_gradients(0.5, 0.1)
    with pytest.warns(UserWarning, match="foreach runs instead"):
        step_both(fused, loop, like(values, generator))
    step_both(fused, loop, like(values, generator))
    assert_same(fused, loop)
    torch.testing.assert_close(fused.grad_norm, loop.grad_norm)


def test_nothing_is_told_where_it_works(generator: torch.Generator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps("AdamW", generator)
