"""Random draws that depend on what they are for, not on how many were drawn before.

`hash64(seed, epoch, sample)` is a number of its own for each sample in each epoch. Nothing has to
be stored for a resumed run, and neither batch size nor device nor workers can change a draw.

The hash chains SplitMix64: the (w + 1)-th output of the generator with state s is
mix64(s + (w + 1) * GOLDEN), and that output is the state for the next word.

Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014; finaliser
with the constants of Vigna's https://prng.di.unimi.it/splitmix64.c.
"""

import torch
from torch import Tensor


def _signed(word: int) -> int:
    """The int64 with the bits of `word` modulo 2**64: torch multiplies only signed words."""
    return (word + 2**63) % 2**64 - 2**63


GOLDEN = _signed(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio, made odd
MULTIPLIER1 = _signed(0xBF58476D1CE4E5B9)
MULTIPLIER2 = _signed(0x94D049BB133111EB)


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Logical shift: `>>` of int64 would draw copies of the sign bit in."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def mix64(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection of the int64 numbers, elementwise."""
    bits = (bits ^ _shift_right(bits, 30)) * MULTIPLIER1
    bits = (bits ^ _shift_right(bits, 27)) * MULTIPLIER2
    return bits ^ _shift_right(bits, 31)


def _next(state: Tensor, word: int | Tensor) -> Tensor:
    if isinstance(word, int):
        return mix64(state + _signed((word + 1) * GOLDEN))
    return mix64(state + (word + 1) * GOLDEN)


def hash64(*words: int | Tensor) -> Tensor:
    """Hash of non-negative integers as int64; a tensor among the words is hashed elementwise.

    All-int words give a 0-d tensor on the CPU. Words of any size are taken modulo 2**64.
    """
    state = torch.zeros((), dtype=torch.int64)
    for word in words:
        state = _next(state, word)
    return state


class Draws:
    """Numbered random draws of samples in one epoch.

    Args:
        index: sample numbers, int64 [N], on the device where the draws are wanted.
    """

    def __init__(self, seed: int, epoch: int, index: Tensor) -> None:
        self._states = hash64(seed, epoch, index)

    def integers(self, draw: int, bound: int) -> Tensor:
        """Draw number `draw` of each sample: int64 [N], uniform in 0 .. bound - 1.

        (The remainder favours small numbers by less than bound / 2**63.)
        """
        return _shift_right(_next(self._states, draw), 1) % bound


def permutation(count: int, seed: int, epoch: int) -> Tensor:
    """The order of `count` samples in an epoch, int64 [count] on the CPU."""
    generator = torch.Generator().manual_seed(int(hash64(seed, epoch)))
    return torch.randperm(count, generator=generator)
