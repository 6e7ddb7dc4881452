"""Reduction when a metric stops improving."""

from __future__ import annotations

import warnings
from math import inf
from typing import Annotated, Any, Literal, SupportsFloat

from annotated_types import Ge, Gt, Lt
from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler import place
from optim_cli.optim.lr_scheduler.schedule import Affine, LRScheduler


class ReduceLROnPlateau(LRScheduler):
    """Times `factor` once a metric has not improved for more than `patience` steps.

    The one schedule that has a state of its own: it is stepped with each new value of the metric. In a
    ChainedScheduler or SequentialLR it waits while these are stepped without a metric.

    Args:
        optimizer: the optimizer whose values are set.
        mode: whether the metric is to get smaller (min) or larger (max).
        factor: of a reduction.
        patience: steps without improvement that are borne.
        threshold: what counts as improvement.
        threshold_mode: as a share of the best value (rel) or as a difference (abs).
        cooldown: steps after a reduction that are not counted.
        min_lr: lowest value, one or one per parameter group.
        eps: smaller changes are not made.
        hyperparameter: what is reduced.

    Raises:
        ValueError: a value outside its range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: Annotated[float, Gt(0), Lt(1)] = 0.1,
        patience: Annotated[int, Ge(0)] = 10,
        threshold: Annotated[float, Ge(0)] = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: Annotated[int, Ge(0)] = 0,
        min_lr: float | list[float] = 0,
        eps: Annotated[float, Ge(0)] = 1e-8,
        *,
        hyperparameter: str = "lr",
    ) -> None:
        if factor >= 1.0:
            raise ValueError("Factor should be < 1.0.")
        self.factor = factor
        self._attach(optimizer, hyperparameter)
        several = isinstance(min_lr, list | tuple)
        if several and len(min_lr) != len(optimizer.param_groups):  # type: ignore[arg-type]
            raise ValueError(f"expected {len(optimizer.param_groups)} min_lrs, got {len(min_lr)}")  # type: ignore[arg-type]
        self.default_min_lr = None if several else min_lr
        self.min_lrs: list[Any] = list(min_lr) if several else [min_lr] * len(optimizer.param_groups)  # type: ignore[arg-type]
        self.patience = patience
        self.cooldown = cooldown
        self.eps = eps
        self.last_epoch = 0
        self._note_values()
        self._compare_by(mode, threshold, threshold_mode)
        self.best = self.mode_worse
        self.cooldown_counter = 0
        self.num_bad_epochs = 0

    @property
    def follows_metric(self) -> bool:
        """Always."""
        return True

    def affine(self, t: int) -> Affine:
        """As long as no metric is seen, values stay."""
        return 1.0, 0.0

    def jump(self, t: int) -> dict[str, Affine]:
        """It goes on from the values that it finds."""
        return self.coefficients(t)

    def step(self, metrics: SupportsFloat, epoch: int | None = None) -> None:  # type: ignore[override]
        """Take a new value of the metric, and reduce if it is time.

        Args:
            metrics: the value; a number or a tensor of one element.
            epoch: count on from here (deprecated in torch).
        """
        current = float(metrics)
        if epoch is not None:
            warnings.warn("the epoch argument of step() is deprecated", UserWarning, stacklevel=2)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self._is_better(current, self.best):
            self.best = current
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._note_values()

    def observe(self, metric: float) -> None:
        """The same as `step`."""
        self.step(metric)

    @property
    def in_cooldown(self) -> bool:
        """Whether steps are not counted, after a reduction."""
        return self.cooldown_counter > 0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state."""
        super().load_state_dict(state_dict)
        self._compare_by(self.mode, self.threshold, self.threshold_mode)

    def _initial_step(self) -> None:
        """The first value is the optimizer's."""

    def _reduce(self) -> None:
        groups = self.optimizer.param_groups
        if len(self.min_lrs) != len(groups):
            if self.default_min_lr is None:
                raise RuntimeError(
                    f"The number of param groups in the `optimizer` ({len(groups)}) differs from when "
                    f"`ReduceLROnPlateau` was initialized ({len(self.min_lrs)}), usually due to a new param "
                    "group being added to the optimizer. Please modify the `min_lrs` field to match the "
                    "length of the `optimizer` param groups."
                )
            self.min_lrs = [self.default_min_lr] * len(groups)
        for group, lowest in zip(groups, self.min_lrs, strict=True):
            old = float(place.read(group, self.hyperparameter))
            new = max(old * self.factor, lowest)
            if old - new > self.eps:
                place.write(group, self.hyperparameter, new)

    def _is_better(self, value: float, best: float) -> bool:
        margin = self.threshold if self.mode == "max" else -self.threshold
        limit = best * (1.0 + margin) if self.threshold_mode == "rel" else best + margin
        return value > limit if self.mode == "max" else value < limit

    def _compare_by(
        self, mode: Literal["min", "max"], threshold: float, threshold_mode: Literal["rel", "abs"]
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode {mode} is unknown!")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold mode {threshold_mode} is unknown!")
        self.mode_worse = inf if mode == "min" else -inf
        self.mode = mode
        self.threshold = threshold
        self.threshold_mode = threshold_mode
