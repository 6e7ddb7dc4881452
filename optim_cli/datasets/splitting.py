"""Cutting a labelled set in two parts, each with its share of every class."""

import torch
from torch import Tensor

from optim_cli.datasets.draws import hash64
from optim_cli.errors import ConfigError


def stratified_split(
    labels: Tensor, fraction: float, seed: int, key: str = "dataset.val_fraction"
) -> tuple[Tensor, Tensor]:
    """Split samples into a rest and a part that holds `fraction` of them.

    The part has round(fraction * N) samples. Each class gives its proportional number, rounded so
    that these sum up (largest remainders first), but at least one to either side. Which samples are
    chosen depends on nothing but (seed, sample number, labels): no library's generator is involved,
    so that a test set stays the same when torch changes.

    Args:
        labels: int64 [N], non-negative.
        key: the config key that `fraction` comes from, for the message.

    Returns:
        Sample numbers (rest, part), int64, ascending, disjoint, together 0 .. N - 1. The part is
        empty if `fraction` is 0.

    Raises:
        ConfigError: either side would lack a class.
    """
    count = len(labels)
    if fraction == 0:
        return torch.arange(count), torch.empty(0, dtype=torch.int64)
    sizes = labels.bincount()
    per_class = _shares(sizes, fraction, key)

    # Sort by class and, within it, by hash; a class's first samples are the part.
    shuffled = hash64(seed, torch.arange(count)).argsort(stable=True)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    ends = sizes.cumsum(0)
    rank = torch.arange(count) - (ends - sizes).repeat_interleave(sizes)
    chosen = rank < per_class.repeat_interleave(sizes)
    return by_class[~chosen].sort().values, by_class[chosen].sort().values


def _shares(sizes: Tensor, fraction: float, key: str) -> Tensor:
    """How many of each class (of `sizes` samples, int64 [classes]) go into the part."""
    present = sizes > 0
    count, classes, smallest = int(sizes.sum()), int(present.sum()), int(sizes[present].min())
    total = round(fraction * count)
    if smallest < 2 or not classes <= total <= count - classes:
        allowed = (
            f"a fraction from {classes / count:.4g} to {1 - classes / count:.4g}"
            if smallest >= 2
            else "0 only, since a class has a single sample"
        )
        raise ConfigError(
            f"{key}={fraction:g} of {count} samples would leave one of the {classes} classes out "
            f"of a part; allowed here: {allowed}. Set {key}=VALUE."
        )
    least, most = present.long(), (sizes - 1).clamp(min=0)
    quota = fraction * sizes.double()
    shares = quota.long().clamp(least, most)
    while (missing := total - int(shares.sum())) != 0:
        step = 1 if missing > 0 else -1
        room = shares < most if missing > 0 else shares > least
        gap = (step * (quota - shares)).masked_fill(~room, -torch.inf)
        shares[gap.argmax()] += step
    return shares
