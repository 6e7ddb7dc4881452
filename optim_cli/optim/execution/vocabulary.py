"""The closed vocabulary of rules: what an algorithm's text may say, and nothing else.

Every execution has to be able to say the same thing, so a rule is limited to operations that each of
them has. A new operation is one row here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Operation:
    """An elementwise torch operation `torch.<name>(*tensors, <scalar>=...)`.

    Attributes:
        name: torch's name, which is also the stem of the `torch._foreach_` name.
        tensors: number of tensor operands.
        scalar: keyword of the scalar operand, or None when there is none.
        default: value of the scalar operand when it is left out; None makes it mandatory.
        commutative: whether the first two operands may change places (so that either can be
            overwritten in place).
    """

    name: str
    tensors: int
    scalar: str | None = None
    default: float | None = None
    commutative: bool = False


OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation("neg", 1),
        Operation("abs", 1),
        Operation("sqrt", 1),
        Operation("sign", 1),
        Operation("clamp_min", 1, scalar="min"),
        Operation("clamp_max", 1, scalar="max"),
        Operation("add", 2, scalar="alpha", default=1.0, commutative=True),
        Operation("sub", 2),
        Operation("mul", 2, commutative=True),
        Operation("div", 2),
        Operation("maximum", 2, commutative=True),
        Operation("lerp", 2, scalar="weight"),
        Operation("addcmul", 3, scalar="value", default=1.0),
        Operation("addcdiv", 3, scalar="value", default=1.0),
    )
}

# An operator between a tensor and a scalar is an operation of its own: one tensor operand, one
# mandatory scalar. torch spells both forms alike.
WITH_SCALAR = {
    name: Operation(name, 1, scalar="other", commutative=name in ("add", "mul"))
    for name in ("add", "mul", "div")
}


class Scalars:
    """Stands in for `torch` while scalars are computed: Python floats stay floats.

    The same text serves the host (floats), and step counts or hyperparameters that live in tensors
    (float64, 0-d or one entry per parameter), where nothing may wait for the device.
    """

    inf = math.inf

    @staticmethod
    def sqrt(x: float | Tensor) -> float | Tensor:
        """Square root of a number or of every entry."""
        return torch.sqrt(x) if isinstance(x, Tensor) else math.sqrt(x)

    @staticmethod
    def where(condition: bool | Tensor, x: float | Tensor, y: float | Tensor) -> float | Tensor:
        """`x` where the condition holds, else `y`."""
        if not isinstance(condition, Tensor):
            return x if condition else y
        # Of two Python numbers torch would make the default dtype, and copy each to the device, which
        # waits for it; a fill does not.
        x, y = (
            v if isinstance(v, Tensor) else torch.full((), v, dtype=torch.float64, device=condition.device)
            for v in (x, y)
        )
        return torch.where(condition, x, y)


SCALAR_FUNCTIONS = ("sqrt", "where")

ALLOWED_IN_RULES = (
    "assignments to one name, `if` on a flag or on `state is None`, one final return; "
    "+ - * / between tensors or of a tensor with a scalar, unary minus; "
    + ", ".join(f"torch.{name}" for name in OPERATIONS)
)
ALLOWED_IN_SCALARS = (
    "numbers, torch.inf, names, + - * / **, comparisons; assignments to one name, a final return of "
    "dict(...); " + ", ".join(f"torch.{name}" for name in SCALAR_FUNCTIONS)
)
