"""Rates scaled by functions of the user's: LambdaLR and MultiplicativeLR."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler.schedule import Affine, LRScheduler

Factor = Callable[[int], float]


class _Factors(LRScheduler):
    """What both have in common: a function for every group, of which a state holds what is no code."""

    lr_lambdas: list[Factor]

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Factor | list[Factor],
        last_epoch: int = -1,
        *,
        hyperparameter: str = "lr",
    ) -> None:
        self._attach(optimizer, hyperparameter)
        several = isinstance(lr_lambda, list | tuple)
        self.lr_lambdas = list(lr_lambda) if several else [lr_lambda] * len(optimizer.param_groups)  # type: ignore[arg-type,list-item]
        if len(self.lr_lambdas) != len(optimizer.param_groups):
            raise ValueError(
                f"Expected {len(optimizer.param_groups)} lr_lambdas, but got {len(self.lr_lambdas)}"
            )
        for function in self.lr_lambdas:
            if not callable(function):
                raise TypeError(f"lr_lambda should be a function, but got {type(function).__name__}")
        super().__init__(optimizer, last_epoch, hyperparameter=hyperparameter)

    def state_dict(self) -> dict[str, Any]:
        """The state; of callable objects their attributes, of functions nothing."""
        state = super().state_dict()
        state["lr_lambdas"] = [
            None if isinstance(x, FunctionType) else x.__dict__.copy() for x in self.lr_lambdas
        ]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state; functions stay as they are."""
        functions = self.lr_lambdas
        super().load_state_dict(state_dict)
        self.lr_lambdas = functions
        for function, attributes in zip(functions, state_dict["lr_lambdas"], strict=True):
            if attributes is not None:
                function.__dict__.update(attributes)


class LambdaLR(_Factors):
    """The initial rate times a function of the step.

    Args:
        optimizer: the optimizer whose values are set.
        lr_lambda: step -> factor; one, or one per parameter group.
        last_epoch: the step to resume after, -1 for a fresh start.
        hyperparameter: what is scheduled.

    Raises:
        ValueError: another number of functions than of groups.
        TypeError: it is no function.
    """

    outright = True

    def affine(self, t: int) -> Affine:
        """The value itself."""
        return 0.0, [base * factor(t) for base, factor in zip(self.base_lrs, self.lr_lambdas, strict=True)]


class MultiplicativeLR(_Factors):
    """The rate of the step before times a function of the step.

    Args:
        optimizer: the optimizer whose values are set.
        lr_lambda: step -> factor; one, or one per parameter group.
        last_epoch: the step to resume after, -1 for a fresh start.
        hyperparameter: what is scheduled.

    Raises:
        ValueError: another number of functions than of groups.
        TypeError: it is no function.
    """

    def affine(self, t: int) -> Affine:
        """The factor; the first rate is the optimizer's."""
        return (self._factors(t), 0.0) if t else (1.0, 0.0)

    def jump(self, t: int) -> dict[str, Affine]:
        """As in torch: from the value that is found."""
        return {self.hyperparameter: (self._factors(t), 0.0)}

    def _factors(self, t: int) -> list[float]:
        return [factor(t) for factor in self.lr_lambdas]
