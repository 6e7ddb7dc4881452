"""Elementwise algorithms: the base that gathers tensors and hands them to an execution."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from operator import attrgetter
from types import FunctionType
from typing import Any, ClassVar, cast, get_type_hints

import torch
from torch import Tensor

from optim_cli.optim.execution.counts import StepCounts
from optim_cli.optim.execution.scalars import Values, as_float64
from optim_cli.optim.execution.stages import before_rule
from optim_cli.optim.execution.translate import Stage, check_names
from optim_cli.optim.execution.variant import Variant
from optim_cli.optim.optimizer import Optimizer, implementation_of

HOST = torch.device("cpu")
NATIVE = (Tensor, torch.nn.Parameter)
Columns = list[list[Tensor]]


@dataclass
class _Work:
    """What steps now in one parameter group, an entry for each parameter in every list.

    Attributes:
        columns: parameters, gradients, then each state.
        states: the parameters' state dictionaries; empty where nothing is kept.
        firsts: whether the states are new.
        steps: step counts, this step included; zeros where nobody counts or the device does.
    """

    group: dict[str, Any]
    variant: Variant
    counted_on_device: bool
    columns: Columns
    states: list[dict[str, Any]]
    firsts: list[bool]
    steps: list[float]

    def alike(self) -> dict[tuple[Any, ...], Columns]:
        """Tensors that need the same scalars and calls, by (first, step, device, class, *dtypes)."""
        if not self.steps:
            return {}
        whole: list[set[Any]] = [set(self.firsts), set(self.steps), *_kinds(self.columns)]
        if all(len(values) == 1 for values in whole):
            return {tuple(value for (value,) in whole): self.columns}
        found: dict[tuple[Any, ...], Columns] = {}
        for first, step, *row in zip(self.firsts, self.steps, *self.columns, strict=True):
            kind = [value for (value,) in _kinds([[x] for x in row])]
            columns = found.setdefault((first, step, *kind), [[] for _ in row])
            for column, x in zip(columns, row, strict=True):
                column.append(x)
        return found


def _kinds(columns: Columns) -> list[set[Any]]:
    """Devices and classes of the parameters, and the dtypes of every column."""
    return [
        set(map(attrgetter("device"), columns[0])),
        set(map(type, columns[0])),
        *(set(map(attrgetter("dtype"), column)) for column in columns),
    ]


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
        for of_parameter in self.state.values():
            # Old checkpoints of torch's SGD hold a None where there is no momentum buffer yet.
            for name in [name for name, value in of_parameter.items() if value is None]:
                del of_parameter[name]
        self._counts = StepCounts()
        self.__dict__.setdefault("_told", set())

    @classmethod
    def variant_of(cls, group: dict[str, Any]) -> Variant:
        """The algorithm as the options of a parameter group resolve it."""
        flags = tuple((name, bool(group[name])) for name in _flags_of(cls))  # type: ignore[arg-type]
        return _variant(cls, before_rule(group), tuple(cls.state_of(group)), flags)  # type: ignore[arg-type]

    def _update(self) -> None:
        self._refuse_careless_capture()
        work = [self._gather(group) for group in self.param_groups]
        if "step" in self.zero_dim_state:
            self._advance(work)
        # Tensors that share everything run in one call, whatever group they are of.
        batches: dict[tuple[Any, ...], tuple[Values, Columns]] = {}
        for part in work:
            execution = self._choose(part.group)
            values = _hyperparameters(part.group, part.variant)
            if part.counted_on_device or _unreadable(values, part.group):
                self._run_with_tensors(part, execution, values)
                continue
            values = {name: x.item() if isinstance(x, Tensor) else x for name, x in values.items()}
            for (first, step, *kind), columns in part.alike().items():
                known = part.variant.derive(values | {"first": first, "step": step})
                scalars = part.variant.hoisted(known)
                key = (part.variant, execution, part.group["differentiable"], scalars, *kind)
                if key in batches:
                    for column, more in zip(batches[key][1], columns, strict=True):
                        column += more
                else:
                    batches[key] = known, columns
        for (variant, execution, differentiable, scalars, *_), (known, columns) in batches.items():
            self._run(variant, execution, columns, scalars, known, differentiable)

    def _run_with_tensors(self, part: _Work, execution: str, values: Values) -> None:
        """A group whose step counts or hyperparameters live in tensors: nothing is read back."""
        for (first, step, device, *_), columns in part.alike().items():
            known = {name: as_float64(x, device) for name, x in values.items()}
            if part.counted_on_device:
                # Counts on a device cannot be compared here: a vector of them serves all.
                step = torch.stack([self.state[p]["step"] for p in columns[0]]).double()
            known = part.variant.derive(known | {"first": first, "step": step})
            scalars = part.variant.hoisted(known)
            differentiable = part.group["differentiable"]
            self._run(part.variant, execution, columns, scalars, known, differentiable)

    def _run(
        self,
        variant: Variant,
        execution: str,
        columns: Columns,
        scalars: Sequence[float | Tensor],
        known: Values,
        differentiable: bool,
    ) -> None:
        if self._settle(execution, columns) == "foreach":
            variant.foreach(_real(columns), scalars)
        else:
            variant.for_loop(_real(columns), scalars, known, differentiable)

    def _gather(self, group: dict[str, Any]) -> _Work:
        """Collect what has a gradient, with its states; states that are missing are created."""
        variant = self.variant_of(group)
        params = [p for p in group["params"] if p.grad is not None]
        grads = [p.grad for p in params]
        if any(layout is not torch.strided for layout in set(map(attrgetter("layout"), grads))):
            self._refuse_sparse()
        # Looking a parameter up creates its state, which torch's checkpoints lack where none is kept.
        stateless = not variant.states and not self.zero_dim_state
        states = [] if stateless else [self.state[p] for p in params]
        firsts = [False] * len(params)
        try:
            columns = [[state[name] for state in states] for name in variant.states]
        except KeyError:
            firsts = [any(name not in state for name in variant.states) for state in states]
            for p, state in zip(params, states, strict=True):
                self._create(state, p, group)
            columns = [[state[name] for state in states] for name in variant.states]
        on_device = "step" in self.zero_dim_state and bool(group.get("capturable"))
        steps = [0.0] * len(params)
        return _Work(group, variant, on_device, [params, grads, *columns], states, firsts, steps)

    def _create(self, state: dict[str, Any], p: Tensor, group: dict[str, Any]) -> None:
        for name in self.zero_dim_state:
            state.setdefault(name, torch.zeros((), device=_counts_on(group, p)))
        for name, value in self.state_of(group).items():
            if state.get(name) is None:
                state[name] = torch.full_like(p, value, memory_format=torch.preserve_format).detach()

    def _advance(self, work: Sequence[_Work]) -> None:
        """Add one to the step counts of all that steps now, a buffer at a time."""
        on_host = [part for part in work if not part.counted_on_device]
        states = [state for part in on_host for state in part.states]
        if states:
            counts = iter(self._counts.advance(states, HOST).tolist())
            for part in on_host:
                part.steps = list(islice(counts, len(part.states)))
        on_device: dict[torch.device, list[dict[str, Any]]] = {}
        for part in work:
            if part.counted_on_device:
                for p, state in zip(part.columns[0], part.states, strict=True):
                    on_device.setdefault(p.device, []).append(state)
        for device, states in on_device.items():
            self._counts.advance(states, device)

    def _choose(self, group: dict[str, Any]) -> str:
        """The execution for a group, or auto."""
        wanted = implementation_of(group)
        if group["differentiable"]:
            return "for_loop"
        if wanted == "fused":
            self._tell_once("no fused execution for these tensors, foreach runs instead")
            return "foreach"
        return wanted

    def _settle(self, execution: str, columns: Columns) -> str:
        """Settle on the execution for tensors of equal kind, and count it."""
        p, *others = (column[0] for column in columns)
        if execution == "auto":
            # A tensor subclass need not know torch's foreach functions.
            fits = p.__class__ in NATIVE and all(x.dtype == p.dtype for x in others)
            execution = "foreach" if fits else "for_loop"
        elif execution == "foreach" and any(x.dtype != p.dtype for x in others):
            self._tell_once(
                "foreach wants one dtype in parameter, gradient and states: for_loop runs instead"
            )
            execution = "for_loop"
        self.executions[execution] += 1
        return execution

    def _tell_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            warnings.warn(f"{type(self).__name__}: {message}", stacklevel=2)

    def _refuse_sparse(self) -> None:
        raise RuntimeError(
            f"{type(self).__name__} does not support sparse gradients, please consider SparseAdam instead"
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


def _hyperparameters(group: Mapping[str, Any], variant: Variant) -> Values:
    """Options by the names that rules use: an option that is a tuple by its singular and position."""
    return {
        name: group[option] if index is None else group[option][index]
        for name, option, index in _places(variant, tuple(group))
    }


@cache
def _places(variant: Variant, options: tuple[str, ...]) -> list[tuple[str, str, int | None]]:
    """Where in a group the hyperparameters of a variant stand: (name, option, index in it).

    Raises:
        RuleError: a text takes something that is neither an option nor derived.
    """
    places: list[tuple[str, str, int | None]] = []
    for name in variant.keywords:
        if name in options:
            places.append((name, name, None))
        elif f"{name[:-1]}s" in options and name[-1].isdigit():
            places.append((name, f"{name[:-1]}s", int(name[-1]) - 1))
    known = {name for name, _, _ in places} | {*options} - {"params"}
    scalars, *rules = variant.texts
    check_names(scalars, known)
    for rule in rules:
        check_names(rule, known | {*variant.derived})
    return places


def _unreadable(values: Values, group: Mapping[str, Any]) -> bool:
    """Whether a number must not be read by the host: it is on another device or carries a gradient."""
    return any(
        isinstance(x, Tensor) and (x.device.type != "cpu" or (group["differentiable"] and x.requires_grad))
        for x in values.values()
    )


def _real(columns: Columns) -> Columns:
    """Complex tensors as pairs of real numbers, as torch's elementwise algorithms see them."""
    if not columns[0][0].is_complex():
        return columns
    return [[torch.view_as_real(x) for x in column] for column in columns]
