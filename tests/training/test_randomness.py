"""Every generator comes back to where it was, by way of a file too."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from optim_cli.training.randomness import random_state, seed_generators, set_random_state, undisturbed


@pytest.fixture(autouse=True)
def _leave_no_trace() -> Iterator[None]:
    with undisturbed():
        yield


def draw() -> list[float]:
    """Odd numbers of draws: of a pair of Gaussians the second is kept for later."""
    return [
        *(random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()),
        *torch.rand(3).tolist(),
        *torch.randn(17).tolist(),
    ]


def test_there_and_back(tmp_path: Path, seed: int) -> None:
    seed_generators(seed)
    draw()
    torch.save(random_state(), tmp_path / "state.pt")
    expected = [draw() for _ in range(3)]
    seed_generators(seed + 1)
    draw()
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [draw() for _ in range(3)] == expected


@pytest.mark.parametrize("large", [0, 2**63 - 1, 2**32 + 5])
def test_seeds(large: int) -> None:
    seed_generators(large)
    first = draw()
    assert first != draw()
    seed_generators(large)
    assert draw() == first


def test_undisturbed(seed: int) -> None:
    seed_generators(seed)
    expected = draw()
    seed_generators(seed)
    with suppress(ZeroDivisionError), undisturbed():
        draw()
        raise ZeroDivisionError
    assert draw() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda(seed: int) -> None:
    seed_generators(seed)
    torch.rand(5, device="cuda")
    state = random_state()
    assert len(state["cuda"]) == torch.cuda.device_count()
    expected = torch.rand(9, device="cuda")
    torch.rand(5, device="cuda")
    set_random_state(state)
    assert torch.equal(torch.rand(9, device="cuda"), expected)
