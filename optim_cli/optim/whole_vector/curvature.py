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
        scale: of the initial inverse Hessian: s y / y y of the newest pair, 0-d.
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
        self.scale: float | Tensor = 1
        self._order: list[int] = []  # rows, oldest first
        self._steps = self._changes = torch.empty(0, 1)
        self._use(torch.empty(0), 0)
        self._projection = torch.empty(0, dtype=torch.float64)  # of the gradient before, on the steps
        self._unmeasured: Tensor | None = None  # the product of the newest pair
        self._show()

    @classmethod
    def load(
        cls,
        size: int,
        steps: Sequence[Tensor],
        changes: Sequence[Tensor],
        rho: Sequence[Tensor],
        before: Tensor,
        scale: float | Tensor,
    ) -> CurvaturePairs:
        """Take up copies of pairs, oldest first.

        Where `rho` is still part of the memory that it was made in, the inverse is there, and every pair gets
        the row that it had, so that what follows has the bits that it would have had.

        Args:
            size: how many pairs are kept; of more, the newest.
            steps, changes, rho: the pairs, and 1 / s_i y_i.
            before: the gradient at the newest direction [n].
            scale: of the initial inverse Hessian.
        """
        steps, changes, rho = steps[-size:], changes[-size:], rho[-size:]
        pairs, count = cls(size), len(steps)
        pairs.scale = scale
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
        pairs._projection = torch.mv(pairs._steps[:count], before).double()
        pairs._show()
        return pairs

    def __getstate__(self) -> dict[str, Any]:
        # Each view would bring a copy of the whole matrix into a pickle.
        views = ("steps", "changes", "rho", "coefficients", "_inverse", "_unit", "_rho", "_coefficients")
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
        self._unit = torch.eye(capacity, dtype=torch.float64, device=memory.device)

    def _show(self) -> None:
        self.steps = [self._steps[row] for row in self._order]
        self.changes = [self._changes[row] for row in self._order]
        self.rho = [self._rho[row] for row in self._order]
        self.coefficients = [self._coefficients[row] for row in self._order]

    def append(self, s: Tensor, y: Tensor, product: Tensor) -> None:
        """Remember a pair, and its inner product (0-d)."""
        row = len(self._order)
        if row == len(self._steps) < self.size:
            self._grow(row + 1, s)
        views = (self.steps, self.changes, self.rho, self.coefficients)
        if row == self.size:
            row = self._order.pop(0)
            for several in views:
                several.append(several.pop(0))
        else:
            homes = (self._steps, self._changes, self._rho, self._coefficients)
            for several, home in zip(views, homes, strict=True):
                several.append(home[row])
        self._order.append(row)
        self.steps[-1].copy_(s)
        self.changes[-1].copy_(y)
        self._unmeasured = product

    def descent(self, gradient: Tensor) -> Tensor:
        """Minus the inverse Hessian times a gradient.

        With R the upper triangle of the products s_i y_j and D its diagonal, the recursion's coefficients are
        a = -R^-1 S g and then c = R^-T (D a + Y q), where q = scale (g + a Y); the direction is c S - q.
        Whatever errors R has, the product stays symmetric and positive semidefinite.

        Args:
            gradient: [n].

        Returns:
            The direction [n].
        """
        count = len(self._order)
        if not count:
            return gradient * -self.scale
        steps, changes, inverse = self._steps[:count], self._changes[:count], self._inverse[:count, :count]
        # This takes a device long enough for the host to line up all the small things behind it.
        projection = torch.mv(steps, gradient).double()
        if self._unmeasured is not None:
            self._measure(self._unmeasured, inverse, projection)
        self._projection = projection
        negative = _product(inverse, projection)
        coefficients = torch.mul(negative, -1, out=self._coefficients[:count])
        q = torch.addmv(gradient, changes.T, coefficients).mul_(self.scale)
        rest = torch.mv(changes, q) - negative.div_(inverse.diagonal())
        second_loop = _product(inverse.T, rest).to(gradient.dtype)
        return q.addmv_(steps.T, second_loop, beta=-1)

    def _measure(self, product: Tensor, inverse: Tensor, projection: Tensor) -> None:
        """Complete what is known of the newest pair.

        Its change is the gradient less the one before, so its products u with the steps are differences of
        two projections that are there anyway: this spares a product with the whole matrix. They lose as many
        digits as the change itself has lost, being a difference of gradients.

        The inverse gets the column (-R^-1 u, 1) / s y. Without its oldest row and column, a triangular matrix
        has the rest of the inverse as its own.
        """
        newest, known, count = self._order[-1], len(self._projection), len(self._order)
        products = projection[:known] - self._projection
        home = inverse.select(1, newest)
        home.zero_()
        inverse.select(0, newest).zero_()
        column = self._unit[newest, :count] - _product(inverse[:, :known], products)
        torch.div(column, product, out=home)
        torch.reciprocal(product, out=self.rho[-1])
        self.scale = product / self.changes[-1].dot(self.changes[-1])
        self._unmeasured = None

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
        self._projection = self._projection.to(like.device)
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


def _product(matrix: Tensor, x: Tensor) -> Tensor:
    """A small matrix times a vector, which takes a GPU's library longer to set up than to compute."""
    return (matrix * x).sum(1)


def _memory_around(rho: Sequence[Tensor], capacity: int) -> Tensor | None:
    """The memory that these numbers are in, laid out as by `_use`; None where they stand alone."""
    memory = rho[0].untyped_storage()
    apart = any(x.untyped_storage().data_ptr() != memory.data_ptr() for x in rho)
    ratio = torch.float64.itemsize // rho[0].element_size()
    length = capacity * capacity * ratio + 2 * capacity
    if apart or memory.nbytes() != length * rho[0].element_size():
        return None
    return rho[0].as_strided((length,), (1,), 0)
