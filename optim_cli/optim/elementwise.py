"""Elementwise algorithms: the base that gathers tensors and hands them to an execution."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import FunctionType
from typing import Any, ClassVar, cast, get_type_hints

import torch
from torch import Tensor

from optim_cli.optim.execution.counts import StepCounts
from optim_cli.optim.execution.scalars import Values, as_float64
from optim_cli.optim.execution.stages import before_rule
from optim_cli.optim.execution.translate import Stage
from optim_cli.optim.execution.variant import Variant
from optim_cli.optim.optimizer import Optimizer, implementation_of

HOST = torch.device("cpu")
Row = list[Tensor]


@dataclass
class _Work:
    """What steps now in one parameter group: a row `(p, g, *states)` for each parameter."""

    group: dict[str, Any]
    variant: Variant
    rows: list[Row] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    firsts: list[bool] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)


class Elementwise(Optimizer):
    """An algorithm whose update of one element needs that element's values alone.

    A subclass declares `zero_dim_state`, `state_of`, `scalars` and `rule`; all executions follow.
    In `scalars` and `rule`, an option that is a tuple goes by its singular (`betas` gives `beta1` and
    `beta2`), and a parameter of `rule` annotated bool is a flag. `scalars` may take `step`, the count of this
    step from 1 (where `zero_dim_state` declares it), and `first`, whether the parameter had no state yet.

    Attributes:
        zero_dim_state: names of the 0-d states, as torch names them.
    """

    zero_dim_state: ClassVar[tuple[str, ...]] = ()
    scalars: ClassVar[Callable[..., Mapping[str, Any]]]
    rule: ClassVar[Callable[..., tuple[Any, ...]]]

    @staticmethod
    def state_of(group: dict[str, Any]) -> dict[str, float]:
        """Names of the states that have the parameter's shape, each with its initial value."""
        raise NotImplementedError

    def _setup(self, arguments: Mapping[str, Any]) -> None:
        super()._setup(arguments)
        self._counts = StepCounts()
        self._told: set[str] = set()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._counts = StepCounts()
        self._told = set()

    @classmethod
    def variant_of(cls, group: dict[str, Any]) -> Variant:
        """The algorithm as the options of a parameter group resolve it."""
        flags = tuple((name, bool(group[name])) for name in _flags_of(cls))  # type: ignore[arg-type]
        return _variant(cls, before_rule(group), tuple(cls.state_of(group)), flags)  # type: ignore[arg-type]

    @torch.compiler.disable
    def _update(self) -> None:
        self._refuse_careless_capture()
        work = [self._gather(group) for group in self.param_groups]
        self._advance(work)
        # Rows that share everything run in one call, whatever group they are of.
        batches: dict[tuple[Any, ...], tuple[Values, list[Row]]] = {}
        for part in work:
            if _scalars_in_tensors(part.group):
                self._run_with_tensors(part)
                continue
            how = (part.variant, self._choose(part.group), part.group["differentiable"])
            options = _hyperparameters(part.group)
            known: dict[tuple[float, bool], tuple[Values, tuple[float | Tensor, ...]]] = {}
            for row, step, first in zip(part.rows, part.steps, part.firsts, strict=True):
                if (step, first) not in known:
                    values = part.variant.derive(options | {"step": step, "first": first})
                    known[step, first] = values, part.variant.hoisted(values)
                values, scalars = known[step, first]
                key = (*how, scalars, row[0].device, *[x.dtype for x in row])
                batches.setdefault(key, (values, []))[1].append(row)
        for (variant, execution, differentiable, scalars, *_), (values, rows) in batches.items():
            if self._count(execution, rows) == "foreach":
                variant.foreach(_real(rows), scalars)
            else:
                variant.for_loop(_real(rows), values, differentiable)

    def _run_with_tensors(self, part: _Work) -> None:
        """A group whose step counts or hyperparameters live in tensors: nothing is read back."""
        group = part.group
        batches: dict[tuple[Any, ...], list[int]] = {}
        for index, row in enumerate(part.rows):
            count = None if group.get("capturable") else part.steps[index]
            key = (count, part.firsts[index], row[0].device, *[x.dtype for x in row])
            batches.setdefault(key, []).append(index)
        for (count, first, device, *_), indices in batches.items():
            rows = [part.rows[i] for i in indices]
            options = _hyperparameters(group, device)
            if count is None:
                options["step"] = torch.stack([part.states[i]["step"] for i in indices]).double()
            else:
                options["step"] = count
            values = part.variant.derive(options | {"first": first})
            scalars = part.variant.hoisted(values)
            if self._count(self._choose(group), rows) == "foreach":
                part.variant.foreach_with_tensors(_real(rows), scalars)
            else:
                part.variant.for_loop_with_tensors(_real(rows), scalars, group["differentiable"])

    def _gather(self, group: dict[str, Any]) -> _Work:
        """Collect what has a gradient, with its states; states that are missing are created."""
        work = _Work(group, self.variant_of(group))
        names = work.variant.states
        for p in group["params"]:
            g = p.grad
            if g is None:
                continue
            if g.layout is not torch.strided:
                self._refuse_sparse(g)
            state = self.state[p]
            first = False
            try:
                row = [p, g, *[state[name] for name in names]]
            except KeyError:
                first = True
                self._create(state, p, group)
                row = [p, g, *[state[name] for name in names]]
            work.rows.append(row)
            work.states.append(state)
            work.firsts.append(first)
        return work

    def _create(self, state: dict[str, Any], p: Tensor, group: dict[str, Any]) -> None:
        for name in self.zero_dim_state:
            state.setdefault(name, torch.zeros((), device=_counts_on(group, p)))
        for name, value in self.state_of(group).items():
            if state.get(name) is None:
                state[name] = torch.full_like(p, value, memory_format=torch.preserve_format).detach()

    def _advance(self, work: Sequence[_Work]) -> None:
        """Add one to the step counts of all that steps now, a buffer at a time."""
        if "step" not in self.zero_dim_state:
            for part in work:
                part.steps = [0.0] * len(part.rows)
            return
        places: dict[torch.device, list[tuple[_Work, dict[str, Any]]]] = {}
        for part in work:
            for row, state in zip(part.rows, part.states, strict=True):
                places.setdefault(_counts_on(part.group, row[0]), []).append((part, state))
        for device, members in places.items():
            counts = self._counts.advance([state for _, state in members], device)
            if device.type == "cpu":
                for (part, _), count in zip(members, counts.tolist(), strict=True):
                    part.steps.append(count)

    def _choose(self, group: dict[str, Any]) -> str:
        """The execution for a group."""
        wanted = implementation_of(group)
        if wanted == "for_loop" or group["differentiable"]:
            return "for_loop"
        if wanted == "fused":
            self._tell_once(
                f"{type(self).__name__}: no fused execution for these tensors, foreach runs instead"
            )
        return "foreach"

    def _count(self, execution: str, rows: Sequence[Row]) -> str:
        """Settle on the execution for rows of equal kind, and count it."""
        # torch's foreach functions want one dtype; a state loaded wider than its parameter is not.
        if len({x.dtype for x in rows[0]}) > 1:
            execution = "for_loop"
        self.executions[execution] += 1
        return execution

    def _tell_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            warnings.warn(message, stacklevel=2)

    def _refuse_sparse(self, g: Tensor) -> None:
        raise RuntimeError(
            f"{type(self).__name__} does not support sparse gradients, got layout {g.layout}; "
            "please consider SparseAdam instead"
        )

    def _refuse_careless_capture(self) -> None:
        if not torch.cuda.is_available() or not torch.cuda.is_current_stream_capturing():
            return
        if not all(group.get("capturable", True) for group in self.param_groups):
            raise RuntimeError(
                "Attempting CUDA graph capture of step() for an instance of "
                f"{type(self).__name__} but param_groups' capturable is False."
            )


