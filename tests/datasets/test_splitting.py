import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optim_cli.datasets.splitting import stratified_split
from optim_cli.errors import ConfigError

SIZES = st.lists(st.integers(2, 60), min_size=1, max_size=12)
SEEDS = st.integers(0, 2**32)


def labels_of(sizes: list[int], seed: int) -> torch.Tensor:
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


@given(SIZES, st.floats(0.01, 0.99), SEEDS)
def test_split_is_exact_disjoint_and_stratified(sizes: list[int], fraction: float, seed: int) -> None:
    labels = labels_of(sizes, seed)
    count, total = len(labels), round(fraction * len(labels))
    if not len(sizes) <= total <= count - len(sizes):
        with pytest.raises(ConfigError, match="would leave one of"):
            stratified_split(labels, fraction, seed)
        return

    rest, part = stratified_split(labels, fraction, seed)
    assert len(part) == total
    assert torch.cat([rest, part]).sort().values.tolist() == list(range(count))
    for indices in (rest, part):
        assert indices.tolist() == sorted(indices.tolist())
        assert labels[indices].unique().tolist() == list(range(len(sizes)))


def test_each_class_gives_its_share(seed: int) -> None:
    sizes = [100, 250, 640, 1010]
    _, part = stratified_split(labels_of(sizes, seed), 0.1, seed)
    assert labels_of(sizes, seed)[part].bincount().tolist() == [10, 25, 64, 101]


def test_split_depends_on_its_seed_alone(seed: int) -> None:
    labels = labels_of([300, 300], seed)
    _, part = stratified_split(labels, 0.3, seed)
    torch.rand(1)  # the global generator is of no concern
    assert torch.equal(stratified_split(labels, 0.3, seed)[1], part)
    assert not torch.equal(stratified_split(labels, 0.3, seed + 1)[1], part)


def test_split_stays_the_same_between_versions() -> None:
    """Written down once: a change would compare new results with old ones on other images."""
    labels = torch.arange(20) % 2
    assert stratified_split(labels, 0.3, 0)[1].tolist() == [0, 3, 9, 13, 14, 16]


def test_chosen_samples_are_spread_over_the_set(seed: int) -> None:
    _, part = stratified_split(torch.zeros(10_000, dtype=torch.int64), 0.2, seed)
    assert abs(part.double().mean().item() - 5000) < 6 * 2887 / 2000**0.5


def test_fraction_zero_gives_an_empty_part() -> None:
    rest, part = stratified_split(torch.tensor([0, 1, 1]), 0, 0)
    assert rest.tolist() == [0, 1, 2]
    assert part.tolist() == []


def test_class_numbers_without_samples_are_no_obstacle() -> None:
    _, part = stratified_split(torch.tensor([0, 0, 5, 5]), 0.5, 0)
    assert len(part) == 2


def test_refusal_names_key_value_and_range() -> None:
    labels = torch.arange(100) % 10
    with pytest.raises(ConfigError, match=r"dataset\.test_fraction=0\.01 .* from 0\.1 to 0\.9"):
        stratified_split(labels, 0.01, 0, "dataset.test_fraction")
    with pytest.raises(ConfigError, match="a class has a single sample"):
        stratified_split(torch.tensor([0, 0, 0, 1]), 0.5, 0)
