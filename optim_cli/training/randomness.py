"""The generators of random numbers that a run, or a user's code in it, may draw from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_generators(seed: int) -> None:
    """Seed them all: Python's, numpy's global one, torch's of every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # it takes no more
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Where they all are, in types that `weights_only=True` accepts."""
    name, key, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.tensor(np.asarray(key, np.int64)), *rest),
        "torch": torch.get_rng_state(),
        # Asking would start CUDA in a run that does without.
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put them where they were; a device that is not in use now is left out."""
    random.setstate(state["python"])
    name, key, *rest = state["numpy"]
    np.random.set_state((name, key.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_initialized():
        for device, generator in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
            torch.cuda.set_rng_state(generator, device)


@contextmanager
def undisturbed() -> Iterator[None]:
    """What is drawn inside leaves no trace outside."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
