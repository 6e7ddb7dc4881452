"""The base of every scheduler: a schedule is an affine recurrence, pure in t."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from functools import wraps
from itertools import repeat
from math import nan
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor
from torch.optim import Optimizer

from optim_cli.optim.lr_scheduler import place

# A number for all parameter groups, or a list with one for each.
Numbers = float | Tensor | list[Any]
# (a_t, b_t): what turns the value of one step into that of the next.
Affine = tuple[Numbers, Numbers]


@dataclass(frozen=True)
class Duration:
    """Marks a parameter that counts scheduler steps.

    Attributes:
        total: whether it is the length of the whole schedule, so that a config may leave it open.
        moment: whether all that happens comes after it, so that the schedule must be longer.
    """

    total: bool = False
    moment: bool = False


Steps = Annotated[int, Ge(1), Duration()]
Total = Annotated[int, Ge(1), Duration(total=True)]
Moment = Annotated[int, Ge(1), Duration(moment=True)]


class LRScheduler(torch.optim.lr_scheduler.LRScheduler):
    """Sets `x_t = a_t * x_(t-1) + b_t` in every parameter group at each step t; x is the learning rate.

    A subclass gives (a_t, b_t) as a function of t alone. `step` applies them to the value it finds, so that
    one changed by hand in between behaves as in torch; `table` composes them. A schedule that sets values
    outright has a_t = 0. Subclasses may define `get_lr` instead, as torch's do: they have no table.

    Args:
        optimizer: the optimizer whose values are set; any torch.optim.Optimizer.
        last_epoch: the step to resume after, -1 for a fresh start.
        hyperparameter: what is scheduled: `lr`, or another number in the groups, such as `weight_decay`,
            `momentum` or `betas.0`.

    Raises:
        TypeError: `optimizer` is not an optimizer.
        KeyError: `last_epoch` is given and a group has no `initial_lr` (`initial_<hyperparameter>`).
        ValueError: no group has such a hyperparameter. Where only some have it, the others are left alone,
            and NaN is told for them.
    """

    # Whether values are set whatever they were before.
    outright = False
    # As an attribute of the object only where it is another one: a state_dict has the keys of torch's.
    hyperparameter = "lr"

    # Whether a subclass of a user's says its values as those of torch do.
    _by_get_lr = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._by_get_lr = cls.get_lr is not LRScheduler.get_lr

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1, *, hyperparameter: str = "lr") -> None:
        self._attach(optimizer, hyperparameter)
        initial = f"initial_{hyperparameter}"
        for index, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                place.note_initial(group, hyperparameter)
            elif place.has(group, hyperparameter) and initial not in group:
                raise KeyError(
                    f"param {initial!r} is not specified in param_groups[{index}] when resuming scheduler "
                    "with last_epoch >= 0; load the optimizer's state before, or leave last_epoch at -1"
                )
        self.base_lrs = [place.copied(group.get(initial, nan)) for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        note_steps(optimizer)
        self._initial_step()

    def _attach(self, optimizer: Optimizer, hyperparameter: str) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.optimizer = optimizer
        if hyperparameter != "lr":
            place.check(optimizer, hyperparameter)
            self.hyperparameter = hyperparameter

    @property
    def hyperparameters(self) -> list[str]:
        """What is scheduled; a momentum that goes along with the rate is not named."""
        return [self.hyperparameter]

    @property
    def follows_metric(self) -> bool:
        """Whether values depend on a metric, which `observe` is told."""
        return False

    @property
    def is_known(self) -> bool:
        """Whether values are known beforehand, so that there is a table."""
        return not self._by_get_lr

    def affine(self, t: int) -> Affine:
        """(a_t, b_t) for step t >= 0, each a number or one for each parameter group; (1, 0) keeps values.

        Raises:
            TypeError: the schedule is not given in this way.
        """
        raise TypeError(f"{type(self).__name__} does not say its values beforehand; only steps show them")

    def coefficients(self, t: int) -> dict[str, Affine]:
        """(a_t, b_t) by hyperparameter, for all that are set: a cycled momentum goes along with the rate."""
        return {self.hyperparameter: self.affine(t)}

    def jump(self, t: int) -> dict[str, Affine]:
        """What leads to step t at once, from wherever: the values of a schedule left to itself."""
        if self.outright:
            return self.coefficients(t)
        return {name: (0.0, values) for name, values in self._followed(range(t + 1))[-1].items()}

    def table(self, steps: int) -> dict[str, Tensor]:
        """The values of a schedule left to itself from its start, by hyperparameter: float64 [steps, groups].

        Those that a part takes up later stand before at what the groups hold at the start; NaN where a group
        has no such hyperparameter.
        """
        rows, tables = self._followed(range(steps)), {}
        for name in dict.fromkeys(name for row in rows for name in row):
            # A cycle that comes later has set its momentum already.
            now = [float(x) for x in self._held(name)] if self.last_epoch <= 0 else self._initial(name)
            table = torch.tensor([row.get(name, now) for row in rows], dtype=torch.float64)
            lacking = torch.tensor([not place.has(group, name) for group in self.optimizer.param_groups])
            tables[name] = table.masked_fill_(lacking, nan)
        return tables

    def observe(self, metric: float) -> None:
        """Take note of a new value of a metric; only ReduceLROnPlateau acts on it."""

    def get_lr(self) -> list[float | Tensor]:
        """The values of step `last_epoch`, from those that the groups hold now."""
        return _advanced(self._held(self.hyperparameter), self.affine(self.last_epoch))

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next step, after `optimizer.step()`.

        Args:
            epoch: jump to this step instead (deprecated in torch).
        """
        if self._step_count == 1 and not getattr(self.optimizer, "_opt_called", False):
            warnings.warn(
                "lr_scheduler.step() is called before optimizer.step(): the first value of the "
                "schedule is skipped",
                UserWarning,
                stacklevel=2,
            )
        self._step_count += 1
        if epoch is not None:
            warnings.warn("the epoch argument of step() is deprecated", UserWarning, stacklevel=2)
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        # Under this name torch's SequentialLR starts its parts anew.
        t = self.last_epoch + 1 if epoch is None else epoch
        self._move_to(t)
        if self._by_get_lr:
            closed = None if epoch is None else getattr(self, "_get_closed_form_lr", None)
            affines: dict[str, Affine] = {self.hyperparameter: (0.0, (closed or self.get_lr)())}
        elif epoch is not None:
            affines = self.jump(t)
        elif self._is_initial and t > 0 and not self.outright:
            affines = {}  # the groups of a resumed run hold the values already
        else:
            affines = self.coefficients(t)
        for name, affine in affines.items():
            self._apply(name, affine)
        self._note_values()

    def _apply(self, name: str, affine: Affine) -> None:
        """Set a hyperparameter of every group that has it to a * x + b; where a is 0, x has no influence.

        Raises:
            ValueError: it is given for another number of groups.
        """
        # At every step of a run: numbers are set at once, with as few operations as can be (see _next).
        key, at = place.parsed(name) if "." in name else (name, None)
        groups = self.optimizer.param_groups
        a, b = affine
        scales: Any = a if isinstance(a, list) else repeat(a)
        offsets: Any = b if isinstance(b, list) else repeat(b)
        short: Any = scales if scales is a else offsets if offsets is b else groups
        if len(short) != len(groups):
            raise ValueError(
                f"{type(self).__name__} was made for {len(short)} parameter groups, not for the "
                f"{len(groups)} that there are; make it anew after add_param_group"
            )
        others: list[tuple[place.Group, Any, Any, Any]] = []
        for group, k, v in zip(groups, scales, offsets):  # noqa: B905
            try:
                held = group[key] if at is None else group[key][at]
            except (KeyError, TypeError, IndexError):
                continue  # a group of another algorithm
            if held.__class__ is not float:
                others.append((group, held, k, v))
                continue
            value = k * held + v if k else v
            if at is None:
                group[key] = value
            else:
                items = group[key]
                group[key] = (*items[:at], value, *items[at + 1 :])
        if others:
            _apply_to_others(name, others)

    def _note_values(self) -> None:
        if self.hyperparameter != "lr":
            self._last_lr = [place.copied(x) for x in self._held(self.hyperparameter)]
            return
        self._last_lr = told = []
        for group in self.optimizer.param_groups:
            value = group["lr"]
            told.append(value if value.__class__ is float else place.copied(value))

    def _move_to(self, t: int) -> None:
        """Be at step t, without setting anything."""
        self.last_epoch = t

    def _held(self, name: str) -> list[float | Tensor]:
        return [place.read(group, name) for group in self.optimizer.param_groups]

    def _initial(self, name: str) -> list[float]:
        """The values before the first step."""
        if name == self.hyperparameter and hasattr(self, "base_lrs"):
            return [float(x) for x in self.base_lrs]
        groups = self.optimizer.param_groups
        return [float(group.get(f"initial_{name}", place.read(group, name))) for group in groups]

    def _followed(self, steps: Iterable[int]) -> list[dict[str, list[float]]]:
        """The values at each of consecutive steps, from the initial ones."""
        values: dict[str, list[float]] = {}
        rows = []
        for t in steps:
            for name, affine in self.coefficients(t).items():
                values[name] = _advanced(values.get(name) or self._initial(name), affine)
            rows.append(dict(values))
        return rows


