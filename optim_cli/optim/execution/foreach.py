"""The foreach execution: all tensors at once, portion by portion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

# Lists are worked through in portions: the temporaries of one portion are all the extra memory a step
# takes, and on a CPU a portion stays in the cache from one statement to the next.
PORTION_BYTES = {"cpu": 1 << 20, "cuda": 1 << 28}


def run_foreach(
    update: Callable[..., None],
    columns: Sequence[Sequence[Tensor]],
    scalars: Sequence[float | Tensor | Sequence[Tensor]],
) -> None:
    """Apply a compiled update to columns of tensors, portion by portion."""
    for portion in portions(columns[0]):
        update(
            *(column[portion] for column in columns),
            *(s[portion] if isinstance(s, Sequence) else s for s in scalars),
        )


def portions(tensors: Sequence[Tensor]) -> Iterator[slice]:
    """Slices of consecutive tensors of at most PORTION_BYTES each, or of one larger tensor."""
    limit = PORTION_BYTES.get(tensors[0].device.type, PORTION_BYTES["cuda"])
    start = size = 0
    for index, tensor in enumerate(tensors):
        size += tensor.nbytes
        if size > limit and index > start:
            yield slice(start, index)
            start, size = index, tensor.nbytes
    yield slice(start, len(tensors))
