"""The check of tensors' kinds, by torch's private classes and without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim.execution.fused.guard import Check, same_kind, same_kind_in_python

FIRST, SECOND = torch.arange(12.0).reshape(3, 4), torch.ones(3, 4)
ALIKE = {"itself": FIRST, "another": torch.zeros(3, 4), "elsewhere": torch.zeros(13)[1:].view(3, 4)}
OTHERS: dict[str, Any] = {
    "missing": None,
    "no tensor": 1.0,
    "larger": torch.zeros(3, 5),
    "of other dimensions": torch.zeros(12),
    "transposed": torch.zeros(4, 3).t(),
    "with holes": torch.zeros(3, 8)[:, ::2],
    "expanded": torch.zeros(3, 1).expand(3, 4),
    "of another dtype": FIRST.double(),
    "complex": FIRST.to(torch.complex64),
    "on another device": FIRST.to("meta"),
    "sparse": FIRST.to_sparse(),
    "of a subclass": FIRST.as_subclass(type("Own", (Tensor,), {})),
    "negated without having been written": torch.zeros(3, 4, dtype=torch.complex64).conj().imag,
}
Made = Callable[[Sequence[Tensor]], Check]
MADE: list[Made] = [same_kind, same_kind_in_python]


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("case", ALIKE)
def test_alike(made: Made, case: str) -> None:
    assert made([FIRST, FIRST.double()])(ALIKE[case], ALIKE[case].double())


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("case", OTHERS)
def test_others(made: Made, case: str) -> None:
    check = made([FIRST, SECOND])
    assert not check(FIRST, OTHERS[case])
    assert not check(OTHERS[case], SECOND)
    assert check(SECOND, FIRST)


@pytest.mark.parametrize("made", MADE)
def test_lazy_conjugates(made: Made) -> None:
    wave = torch.zeros(3, dtype=torch.complex64)
    assert not made([wave])(wave.conj())
    assert not made([wave.conj()])(wave)
    assert made([wave.conj()])(wave.clone().conj())


@pytest.mark.parametrize("made", MADE)
def test_nothing_to_check(made: Made) -> None:
    assert made([])()


@pytest.mark.parametrize("made", MADE)
def test_scalars_and_empty_tensors(made: Made) -> None:
    scalar, empty = nn.Parameter(torch.ones(())).detach(), torch.zeros(0, 3)
    check = made([scalar, empty])
    assert check(torch.zeros(()), torch.ones(0, 3))
    assert not check(torch.zeros(1), empty)
    assert not check(scalar, torch.zeros(3, 0))
