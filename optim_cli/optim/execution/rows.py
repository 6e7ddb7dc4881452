"""The sparse execution: rows that have a gradient are gathered, updated like any tensor, scattered back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Rows:
    """The part of a parameter and its states that a sparse gradient moves.

    A state that is sparse itself moves where it has entries, too: there its old value is not zero.

    Args:
        whole: `(p, g, *states)` of one parameter, `g` in COO layout; `p` of the shape
            (*sparse shape, *dense shape).

    Attributes:
        tensors: the rows of `(p, g, *states)`, each (number of rows, *dense shape), every row once.
    """

    def __init__(self, whole: Sequence[Tensor]) -> None:
        p, g, *states = whole
        for state in states:
            if state.is_sparse:
                g = g + _zeros_of(state)
        g = g.coalesce()
        self._index = g.indices()
        self._homes = (p, *states)
        rows = [(x + _zeros_of(g)).coalesce().values() if x.is_sparse else self._of(x) for x in self._homes]
        self.tensors = [rows[0], g.values(), *rows[1:]]

    def _of(self, x: Tensor) -> Tensor:
        if len(self._index) == 1:
            return x.index_select(0, self._index[0])
        return x[tuple(self._index)]

    def scatter(self) -> None:
        """Write the rows back to where they are from."""
        results = (self.tensors[0], *self.tensors[2:])
        for home, rows in zip(self._homes, results, strict=True):
            if home.is_sparse:
                home.copy_(
                    torch.sparse_coo_tensor(
                        self._index, rows, home.shape, is_coalesced=True, check_invariants=False
                    )
                )
            elif len(self._index) == 1:
                home.index_copy_(0, self._index[0], rows)
            else:
                home[tuple(self._index)] = rows


def _zeros_of(x: Tensor) -> Tensor:
    """Zeros in the places where a sparse tensor has entries."""
    x = x.coalesce()
    return torch.sparse_coo_tensor(
        x.indices(), torch.zeros_like(x.values()), x.shape, is_coalesced=True, check_invariants=False
    )
