"""What L-BFGS remembers: pairs of steps and gradient changes, and the product of their inverse Hessian.

The two-loop recursion visits the pairs one after another, twice. In the compact representation (Byrd,
Nocedal, Schnabel 1994) the same product takes four products of a vector with a whole matrix of pairs, and two
with the inverse of a triangular matrix as small as the history is long.

The large products are torch.mv and addmv: on CUDA these are cuBLAS's gemv, and TF32 concerns gemm alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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
        coefficients: weights of the changes in the last product, 0-d, oldest first; views.
    """

    steps: list[Tensor]
    changes: list[Tensor]
    rho: list[Tensor]
    coefficients: list[Tensor]

    def __init__(self, size: int) -> None:
        self.size = size
        self._order: list[int] = []  # rows, oldest first
        self._steps = self._changes = torch.empty(0, 1)
        self._use(torch.empty(0), 0)
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

        Where `rho` is still part of the memory that it was made in, the inverse is there, and every pair gets
        the row that it had, so that what follows has the bits that it would have had.

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
        memory = _memory_around(rho, capacity)
        pairs._order = (
            list(range(count)) if memory is None else [int(x.storage_offset()) % capacity for x in rho]
        )
        for row, s, y in zip(pairs._order, steps, changes, strict=True):
            pairs._steps[row], pairs._changes[row] = s, y
        if memory is None:
            products = torch.stack([torch.mv(pairs._steps[:count], y) for y in changes], 1).double()
            unit = torch.eye(count, dtype=torch.float64, device=before.device)
            pairs._inverse[:count, :count] = torch.linalg.solve_triangular(products.triu(), unit, upper=True)
            pairs._rho[:count] = torch.stack(list(rho))
        else:
            pairs._memory.copy_(memory)
        pairs._projection = torch.mv(pairs._steps[:count], before)
        pairs._show()
        return pairs

    def __getstate__(self) -> dict[str, Any]:
        # Each view would bring a copy of the whole matrix into a pickle.
        views = ("steps", "changes", "rho", "coefficients", "_inverse", "_rho", "_coefficients")
        return {name: x for name, x in self.__dict__.items() if name not in views}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._use(self._memory, len(self._steps))
        self._show()

    def _use(self, memory: Tensor, capacity: int) -> None:
        """Lay out the memory of what is small: one, so that a view in a checkpoint brings it all.

        First the inverse of the products s_i y_j, i not newer than j, in float64 [capacity, capacity], by the
        rows of the pairs: only in order of time is it triangular. Then rho, then the coefficients.
        """
        self._memory = memory
        inverse, self._rho, self._coefficients = memory.split(
            (len(memory) - 2 * capacity, capacity, capacity)
        )
        self._inverse = inverse.view(torch.float64).view(capacity, capacity)

    def _show(self) -> None:
        self.steps = [self._steps[row] for row in self._order]
        self.changes = [self._changes[row] for row in self._order]
        self.rho = [self._rho[row] for row in self._order]
        self.coefficients = [self._coefficients[row] for row in self._order]

    def append(self, s: Tensor, y: Tensor, product: Tensor) -> None:
        """Remember a pair, and its inner product (0-d)."""
        row = len(self._order)
        if row == self.size:
            row = self._order.pop(0)
            del self.steps[0], self.changes[0], self.rho[0], self.coefficients[0]
            # A triangular matrix without its first row and column has the rest of the inverse as its own.
            self._inverse[row] = 0
            self._inverse[:, row] = 0
        elif row == len(self._steps):
            self._grow(row + 1, s)
        self._order.append(row)
        self.steps.append(self._steps[row].copy_(s))
        self.changes.append(self._changes[row].copy_(y))
        self.rho.append(torch.reciprocal(product, out=self._rho[row]))
        self.coefficients.append(self._coefficients[row])
        torch.reciprocal(product.double(), out=self._inverse[row, row])
        self._newest_is_measured = False

    def descent(self, gradient: Tensor, scale: float | Tensor) -> Tensor:
        """Minus the inverse Hessian times a gradient.

        With R the upper triangle of the products s_i y_j and D its diagonal, the recursion's coefficients are
        a = -R^-1 S g and then c = R^-T (D a - Y r), where r = -scale (g + a Y); the direction is r + c S.
        Whatever errors R has, the product stays symmetric and positive semidefinite.

        Args:
            gradient: [n].
            scale: of the initial inverse Hessian.

        Returns:
            The direction [n].
        """
        count = len(self._order)
        if not count:
            return gradient * -scale
        steps, changes, inverse = self._steps[:count], self._changes[:count], self._inverse[:count, :count]
        projection = torch.mv(steps, gradient)
        self._measure(projection)
        first_loop = torch.mv(inverse, projection.double()).neg_()
        coefficients = self._coefficients[:count].copy_(first_loop)
        direction = torch.addmv(gradient, changes.T, coefficients).mul_(-scale)
        rest = first_loop.div_(inverse.diagonal()).sub_(torch.mv(changes, direction))
        second_loop = torch.mv(inverse.T, rest)
        return direction.addmv_(steps.T, second_loop.to(gradient.dtype))

    def _measure(self, projection: Tensor) -> None:
        """Complete the inverse for the newest pair.

        Its change is the gradient less the one before, so its products u with the steps are differences of
        two projections that are there anyway: this spares a product with the whole matrix. They lose as many
        digits as the change itself has lost, being a difference of gradients. The new column is -R^-1 u / sy.
        """
        if not self._newest_is_measured:
            newest, known, count = self._order[-1], len(self._projection), len(self._order)
            inverse = self._inverse[:count, :count]
            diagonal = inverse[newest, newest].clone()
            products = (projection[:known] - self._projection).double()
            column = torch.mv(inverse[:, :known], products).mul_(-diagonal)
            column[newest] = diagonal
            inverse[:, newest] = column
            self._newest_is_measured = True
        self._projection = projection

    def _grow(self, count: int, like: Tensor) -> None:
        """Make room for so many pairs, vectors as the one given."""
        held, capacity = len(self._order), self.size
        for views in (self.steps, self.changes):
            views.clear()  # they would hold the old memory beside the new
        while capacity // GROWTH >= count:
            capacity //= GROWTH
        inverse, rho, coefficients = self._inverse, self._rho, self._coefficients
        ratio = torch.float64.itemsize // like.element_size()
        self._use(like.new_zeros(capacity * capacity * ratio + 2 * capacity), capacity)
        self._inverse[:held, :held] = inverse[:held, :held]
        self._rho[:held], self._coefficients[:held] = rho[:held], coefficients[:held]
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


def _memory_around(rho: Sequence[Tensor], capacity: int) -> Tensor | None:
    """The memory that these numbers are in, laid out as by `_use`; None where they stand alone."""
    memory = rho[0].untyped_storage()
    apart = any(x.untyped_storage().data_ptr() != memory.data_ptr() for x in rho)
    ratio = torch.float64.itemsize // rho[0].element_size()
    length = capacity * capacity * ratio + 2 * capacity
    if apart or memory.nbytes() != length * rho[0].element_size():
        return None
    return rho[0].as_strided((length,), (1,), 0)
