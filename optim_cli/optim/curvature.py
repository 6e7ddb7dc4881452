"""What L-BFGS remembers: pairs of steps and gradient changes, and the product of their inverse Hessian.

The two-loop recursion visits the pairs one after another, twice. In the compact representation (Byrd,
Nocedal, Schnabel 1994) the same product takes four products of a vector with a whole matrix of pairs, and two
triangular systems as small as the history is long.

The products are torch.mv and addmv: on CUDA these are cuBLAS's gemv, and TF32 concerns gemm alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.linalg import solve_triangular

# Memory grows in this ratio, so that a short run does not pay for a long history.
GROWTH = 8


class CurvaturePairs:
    """The newest pairs (s, y) of a step and the change of the gradient over it, vectors [n].

    They are rows of two matrices; a new pair overwrites the oldest one.

    Args:
        size: how many pairs are kept.

    Attributes:
        steps, changes: the vectors, oldest first; views of rows.
        rho: 1 / s_i y_i, 0-d, oldest first; views.
    """

    steps: list[Tensor]
    changes: list[Tensor]
    rho: list[Tensor]

    def __init__(self, size: int) -> None:
        self.size = size
        self._order: list[int] = []  # rows, oldest first
        self._steps = self._changes = torch.empty(0, 1)
        # [capacity + 1, capacity]: s_i y_j where pair i is not newer than j, and rho in the last row.
        self._table = torch.empty(1, 0)
        self._projection = torch.empty(0)  # of the gradient before, on the steps
        self._newest_is_measured = True
        self._show()

    @classmethod
    def load(
        cls,
        size: int,
        steps: Sequence[Tensor],
        changes: Sequence[Tensor],
        rho: Sequence[Tensor],
        before: Tensor,
    ) -> CurvaturePairs:
        """Take up copies of pairs, oldest first.

        Where `rho` is still part of the table that it was made in, every pair gets the row that it had, so
        that what follows has the bits that it would have had.

        Args:
            size: how many pairs are kept; of more, the newest.
            steps, changes, rho: the pairs, and 1 / s_i y_i.
            before: the gradient at the newest direction [n].
        """
        steps, changes, rho = steps[-size:], changes[-size:], rho[-size:]
        pairs, count = cls(size), len(steps)
        if not count:
            return pairs
        pairs._grow(count, before)
        capacity = len(pairs._steps)
        table = _table_around(rho, capacity)
        pairs._order = (
            list(range(count)) if table is None else [int(x.storage_offset()) % capacity for x in rho]
        )
        for row, s, y in zip(pairs._order, steps, changes, strict=True):
            pairs._steps[row], pairs._changes[row] = s, y
        if table is None:
            for row, (y, value) in enumerate(zip(changes, rho, strict=True)):
                pairs._table[:count, row], pairs._table[-1, row] = torch.mv(pairs._steps[:count], y), value
        else:
            pairs._table.copy_(table)
        pairs._projection = torch.mv(pairs._steps[:count], before)
        pairs._show()
        return pairs

    def __getstate__(self) -> dict[str, Any]:
        # Each view would bring a copy of the whole matrix into a pickle.
        return {name: x for name, x in self.__dict__.items() if name not in ("steps", "changes", "rho")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._show()

    def _show(self) -> None:
        self.steps = [self._steps[row] for row in self._order]
        self.changes = [self._changes[row] for row in self._order]
        self.rho = [self._table[-1, row] for row in self._order]

    def append(self, s: Tensor, y: Tensor, product: Tensor) -> None:
        """Remember a pair, and its inner product (0-d)."""
        row = len(self._order)
        if row == self.size:
            row = self._order.pop(0)
            del self.steps[0], self.changes[0], self.rho[0]
        elif row == len(self._steps):
            self._grow(row + 1, s)
        self._order.append(row)
        self.steps.append(self._steps[row].copy_(s))
        self.changes.append(self._changes[row].copy_(y))
        self._table[row, row] = product
        self.rho.append(self._table[-1, row].copy_(1 / product))
        self._newest_is_measured = False

    def descent(self, gradient: Tensor, scale: float | Tensor) -> tuple[Tensor, Tensor]:
        """Minus the inverse Hessian times a gradient.

        With R the upper triangle of the products s_i y_j and D its diagonal, the recursion's coefficients are
        a = -R^-1 S g and then c = R^-T (D a - Y r), where r = -scale (g + a Y); the direction is r + c S.
        Whatever errors R has, the product stays symmetric and positive semidefinite.

        Args:
            gradient: [n].
            scale: of the initial inverse Hessian.

        Returns:
            The direction [n], and a, an entry for each pair, oldest first.
        """
        count = len(self._order)
        if not count:
            return gradient * -scale, gradient.new_empty(0)
        steps, changes = self._steps[:count], self._changes[:count]
        projection = torch.mv(steps, gradient)
        self._measure(projection)
        # Rows are a circle, on which time goes round.
        first = self._order[0]
        products = self._table[:count, :count].roll((-first, -first), (0, 1)).double()
        first_loop = solve_triangular(products, -_column(projection, -first), upper=True)
        direction = torch.addmv(gradient, changes.T, _row(first_loop, first, gradient)).mul_(-scale)
        rest = products.diagonal()[:, None] * first_loop - _column(torch.mv(changes, direction), -first)
        second_loop = solve_triangular(products.mT, rest, upper=False)
        direction.addmv_(steps.T, _row(second_loop, first, gradient))
        return direction, first_loop[:, 0].to(gradient.dtype)

    def _measure(self, projection: Tensor) -> None:
        """Complete the table for the newest pair.

        Its change is the gradient less the one before, so its products with the steps are differences of two
        projections that are there anyway: this spares a product with the whole matrix. They lose as many
        digits as the change itself has lost, being a difference of gradients.
        """
        if not self._newest_is_measured:
            newest, known = self._order[-1], len(self._projection)
            product = self._table[newest, newest].clone()
            self._table[:known, newest] = projection[:known] - self._projection
            self._table[newest, newest] = product
            self._newest_is_measured = True
        self._projection = projection

    def _grow(self, count: int, like: Tensor) -> None:
        """Make room for so many pairs, vectors as the one given."""
        held, capacity = len(self._order), self.size
        for views in (self.steps, self.changes, self.rho):
            views.clear()  # they would hold the old memory beside the new
        while capacity // GROWTH >= count:
            capacity //= GROWTH
        table = like.new_zeros(capacity + 1, capacity)
        table[:held, :held], table[-1, :held] = self._table[:held, :held], self._table[-1, :held]
        self._table = table
        self._projection = self._projection.to(like)
        # All rows are zeros, because a checkpoint shows the unused ones too.
        steps = like.new_zeros(capacity, len(like))
        steps[:held] = self._steps[:held]
        # The changes wait in rows that are still free: old and new matrices are never there together.
        steps[held : 2 * held] = self._changes[:held]
        self._steps, self._changes = steps, steps[held : 2 * held]
        changes = like.new_zeros(capacity, len(like))
        changes[:held] = self._changes
        self._changes = changes
        self._show()


def _column(x: Tensor, shift: int) -> Tensor:
    return x.roll(shift).double()[:, None]


def _row(x: Tensor, shift: int, like: Tensor) -> Tensor:
    return x[:, 0].roll(shift).to(like.dtype)


def _table_around(rho: Sequence[Tensor], capacity: int) -> Tensor | None:
    """The table whose last row holds these numbers; None where they are numbers on their own."""
    memory = rho[0].untyped_storage()
    apart = any(x.untyped_storage().data_ptr() != memory.data_ptr() for x in rho)
    if apart or memory.nbytes() != capacity * (capacity + 1) * rho[0].element_size():
        return None
    return rho[0].as_strided((capacity + 1, capacity), (capacity, 1), 0)