def per_group(name: str, value: Any, groups: int) -> list[Any]:
    """One value for each parameter group.

    Raises:
        ValueError: a list of another length than the optimizer has groups.
    """
    if not isinstance(value, list | tuple):
        return [place.copied(value) for _ in range(groups)]
    if len(value) != groups:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. "
            f"{name} has {len(value)} values, param_groups has {groups}."
        )
    return [place.copied(x) for x in value]


def _apply_to_others(name: str, others: Iterable[tuple[place.Group, Any, Any, Any]]) -> None:
    """Set x, which groups hold in anything but a float, to a * x + b.

    Args:
        others: (group, x, a, b).
    """
    # Groups may share a tensor, so that all are read before one is written.
    values = [(group, _next(x, a, b)) for group, x, a, b in others if place.is_number(x)]
    for group, value in values:
        place.write(group, name, value)


def _advanced(values: list[Any], affine: Affine) -> list[Any]:
    """a * x + b for every group."""
    scales, offsets = (x if x.__class__ is list else repeat(x, len(values)) for x in affine)
    return [_next(*x) for x in zip(values, scales, offsets, strict=True)]


def _next(x: Any, a: Any, b: Any) -> Any:
    """a * x + b; where a is 0, x has no influence, be it infinite."""
    return a * x + b if a else b


def note_steps(optimizer: Optimizer) -> None:
    """Let an optimizer note that it steps; under the names of torch's schedulers, which do the same."""
    if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        return
    function, stepping = optimizer.step.__func__, weakref.ref(optimizer)  # type: ignore[attr-defined]

    @wraps(function)
    def step(*args: Any, **kwargs: Any) -> Any:
        optimizer = stepping()
        optimizer._opt_called = True  # type: ignore[union-attr]
        return function(optimizer, *args, **kwargs)

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.step = step  # type: ignore[method-assign]
