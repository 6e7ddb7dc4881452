"""A schedule on the device, for steps in CUDA graphs, where nothing on the host is executed."""

from __future__ import annotations

import torch
from torch import Tensor

from optim_cli.optim.lr_scheduler import place
from optim_cli.optim.lr_scheduler.schedule import LRScheduler


class DeviceTable:
    """The values of a schedule left to itself, in tensors; a step copies the next ones into the groups.

    Its step may be captured beside the optimizer's: each replay goes on by one. Past the end of the table
    the last values stay.

    Args:
        scheduler: whose values are taken; it is not stepped any more. Every hyperparameter that it schedules
            must be a tensor of one element in every group that has it, such as
            `lr=torch.tensor(1e-3, device="cuda")`.
        steps: how many values there are, from the schedule's start.

    Raises:
        TypeError: a hyperparameter is no tensor, or the schedule has no table, or follows a metric.
    """

    def __init__(self, scheduler: LRScheduler, steps: int) -> None:
        if scheduler.follows_metric:
            raise TypeError("what follows a metric has no values beforehand: leave out ReduceLROnPlateau")
        self._steps = steps
        self._rows: dict[torch.device, Tensor] = {}
        self._columns: list[tuple[Tensor, Tensor]] = []
        groups = scheduler.optimizer.param_groups
        for name, table in scheduler.table(steps).items():
            for index, group in enumerate(groups):
                if not place.has(group, name):
                    continue
                held = place.read(group, name)
                if not isinstance(held, Tensor):
                    raise TypeError(
                        f"{name} of parameter group {index} is the number {held}, which a captured graph "
                        f"never reads again; give the optimizer a tensor: torch.tensor({held}, device=...)"
                    )
                self._columns.append((held, table[:, index].to(held.device, held.dtype)))
                self._rows.setdefault(held.device, torch.zeros(1, dtype=torch.long, device=held.device))
        self.last_epoch = scheduler.last_epoch

    @property
    def last_epoch(self) -> int:
        """The step whose values the groups hold; reading it waits for the device."""
        return int(next(iter(self._rows.values())))

    @last_epoch.setter
    def last_epoch(self, step: int) -> None:
        for row in self._rows.values():
            row.fill_(min(step, self._steps - 1))
        self._copy()

    @torch.no_grad()
    def step(self) -> None:
        """Go on to the next step, after `optimizer.step()`; nothing waits for the device."""
        for row in self._rows.values():
            row.add_(1).clamp_(max=self._steps - 1)
        self._copy()

    def _copy(self) -> None:
        for held, column in self._columns:
            torch.index_select(column, 0, self._rows[held.device], out=held.view(1))
