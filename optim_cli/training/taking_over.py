"""A schedule whose learning rate another one takes over, as an average does that wants a rate of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from optim_cli.optim.lr_scheduler import place
from optim_cli.optim.lr_scheduler.parts import SequentialLR, known
from optim_cli.optim.lr_scheduler.plateau import ReduceLROnPlateau
from optim_cli.optim.lr_scheduler.schedule import Affine


class TakingOver(SequentialLR):
    """One schedule, and from a step on another one for the learning rate; the rest goes on as before.

    Args:
        optimizer: whose values are set.
        before: the schedule of all hyperparameters.
        after: of the learning rate alone.
        start: the step at which it takes over.

    Raises:
        ValueError: a schedule of another optimizer, or torch's ReduceLROnPlateau.
    """

    def __init__(self, optimizer: Optimizer, before: LRScheduler, after: LRScheduler, start: int) -> None:
        # A sequence begins anew, and so would a momentum that a later cycle in `before` has set already.
        others = [name for name in getattr(before, "hyperparameters", []) if name != "lr"]
        held = [[place.copied(place.read(x, name)) for x in optimizer.param_groups] for name in others]
        super().__init__(optimizer, [before, after], [start])
        for name, values in zip(others, held, strict=True):
            for group, value in zip(optimizer.param_groups, values, strict=True):
                place.write(group, name, value)

    @property
    def _has_taken_over(self) -> bool:
        return self.last_epoch >= self._milestones[0]

    def coefficients(self, t: int) -> dict[str, Affine]:
        """Those of the first schedule, and of the second where it has taken over."""
        [start] = self._milestones
        own = known(self.parts[0]).coefficients(t)
        return own if t < start else own | super().coefficients(t)

    def step(self, metrics: float | None = None) -> None:
        """Let both step whose time it is; a ReduceLROnPlateau only where a metric is given."""
        self.last_epoch += 1
        with self._rate_kept():
            if not isinstance(self.parts[0], ReduceLROnPlateau):
                self.parts[0].step()
        if self.last_epoch == self._milestones[0]:
            self.parts[1]._update_lr(0)
        elif self._has_taken_over:
            self.parts[1].step()
        if metrics is not None:
            self.observe(metrics)
        self._note_values()

    def observe(self, metric: float) -> None:
        """Give a new value of the metric to the first schedule."""
        with self._rate_kept():
            super().observe(metric)
        self._note_values()

    def _acting(self) -> Sequence[LRScheduler]:
        return self.parts[:1]

    def _move_to(self, t: int) -> None:
        super()._move_to(t)
        known(self.parts[0])._move_to(t)

    def _initial_step(self) -> None:
        self.last_epoch = 0
        with self._rate_kept():
            self.parts[0]._initial_step()
        if self._has_taken_over:
            self.parts[1]._initial_step()
        self._note_values()

    @contextmanager
    def _rate_kept(self) -> Iterator[None]:
        """Undo what happens to the learning rate, where it is another's already."""
        groups = self.optimizer.param_groups
        held = [place.copied(group["lr"]) for group in groups]
        yield
        if self._has_taken_over:
            for group, rate in zip(groups, held, strict=True):
                place.write(group, "lr", rate)
