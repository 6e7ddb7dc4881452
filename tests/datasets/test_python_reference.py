from collections.abc import Callable
from zlib import crc32

import pytest
import torch

from optim_cli.datasets import python_reference as module
from optim_cli.datasets.dataset import Dataset, Split
from optim_cli.datasets.python_reference import by_topic, hashed, of_frequent_topics
from optim_cli.errors import ConfigError

CPU = torch.device("cpu")
Build = Callable[..., Dataset]
LONG = "One Two three four_five six seven eight nine ten eleven twelve"


def all_of(split: Split | None) -> tuple[torch.Tensor, torch.Tensor]:
    assert split is not None
    inputs, targets = zip(*split.batches(100, CPU), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def test_splits_hold_every_paragraph_once(build: Build) -> None:
    """What holds in every version of Python."""
    data = build("python_reference")
    parts = [all_of(split) for split in (data.train, data.val, data.test)]
    inputs, targets = (torch.cat(x) for x in zip(*parts, strict=True))
    assert len(inputs) > 500
    assert len({tuple(row) for row in inputs.tolist()}) == len(inputs)
    counts = targets.bincount(minlength=data.num_classes)
    assert data.num_classes > 10
    assert counts.min() >= module.MIN_PARAGRAPHS
    assert counts.max() < 0.3 * len(inputs)
    assert all(len(labels.unique()) == data.num_classes for _, labels in parts)


def test_inputs_are_numbers_of_words(build: Build) -> None:
    data = build("python_reference", buckets=1000)
    inputs, _ = all_of(data.train)
    assert data.vocabulary == 1000
    assert data.input_shape == inputs.shape[1:]
    assert inputs.dtype == torch.int64
    assert inputs.min() == 0
    assert inputs.max() == 999
    used = (inputs != 0).sum(1)
    assert used.min() >= 2 * module.MIN_WORDS - 1
    assert used.max() <= 2 * module.MAX_WORDS - 1


def test_seed_shuffles_and_split_seed_splits(build: Build) -> None:
    data = build("python_reference")
    other_seed, other_split = build("python_reference", seed=5), build("python_reference", split_seed=5)
    assert torch.equal(all_of(other_seed.test)[0], all_of(data.test)[0])
    assert not torch.equal(all_of(other_split.test)[0], all_of(data.test)[0])

    def first(data: Dataset) -> torch.Tensor:
        return next(data.train.batches(64, CPU, epoch=0))[0]

    assert torch.equal(first(build("python_reference")), first(data))
    assert not torch.equal(first(other_seed), first(data))


def test_paragraphs_are_words_between_empty_lines() -> None:
    texts = {"a": f"Heading\n\n   {LONG}\n  (thirteen),\n \n{LONG[4:]}.\n\nx = 1"}
    assert by_topic(texts) == {f"{LONG.lower()} thirteen": "a", LONG[4:].lower(): "a"}


def test_a_repeated_paragraph_is_of_the_shortest_topic() -> None:
    other = LONG.replace("One", "other")
    texts = {"all": f"{other}\n\n{LONG}\n\n{LONG}", "part": LONG.replace(" ", "\n"), "same": LONG + " "}
    assert by_topic(texts) == {LONG.lower(): "part", other.lower(): "all"}


def test_long_paragraphs_are_cut_before_they_are_compared() -> None:
    words = ["word"] * module.MAX_WORDS
    texts = {"a": " ".join([*words, "end"]), "b": " ".join([*words, "another end"])}
    assert by_topic(texts) == {" ".join(words): "a"}


def test_rare_topics_are_left_out() -> None:
    frequent = {f"text {index}": "often" for index in range(module.MIN_PARAGRAPHS)}
    rare = {f"other {index}": "rarely" for index in range(module.MIN_PARAGRAPHS - 1)}
    assert of_frequent_topics(frequent | rare) == frequent


def test_words_and_pairs_are_hashed_alike_everywhere() -> None:
    """crc32 of 123456789 is the check value in its definition: no process has a hash of its own."""
    assert crc32(b"123456789") == 0xCBF43926
    features = ["a", "b", "c", "a b", "b c"]
    expected = [1 + crc32(feature.encode()) % 99 for feature in features]
    assert hashed(["a b c", "b"], 100).tolist() == [expected, [expected[1], 0, 0, 0, 0]]


def test_fractions_that_leave_a_topic_out_are_refused(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.test_fraction=0\.001 of"):
        build("python_reference", test_fraction=0.001)
