"""Paragraphs of the Python Language Reference, which comes with Python itself."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pydoc_data.topics import topics
from typing import Annotated
from zlib import crc32

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from optim_cli.datasets.dataset import BatchSize, Dataset, Fraction, Seed
from optim_cli.datasets.in_memory import in_memory
from optim_cli.datasets.splitting import stratified_split

MIN_WORDS = 10  # what is shorter is a heading, a signature or a line of code
MAX_WORDS = 200  # the few longer ones would fill up all others to their length
MIN_PARAGRAPHS = 20  # so that each part of the data has some of every topic
WORD = re.compile("[a-z_]+")


def python_reference(
    *,
    buckets: Annotated[int, Ge(2)],
    batch_size: BatchSize,
    val_fraction: Fraction,
    test_fraction: Annotated[float, Gt(0), Lt(1)],
    seed: Seed,
    split_seed: Seed,
) -> Dataset:
    """Which topic of `help()` a paragraph is from; inputs [B, L], words and pairs of words by their hash.

    About 1000 paragraphs of 17 topics in Python 3.11. The texts change with Python's version, so results
    compare within one. Test set and then validation set are cut off, stratified.

    Source: "The Python Language Reference", https://docs.python.org/3/reference. Hashing: Weinberger et
    al., "Feature Hashing for Large Scale Multitask Learning", https://arxiv.org/abs/0902.2206; pairs of
    words: Joulin et al., "Bag of Tricks for Efficient Text Classification", https://arxiv.org/abs/1607.01759.

    Args:
        buckets: the vocabulary: hashes of words are 1 .. buckets - 1, and 0 fills up.

    Raises:
        ConfigError: a fraction leaves a class out of a part.
    """
    paragraphs = of_frequent_topics(by_topic(topics))
    names = sorted(set(paragraphs.values()))
    labels = torch.tensor([names.index(topic) for topic in paragraphs.values()])
    texts = hashed(paragraphs, buckets)
    rest, test = stratified_split(labels, test_fraction, split_seed, "dataset.test_fraction")
    return in_memory(
        (texts[rest], labels[rest]),
        (texts[test], labels[test]),
        num_classes=len(names),
        normalization=None,
        batch_size=batch_size,
        val_fraction=val_fraction,
        seed=seed,
        split_seed=split_seed,
        augmentation=None,
        vocabulary=buckets,
    )


def by_topic(texts: Mapping[str, str]) -> dict[str, str]:
    """Paragraphs, as words with a space between -> the topic of each.

    Many topics repeat others, whole or in part. A paragraph counts once, for the shortest topic that has
    it: the long ones are collections.
    """
    found: dict[str, str] = {}
    for topic in sorted(texts, key=lambda topic: (len(texts[topic]), topic)):
        for paragraph in re.split(r"\n\s*\n", texts[topic]):
            words = WORD.findall(paragraph.lower())
            if len(words) >= MIN_WORDS:
                found.setdefault(" ".join(words[:MAX_WORDS]), topic)
    return found


def of_frequent_topics(paragraphs: Mapping[str, str]) -> dict[str, str]:
    """Those whose topic has enough of them."""
    counts = Counter(paragraphs.values())
    return {text: topic for text, topic in paragraphs.items() if counts[topic] >= MIN_PARAGRAPHS}


def hashed(texts: Iterable[str], buckets: int) -> Tensor:
    """Words and pairs of neighbours as numbers 1 .. buckets - 1, padded with 0: int64 [texts, L]."""
    rows = []
    for text in texts:
        words = text.split()
        features = [*words, *map(" ".join, pairwise(words))]
        rows.append(torch.tensor([1 + crc32(feature.encode()) % (buckets - 1) for feature in features]))
    return pad_sequence(rows, batch_first=True)
