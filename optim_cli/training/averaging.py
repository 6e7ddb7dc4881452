"""Averages of the weights that a run keeps beside the weights it trains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from optim_cli.optim.lr_scheduler.constant import ConstantLR
from optim_cli.optim.lr_scheduler.schedule import Duration, Steps
from optim_cli.optim.lr_scheduler.swa import SWALR
from optim_cli.optim.swa_utils import (
    AveragedModel,
    Warmup,
    get_ema_multi_avg_fn,
    get_swa_multi_avg_fn,
    update_bn,
)
from optim_cli.optim.swa_utils.averages import AverageFunction, MultiAverageFunction
from optim_cli.training.taking_over import TakingOver

Rate = Annotated[float, Gt(0)]
# A number of steps that may be none.
Start = Annotated[int, Ge(0), Duration()]


class Average(AveragedModel):
    """An average that says which steps of a run it takes the weights of.

    These are step `start` and every `every` steps after it; steps count from 1, so that with a start of 0
    the first one is step `every`.

    Args:
        model: the model to average; it is copied.
        start, every: in optimizer steps.
        use_buffers: average buffers as well; otherwise they are the newest model's.
        update_bn: measure the statistics of batch normalization anew at the end, over the training set.
        options: further arguments of AveragedModel.
    """

    def __init__(
        self, model: nn.Module, start: int, every: int, use_buffers: bool, update_bn: bool, **options: Any
    ) -> None:
        super().__init__(model, use_buffers=use_buffers, **options)
        self.start, self.every, self.update_bn = start, every, update_bn

    @property
    def first(self) -> int:
        """The first step whose weights are taken."""
        return self.start or self.every

    def is_due(self, step: int) -> bool:
        """Whether the weights after a step, which count from 1, are taken into the average."""
        return step >= self.start and (step - self.start) % self.every == 0

    def schedule(self, scheduler: LRScheduler | None, optimizer: Optimizer, steps: int) -> LRScheduler | None:
        """The schedule of a run with this average.

        Args:
            scheduler: that of the run without it; None for a constant rate.
            optimizer: whose values it sets.
            steps: how many of the optimizer make one of the scheduler.
        """
        return scheduler

    def finish(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Do what is left to do after the last step, before the average is used, with `update_bn`.

        A longer run goes on from the average as it was before.

        Args:
            batches: the training set, inputs and targets on the average's device; read where it is needed.
        """
        if self.update_bn:
            update_bn(batches, self.module)


class EMA(Average):
    """Exponential moving average: newer weights count more.

    Args:
        model: the model to average; it is copied.
        decay: weight of the average against the newest weights; 1 / (1 - decay) updates are remembered.
        half_life: instead of a decay, after how many optimizer steps weights count half as much.
        warmup: with which decay it begins; None begins with the full one.
        start, every: the first step whose weights are taken, and the distance to the next.
        use_buffers: average buffers as well; otherwise they are the newest model's.
        update_bn: measure the statistics of batch normalization anew at the end, over the training set.

    Raises:
        ValueError: both `decay` and `half_life` are given, or neither is.
    """

    def __init__(
        self,
        model: nn.Module,
        decay: Annotated[float, Ge(0), Le(1)] | None = None,
        half_life: Steps | None = None,
        warmup: Warmup | None = None,
        start: Start = 0,
        every: Steps = 1,
        use_buffers: bool = True,
        update_bn: bool = False,
    ) -> None:
        if (decay is None) == (half_life is None):
            raise ValueError(
                f"decay {decay} and half_life {half_life} are given; give one, and null for the other"
            )
        if half_life is not None:
            decay = 0.5 ** (every / half_life)
        assert decay is not None
        average = get_ema_multi_avg_fn(decay, warmup=warmup)
        super().__init__(model, start, every, use_buffers, update_bn, multi_avg_fn=average)


class SWA(Average):
    """Stochastic weight averaging: all weights count the same.

    Izmailov et al., "Averaging Weights Leads to Wider Optima", arXiv 1803.05407.

    Args:
        model: the model to average; it is copied.
        start, every: the first step whose weights are taken, and the distance to the next.
        swa_lr: the learning rate from `start` on, one or one per parameter group; None leaves it to the
            schedule. Where that goes on by epoch, it is from the beginning of the epoch with step `start`.
        anneal: steps from the rate at `start` to `swa_lr`.
        anneal_strategy: the shape of that way, cos or linear.
        use_buffers: average buffers as well; otherwise they are the newest model's.
        update_bn: measure the statistics of batch normalization anew at the end, over the training set.
    """

    def __init__(
        self,
        model: nn.Module,
        start: Start,
        every: Steps,
        swa_lr: Rate | list[Rate] | None = None,
        anneal: Steps = 10,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        use_buffers: bool = True,
        update_bn: bool = True,
    ) -> None:
        super().__init__(model, start, every, use_buffers, update_bn, multi_avg_fn=get_swa_multi_avg_fn())
        self.swa_lr, self.anneal, self.anneal_strategy = swa_lr, anneal, anneal_strategy

    def schedule(self, scheduler: LRScheduler | None, optimizer: Optimizer, steps: int) -> LRScheduler | None:
        """The run's own until `start`; then the rate is on the way to `swa_lr`, if there is one."""
        if self.swa_lr is None:
            return scheduler
        before = scheduler or ConstantLR(optimizer, factor=1.0)
        after = SWALR(optimizer, self.swa_lr, max(self.anneal // steps, 1), self.anneal_strategy)
        return TakingOver(optimizer, before, after, self.start // steps)


class Custom(Average):
    """An average by a function of yours; without one, all weights count the same.

    Args:
        model: the model to average; it is copied.
        avg_fn: `(average, current, num_averaged) -> average`, one tensor at a time.
        multi_avg_fn: `(averages, currents, num_averaged)`, in place on lists of one device and dtype.
        start, every: the first step whose weights are taken, and the distance to the next.
        use_buffers: average buffers as well; otherwise they are the newest model's.
        update_bn: measure the statistics of batch normalization anew at the end, over the training set.

    Raises:
        ValueError: both functions are given.
    """

    def __init__(
        self,
        model: nn.Module,
        avg_fn: AverageFunction | None = None,
        multi_avg_fn: MultiAverageFunction | None = None,
        start: Start = 0,
        every: Steps = 1,
        use_buffers: bool = False,
        update_bn: bool = False,
    ) -> None:
        if avg_fn is not None and multi_avg_fn is not None:
            raise ValueError("avg_fn and multi_avg_fn are given; give one, and null for the other")
        functions = {"avg_fn": avg_fn, "multi_avg_fn": multi_avg_fn}
        super().__init__(model, start, every, use_buffers, update_bn, **functions)
