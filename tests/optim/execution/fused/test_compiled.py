"""Kernels compiled for an H200's kind of GPU on a machine without any: wide accesses, exact arithmetic."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402

from optim_cli.optim import ALGORITHMS  # noqa: E402
from optim_cli.optim.elementwise import Elementwise  # noqa: E402
from optim_cli.optim.execution.fused.kernels import WARPS, compiled  # noqa: E402
from optim_cli.optim.execution.fused.printer import Form, Texts, print_norm  # noqa: E402
from optim_cli.optim.execution.variant import Variant  # noqa: E402
from optim_cli.optim.swa_utils import InverseGammaWarmup, PowerWarmup, Warmup  # noqa: E402
from tests.optim.oracle import NAMES, arithmetics  # noqa: E402

SM_90 = GPUTarget("cuda", 90, 32)
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
# What a step may do around the rule.
AROUND = {"skippable": True, "unscaled": True, "normed": True, "averaged": True}


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def variants(name: str, around: bool = False) -> list[Variant]:
    """Every program that an algorithm's options make."""
    cls = ALGORITHMS[name]
    assert issubclass(cls, Elementwise)
    found = []
    for options in arithmetics(name):
        [group] = cls([torch.nn.Parameter(torch.zeros(1))], **options).param_groups
        decay = {"weight_decay": 1.0} if "weight_decay" in group else {}
        found.append(cls.variant_of(group | decay, around, around))
    return list(dict.fromkeys(found))


def texts_of(name: str, variant: Variant, dtype: torch.dtype, aligned: bool = True, **around: Any) -> Texts:
    cls = ALGORITHMS[name]
    assert issubclass(cls, Elementwise)
    columns = len(variant.program.inputs) + around.get("averaged", False)
    form = Form((dtype,) * columns, torch.float32, aligned=aligned, **around)
    return Texts(variant.program, variant.texts[0], cls.zero_dim_state, form)


def assembled(text: str, name: str) -> str:
    ptx: str = compiled(text, name, SM_90).asm["ptx"]
    return ptx


def accesses(ptx: str, kind: str) -> Iterator[str]:
    """Loads or stores of global memory, by element or by vector."""
    return iter(re.findall(rf"{kind}\.global[\w.:]*", ptx))


def assert_exact(ptx: str) -> None:
    """Divisions and square roots of floats are rounded as IEEE has it."""
    found = set(re.findall(r"\b(?:div|sqrt|rsqrt|rcp)\.[\w.]*", ptx))
    # The last one is what a logarithm in float64 begins with.
    exact = r"(div|sqrt|rcp)\.rn\.f(32|64)|div\.[su]\d+|rcp\.approx\.ftz\.f64"
    assert not [x for x in found if not re.fullmatch(exact, x)]


def bytes_of(access: str) -> int:
    """How many bytes a thread moves."""
    count = int((re.search(r"\.v(\d)", access) or ["", "1"])[1])
    bits = int((re.search(r"\.[bfsu](\d+)$", access) or ["", "0"])[1])
    return count * bits // 8


def check_update(name: str, variant: Variant, dtype: torch.dtype, **around: bool) -> None:
    """Each tensor is read and written in 16 bytes, but where a block is not full."""
    texts = texts_of(name, variant, dtype, **around)
    ptx = assembled(texts.update("update"), "update")
    assert_exact(ptx)
    # A thread has eight elements of each tensor.
    each = 1024 // (32 * WARPS) * dtype.itemsize // 16
    stored = len(variant.program.outputs) + around.get("averaged", False)
    for kind, tensors in (("ld", len(texts.columns)), ("st", stored)):
        wide = [x for x in accesses(ptx, kind) if bytes_of(x) == 16]
        assert len(wide) == each * tensors, f"{kind}: {sorted(accesses(ptx, kind))}"


@pytest.mark.parametrize("name", NAMES)
def test_programs(name: str, generator: torch.Generator, pytestconfig: pytest.Config) -> None:
    """One of those that an algorithm's flags make, all of them with `--all-combinations`."""
    every = variants(name)
    count = len(every) if pytestconfig.getoption("--all-combinations") else 1
    for index in torch.randperm(len(every), generator=generator).tolist()[:count]:
        check_update(name, every[index], torch.float32)


@pytest.mark.parametrize("name", ["AdamW", "ASGD", "RAdam"])
def test_prologues(name: str) -> None:
    texts = texts_of(name, variants(name)[0], torch.float32)
    assert_exact(assembled(texts.prologue("prologue"), "prologue"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_with_all_around(dtype: torch.dtype) -> None:
    check_update("AdamW", variants("AdamW", around=True)[0], dtype, **AROUND)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_averages_of_narrow_parameters(dtype: torch.dtype) -> None:
    """All 16 bytes wide: those of the average are twice as many."""
    [variant, *_] = variants("AdamW", around=True)
    columns = len(variant.program.inputs)
    form = Form((*[dtype] * columns, torch.float32), torch.float32, **AROUND)  # type: ignore[arg-type]
    texts = Texts(variant.program, variant.texts[0], ("step",), form)
    ptx = assembled(texts.update("update"), "update")
    assert_exact(ptx)
    for kind, tensors in (("ld", columns), ("st", len(variant.program.outputs))):
        assert len([x for x in accesses(ptx, kind) if bytes_of(x) == 16]) == tensors + 2


@pytest.mark.parametrize("warmup", [InverseGammaWarmup, PowerWarmup])
def test_an_average_that_warms_up(warmup: type[Warmup]) -> None:
    """Its weight is the prologue's, in float64; the update knows nothing of it."""
    [variant, *_] = variants("AdamW", around=True)
    plain, warm = (texts_of("AdamW", variant, torch.float32, **AROUND, warmup=x) for x in (None, warmup))
    assert warm.update("update") == plain.update("update")
    ptx = assembled(warm.prologue("prologue"), "prologue")
    assert_exact(ptx)
    assert len(re.findall(r"\.f64", ptx)) > len(re.findall(r"\.f64", assembled(plain.prologue("p"), "p")))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unaligned_tensors_are_accessed_by_element(dtype: torch.dtype) -> None:
    [variant, *_] = variants("AdamW")
    ptx = assembled(texts_of("AdamW", variant, dtype, aligned=False).update("update"), "update")
    assert_exact(ptx)
    assert not [x for kind in ("ld", "st") for x in accesses(ptx, kind) if ".v" in x]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_norm(dtype: torch.dtype) -> None:
    [variant, *_] = variants("AdamW", around=True)
    texts = texts_of("AdamW", variant, dtype, **AROUND)
    ptx = assembled(print_norm("norm", texts), "norm")
    assert_exact(ptx)
    each = 1024 // (32 * WARPS) * dtype.itemsize // 16
    assert len([x for x in accesses(ptx, "ld") if bytes_of(x) == 16]) == each
