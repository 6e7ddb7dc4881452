"""How an exponential average begins: with a small decay, so that it soon forgets the first weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from annotated_types import Gt
from torch import Tensor

from optim_cli.optim.hyperparameters import check_ranges

Number = TypeVar("Number", float, Tensor)


class Warmup:
    """A decay that grows with the count of averages that were taken before.

    Attributes:
        formula: `formula(count, *numbers)` is the decay, in one expression, which kernels print as it stands;
            where they cannot, foreach averages.
    """

    formula: ClassVar[Callable[..., Any]]

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))

    @property
    def numbers(self) -> tuple[float, ...]:
        """What the formula takes besides the count, in order; kernels take two."""
        return tuple(vars(self).values())

    def decay_at(self, count: Number) -> Number:
        """The decay after `count` averages were taken: a number, or 0-d float64."""
        decay: Number = self.formula(count, *self.numbers)
        return decay


@dataclass(frozen=True)
class InverseGammaWarmup(Warmup):
    r"""A decay of :math:`1 - (1 + n / inv\_gamma)^{-power}` after n averages were taken.

    The form of k-diffusion and diffusers. With `inv_gamma=1`, a power of 2/3 reaches 0.999 after 31.6 K
    averages, one of 3/4 after 10 K.

    Args:
        inv_gamma: averages that the decay takes to come off 0.
        power: how fast it then comes near 1.

    Raises:
        ValueError: an argument is not above 0.
    """

    inv_gamma: Annotated[float, Gt(0)] = 1.0
    power: Annotated[float, Gt(0)] = 2 / 3

    @staticmethod
    def formula(count: Any, inv_gamma: float, power: float) -> Any:
        """The decay."""
        return 1 - (1 + count / inv_gamma) ** -power


@dataclass(frozen=True)
class PowerWarmup(Warmup):
    r"""A decay of :math:`(1 - 1 / t)^{\gamma + 1}`, where :math:`t = n + 1` is the number of this average.

    Karras et al., arXiv 2312.02696: what is remembered is a constant share of the training so far, 10 % of
    it with a `gamma` of 6.94, 5 % with 16.97. With 0 all weights count the same.

    Args:
        gamma: the larger, the less old weights count.

    Raises:
        ValueError: `gamma` is not above -1.
    """

    gamma: Annotated[float, Gt(-1)] = 6.94

    @staticmethod
    def formula(count: Any, gamma: float) -> Any:
        """The decay."""
        return (count / (count + 1)) ** (gamma + 1)
