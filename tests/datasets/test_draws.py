import torch
from hypothesis import given
from hypothesis import strategies as st

from optim_cli.datasets.draws import Draws, hash64, mix64, permutation

WORDS = st.integers(0, 2**64 - 1)


def splitmix64(state: int) -> int:
    """Vigna's finaliser in Python's unbounded integers."""
    z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def signed(bits: int) -> int:
    return bits - 2**64 if bits >= 2**63 else bits


@given(WORDS)
def test_mix64_is_splitmix64_finaliser(bits: int) -> None:
    assert mix64(torch.tensor(signed(bits))).item() == signed(splitmix64(bits))


def test_hash64_gives_published_outputs_of_splitmix64() -> None:
    """With state 0, word w is the generator's (w + 1)-th output from seed 0."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert [hash64(word).item() for word in range(4)] == [signed(bits) for bits in published]


@given(WORDS, WORDS, st.lists(st.integers(0, 2**40), min_size=1, max_size=5))
def test_tensor_words_are_hashed_as_int_words(a: int, b: int, words: list[int]) -> None:
    assert hash64(a, b, torch.tensor(words)).tolist() == [hash64(a, b, w).item() for w in words]


def test_integers_are_uniform_and_independent_between_draws(seed: int) -> None:
    count, bound = 60_000, 5
    draws = Draws(seed, 0, torch.arange(count))
    pairs = draws.integers(0, bound) * bound + draws.integers(1, bound)
    frequencies = pairs.bincount(minlength=bound**2) / count
    # 25 cells, each with a standard error of 0.0008: six of them.
    assert torch.allclose(frequencies, torch.full((bound**2,), 1 / bound**2), atol=0.005, rtol=0)


def test_draws_depend_on_seed_epoch_sample_and_number(seed: int) -> None:
    sample = torch.arange(1000)
    reference = Draws(seed, 3, sample).integers(0, 2**62)
    assert torch.equal(Draws(seed, 3, sample.flip(0)).integers(0, 2**62).flip(0), reference)
    for other in (
        Draws(seed + 1, 3, sample).integers(0, 2**62),
        Draws(seed, 4, sample).integers(0, 2**62),
        Draws(seed, 3, sample + 1000).integers(0, 2**62),
        Draws(seed, 3, sample).integers(1, 2**62),
    ):
        assert not (other == reference).any()


def test_permutation_holds_every_number_and_changes_with_seed_and_epoch(seed: int) -> None:
    order = permutation(500, seed, 7)
    assert order.sort().values.tolist() == list(range(500))
    assert torch.equal(order, permutation(500, seed, 7))
    assert not torch.equal(order, permutation(500, seed, 8))
    assert not torch.equal(order, permutation(500, seed + 1, 7))