def _counts_on(group: Mapping[str, Any], p: Tensor) -> torch.device:
    """Where step counts live: on the host, where reading them costs nothing, unless graphs need them."""
    return p.device if group.get("capturable") else HOST


@cache
def _flags_of(cls: type[Elementwise]) -> tuple[str, ...]:
    """Options that are resolved when the rule is translated."""
    hints = get_type_hints(cls.rule)
    return tuple(name for name, hint in hints.items() if hint is bool)


@cache
def _variant(
    cls: type[Elementwise],
    before: tuple[Stage, ...],
    states: tuple[str, ...],
    flags: tuple[tuple[str, bool], ...],
) -> Variant:
    parameters = inspect.signature(cls.rule).parameters.values()
    outputs = [x.name for x in parameters if x.kind is not x.KEYWORD_ONLY and x.name != "g"]
    stages = (*before, Stage(cls.rule, tuple(outputs)))
    return Variant(cls.__name__.lower(), cast(FunctionType, cls.scalars), stages, states, dict(flags))


def _hyperparameters(group: Mapping[str, Any], device: torch.device | None = None) -> Values:
    """Options by the names that rules use: numbers, or float64 tensors on `device` if one is given."""
    values: Values = {}
    for name, option in group.items():
        if isinstance(option, tuple):
            values |= {f"{name[:-1]}{i}": item for i, item in enumerate(option, start=1)}
        elif isinstance(option, int | float | Tensor):
            values[name] = option
    if device is None:
        return {name: x.item() if isinstance(x, Tensor) else x for name, x in values.items()}
    return {name: as_float64(x, device) for name, x in values.items()}


def _scalars_in_tensors(group: Mapping[str, Any]) -> bool:
    """Whether a number of this group must not be read by the host, or carries a gradient."""
    if group.get("capturable"):
        return True
    numbers = [x for option in group.values() for x in (option if isinstance(option, tuple) else (option,))]
    return any(
        isinstance(x, Tensor) and (x.device.type != "cpu" or (group["differentiable"] and x.requires_grad))
        for x in numbers
    )


def _real(rows: Sequence[Row]) -> Sequence[Row]:
    """Complex tensors as pairs of real numbers, as torch's elementwise algorithms see them."""
    if not rows[0][0].is_complex():
        return rows
    return [[torch.view_as_real(x) for x in row] for row in rows]
