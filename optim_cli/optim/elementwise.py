"""Elementwise algorithms: the base that gathers tensors and hands them to an execution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from optim_cli.optim.clipping import Supplied
from optim_cli.optim.execution.resolve import flags_of, hyperparameters_of, variant_for
from optim_cli.optim.execution.rows import Rows
from optim_cli.optim.execution.scalars import Values, as_float64
from optim_cli.optim.execution.stages import before_rule
from optim_cli.optim.execution.variant import Variant
from optim_cli.optim.execution.work import Columns, Work
from optim_cli.optim.execution.zero_dim import ZeroDimStates, stored_dtype
from optim_cli.optim.fusing import Fusing, Unavailable
from optim_cli.optim.optimizer import NATIVE, implementation_of

HOST = torch.device("cpu")
LAYOUT = attrgetter("layout")


class Elementwise(Fusing):
    """An algorithm whose update of one element needs that element's values alone.

    A subclass declares `zero_dim_state`, `state_of`, `scalars` and `rule`; all executions follow.
    In `scalars` and `rule`, an option that is a tuple goes by its singular (`betas` gives `beta1` and
    `beta2`), and a parameter of `rule` annotated bool is a flag. `scalars` may take `first`, whether the
    parameter had no state yet, and the 0-d states: `step`, the count of this step from 1, and others as the
    last step has left them. What it returns by the name of a 0-d state is the new value, which `rule` sees
    as it is stored.

    Attributes:
        sparse_states: whether rows without a gradient move too, as their states say, which are then sparse.
    """

    sparse_states: ClassVar[bool] = False
    states_span: ClassVar[bool] = True
    scalars: ClassVar[Callable[..., Mapping[str, Any]]]
    rule: ClassVar[Callable[..., tuple[Any, ...]]]

    @staticmethod
    def state_of(group: dict[str, Any]) -> dict[str, float]:
        """Names of the states that have the parameter's shape, each with its initial value."""
        raise NotImplementedError

    @classmethod
    def state_names(cls, group: dict[str, Any]) -> list[str]:
        """What is kept of each parameter of a group with these options."""
        return [*cls.state_of(group), *cls.zero_dim_state]

    @staticmethod
    def zero_dim_start(group: dict[str, Any]) -> dict[str, float]:
        """Initial values of 0-d states, where they are not 0."""
        return {}

    def _setup(self, arguments: Mapping[str, Any]) -> None:
        super()._setup(arguments)
        self._zero_dim = ZeroDimStates()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for of_parameter in filter(_is_state, self._states.values()):
            # Old checkpoints of torch's SGD hold a None where there is no momentum buffer yet.
            for name in [name for name, value in of_parameter.items() if value is None]:
                del of_parameter[name]
        self._zero_dim = ZeroDimStates()
        for group in self.param_groups:
            for p in group["params"]:
                held = self._states.get(p, {})
                for name in self.zero_dim_state:
                    if name in held and not isinstance(held[name], Tensor):
                        held[name] = torch.tensor(
                            held[name], dtype=stored_dtype(), device=self._place_of(p, group)
                        )

    @classmethod
    def variant_of(cls, group: dict[str, Any], scaled: bool = False, clamped: bool = False) -> Variant:
        """The algorithm as the options of a parameter group resolve it, and what a step does to gradients."""
        flags = tuple((name, bool(group[name])) for name in flags_of(cls))  # type: ignore[arg-type]
        return variant_for(cls, before_rule(group, scaled, clamped), tuple(cls.state_of(group)), flags)  # type: ignore[arg-type]

    def _update(self) -> None:
        capturing, self._averaged = _capturing(), False
        if capturing:
            self._check_capturable()
        if capturing or not self._repeat():
            try:
                self._step(capturing)
            except Unavailable as reason:
                self._fall_back(reason)
                self._step(capturing)
            if self._plans:
                # What runs otherwise may have moved states.
                self._plans = [plan for plan in self._plans if plan.is_in_place()]
        if not self._averaged:
            self._average()

    def _step(self, capturing: bool) -> None:
        """Gather what steps, and let each execution step its own."""
        split = [(group, *self._split(group)) for group in self.param_groups]
        fusing = [p for _, params, _ in split for p in params]
        # One launch sees all gradients; else what all of them need is measured apart.
        alone = bool(fusing) and not any(others for _, _, others in split)
        if alone and self._factored():
            alone = len({p.device for p in fusing}) == 1
        # A kernel leaves tensors alone in a step that is skipped, but states are made here.
        if not (alone and all(map(self._states.get, fusing))) and self._is_skipped():
            self._measure()
            return
        supplied = None if alone else self._measure()
        if fusing:
            parts = [part for group, params, _ in split for part in self._gather(params, group, fused=True)]
            # Kernels change 0-d states that it may have read.
            self._zero_dim = ZeroDimStates()
            for together in [parts] if alone else _by_place(parts):
                self._run_fused(together, supplied, capturing)
        if supplied is not None:
            work = [part for group, _, others in split for part in self._gather(others, group)]
            self._apply(work, supplied)

    def _apply(self, work: Sequence[Work], supplied: Supplied) -> None:
        """Update what was gathered; `supplied` is what pieces before the rule take from the step."""
        self._advance(work)
        # Tensors that share everything run in one call, whatever group they are of.
        batches: dict[tuple[Any, ...], tuple[Values, Columns]] = {}
        for part in work:
            execution = self._choose(part.group)
            if part.in_tensors:
                self._run_with_tensors(part, execution, supplied)
                continue
            values = {name: x.item() if isinstance(x, Tensor) else x for name, x in part.values.items()}
            for given, kind, indices in part.alike():
                known = part.variant.derive(values | given) | supplied.get(kind[0], {})
                if part.changing:
                    self._hold(part, known, indices)
                columns, scalars = part.at(indices), part.variant.hoisted(known)
                key = (part.variant, execution, part.differentiable, scalars, *kind)
                if key in batches:
                    for column, more in zip(batches[key][1], columns, strict=True):
                        column += more
                else:
                    batches[key] = known, columns
        self._store(work)
        for (variant, execution, differentiable, scalars, *_), (known, columns) in batches.items():
            self._run(variant, execution, columns, scalars, known, differentiable)
        if gathered := [rows for part in work for rows in part.rows]:
            self.executions["sparse"] += 1
            for rows in gathered:
                rows.scatter()

    def _run_with_tensors(self, part: Work, execution: str, supplied: Supplied) -> None:
        """A group whose 0-d states or hyperparameters live in tensors: nothing is read back."""
        differentiable = part.differentiable
        for given, (device, *_), indices in part.alike():
            known: Values = given | {name: as_float64(x, device) for name, x in part.values.items()}
            states = [part.states[i] for i in indices] if part.states else []
            in_tensors = [name for name in self.zero_dim_state if name not in part.held]
            for name in in_tensors:
                # Values on a device cannot be compared here: a vector of them serves all.
                stacked = torch.stack([state[name] for state in states])
                known[name] = stacked.to(device, torch.float64, non_blocking=True)
            known = part.variant.derive(known) | supplied.get(device, {})
            if part.changing:
                self._hold(part, known, indices)
            for name in in_tensors:
                if name in part.variant.derived:
                    known[name] = _kept(name, states, known[name], differentiable)
            scalars = part.variant.hoisted(known)
            self._run(part.variant, execution, part.at(indices), scalars, known, differentiable)

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

    def _gather(self, params: list[Tensor], group: dict[str, Any], fused: bool = False) -> list[Work]:
        """Collect gradients and states of parameters of a group; states that are missing are created.

        Returns:
            One part, or one for each device where 0-d states are beside the parameters.
        """
        if not params:
            return []
        place = self._place_of(params[0], group)
        if place is HOST or len(devices := {p.device: None for p in params}) == 1:
            return [self._gather_at(place, params, group, fused)]
        return [self._gather_at(d, [p for p in params if p.device == d], group, fused) for d in devices]

    def _gather_at(
        self, place: torch.device, params: list[Tensor], group: dict[str, Any], fused: bool
    ) -> Work:
        variant = self._fused_variant(group) if fused else None
        variant = variant or self.variant_of(group, self._scales(), self._clamps())
        grads = [cast(Tensor, p.grad) for p in params]
        layouts = set(map(LAYOUT, grads))
        if layouts != {torch.strided} or self.sparse_gradients == "required":
            self._check_layouts(layouts, params, group)
        # Looking a parameter up creates its state, which torch's checkpoints lack where none is kept.
        stateless = not variant.states and not self.zero_dim_state
        states = [] if stateless else [self._states[p] for p in params]
        firsts = [False] * len(params)
        try:
            columns = [[state[name] for state in states] for name in variant.states]
        except KeyError:
            if _capturing():
                raise RuntimeError(
                    f"{type(self).__name__}: states are created in the first step, which a graph would "
                    "repeat at every replay: take one step before the capture"
                ) from None
            firsts = [any(name not in state for name in variant.states) for state in states]
            for p, state in zip(params, states, strict=True):
                self._create(state, p, group)
            columns = [[state[name] for state in states] for name in variant.states]
        on_device = "step" in self.zero_dim_state and bool(group.get("capturable"))
        values = hyperparameters_of(group, variant)
        in_tensors = on_device or _unreadable(values, group)
        columns = [params, grads, *columns]
        rows = [] if layouts == {torch.strided} else self._take_rows(columns, states, variant)
        return Work(group, variant, values, place, on_device, in_tensors, columns, states, firsts, rows)

    def _take_rows(self, columns: Columns, states: Sequence[dict[str, Any]], variant: Variant) -> list[Rows]:
        """Put rows into the columns in the place of tensors whose gradient is sparse."""
        found = []
        for i, (_, g, *held) in enumerate(zip(*columns, strict=True)):
            sparse = [x.is_sparse for x in (g, *held)]
            if self.sparse_states and any(sparse) and not all(sparse):
                # One of them is dense and moves every row.
                columns[1][i] = g.to_dense()
                for name, column in zip(variant.states, columns[2:], strict=True):
                    column[i] = states[i][name] = column[i].to_dense()
            elif g.is_sparse:
                rows = Rows([column[i] for column in columns])
                for column, x in zip(columns, rows.tensors, strict=True):
                    column[i] = x
                found.append(rows)
        return found

    def _create(self, state: dict[str, Any], p: Tensor, group: dict[str, Any]) -> None:
        start = self.zero_dim_start(group)
        for name in self.zero_dim_state:
            if name not in state:
                place = self._place_of(p, group)
                state[name] = torch.tensor(_number(start.get(name, 0.0)), dtype=stored_dtype(), device=place)
        for name, value in self.state_of(group).items():
            if state.get(name) is None and self.sparse_states and p.grad is not None and p.grad.is_sparse:
                state[name] = torch.zeros_like(p.grad)
            elif state.get(name) is None:
                number = _number(value)
                # A complex parameter is a pair of real ones, and each of them starts there.
                filling = complex(number, number) if p.is_complex() else number
                state[name] = torch.full_like(p, filling, memory_format=torch.preserve_format).detach()

    def _place_of(self, p: Tensor, group: Mapping[str, Any]) -> torch.device:
        """Where 0-d states live: on the host, where reading them costs nothing, unless graphs need them."""
        beside = self.zero_dim_beside_parameters or group.get("capturable") or self._fuses(p, group)
        return p.device if beside else HOST

    def _advance(self, work: Sequence[Work]) -> None:
        """Add one to the step counts of all that steps now, and read what floats can stand for."""
        if "step" not in self.zero_dim_state:
            return
        others = [name for name in self.zero_dim_state if name != "step"]
        places: dict[tuple[torch.device, bool], list[Work]] = {}
        for part in work:
            places.setdefault((part.place, part.counted_on_device), []).append(part)
        for (place, on_device), parts in places.items():
            states = _states_of(parts)
            if not on_device:
                _deal("step", self._zero_dim.count(states, place), parts)
            else:
                self._zero_dim.advance(states, place)
            for name in others:
                readable = [part for part in parts if self._readable(part)]
                if readable:
                    _deal(name, self._zero_dim.read(name, _states_of(readable), place), readable)
                elif on_device and not any(part.differentiable for part in parts):
                    self._zero_dim.gather(name, states, place)

    def _readable(self, part: Work) -> bool:
        """Whether floats can stand for 0-d states beside `step`: not where what they become is a tensor."""
        beside = self.zero_dim_beside_parameters or part.differentiable
        return not part.counted_on_device and not (beside and part.in_tensors)

    def _hold(self, part: Work, known: Values, indices: Sequence[int]) -> None:
        """Take over new values of 0-d states that floats stand for, rounded as they will be stored."""
        names = part.changing
        rounded = torch.tensor([known[name] for name in names], dtype=stored_dtype()).tolist()
        for name, value in zip(names, rounded, strict=True):
            known[name] = value
            for i in indices:
                part.held[name][i] = value

    def _store(self, work: Sequence[Work]) -> None:
        """Write new values of 0-d states that floats stand for, a buffer at a time."""
        for name in {name: None for part in work for name in part.changing}:
            written = [part for part in work if name in part.held]
            for place in {part.place: None for part in written}:
                parts = [part for part in written if part.place == place]
                values = [x for part in parts for x in part.held[name]]
                self._zero_dim.write(name, _states_of(parts), place, values)

    def _choose(self, group: dict[str, Any]) -> str:
        """The execution for what does not run fused of a group, or auto."""
        wanted = implementation_of(group)
        if group.get("differentiable", False):
            return "for_loop"
        if wanted != "fused":
            return wanted
        if not self._unavailable:
            self._tell_once("no fused execution for these tensors, foreach runs instead")
        return "foreach"

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

    def _check_layouts(
        self, layouts: set[torch.layout], params: Sequence[Tensor], group: Mapping[str, Any]
    ) -> None:
        """Refuse gradients that are sparse, or dense, where that has no meaning.

        Raises:
            RuntimeError: says which, and what to do.
        """
        name = type(self).__name__
        if self.sparse_gradients == "required" and torch.strided in layouts:
            raise RuntimeError(f"{name} does not support dense gradients, please consider Adam instead")
        if self.sparse_gradients == "refused":
            raise RuntimeError(
                f"{name} does not support sparse gradients, please consider SparseAdam instead"
            )
        if not layouts <= {torch.strided, torch.sparse_coo} or any(p.is_sparse for p in params):
            raise RuntimeError(f"{name} takes sparse gradients of dense parameters, in COO layout")
        weight_decay = group.get("weight_decay", 0)
        if isinstance(weight_decay, Tensor) or weight_decay != 0:
            raise RuntimeError(
                f"{name}: weight_decay option is not compatible with sparse gradients, since it moves every "
                "row: set weight_decay=0"
            )
        if group.get("differentiable", False):
            raise RuntimeError(f"{name}: `differentiable` is not compatible with sparse gradients")
        if _capturing():
            raise RuntimeError(f"{name}: a graph cannot hold sparse gradients, whose sizes change")

    def _check_capturable(self) -> None:
        counts = "step" in self.zero_dim_state
        if not all(group.get("capturable", not counts) for group in self.param_groups):
            raise RuntimeError(
                "Attempting CUDA graph capture of step() for an instance of "
                f"{type(self).__name__} but param_groups' capturable is False."
            )


def _by_place(parts: Sequence[Work]) -> list[list[Work]]:
    places: dict[torch.device, list[Work]] = {}
    for part in parts:
        places.setdefault(part.place, []).append(part)
    return list(places.values())


def _capturing() -> bool:
    # Without this question first, the other one would set CUDA up.
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _states_of(parts: Sequence[Work]) -> list[dict[str, Any]]:
    return parts[0].states if len(parts) == 1 else [state for part in parts for state in part.states]


def _deal(name: str, values: Sequence[float], parts: Sequence[Work]) -> None:
    """Give each part its own of the values of all."""
    rest = iter(values)
    for part in parts:
        part.held[name] = list(islice(rest, len(part.states)))


def _kept(
    name: str, states: Sequence[dict[str, Any]], value: float | Tensor, differentiable: bool
) -> float | Tensor:
    """Store new values of a 0-d state that lives in tensors; the values as they are stored."""
    dtype = stored_dtype()
    # A fill, unlike a copy from the host, does not wait for the device.
    new = (
        value.to(dtype)
        if isinstance(value, Tensor)
        else torch.full((), value, dtype=dtype, device=states[0][name].device)
    )
    entries = list(new.expand(len(states)).unbind())
    if differentiable:
        # The step is recorded: what it depends on is not overwritten.
        for state, entry in zip(states, entries, strict=True):
            state[name] = entry
    else:
        torch._foreach_copy_([state[name] for state in states], entries)
    return new.double()


def _is_state(entry: object) -> bool:
    """Whether it is of a parameter: users keep entries of their own."""
    return isinstance(entry, dict)


def _number(value: float | Tensor) -> float:
    return value.item() if isinstance(value, Tensor) else value


def _unreadable(values: Values, group: Mapping[str, Any]) -> bool:
    """Whether a number must not be read by the host: it is on another device or carries a gradient."""
    return any(
        isinstance(x, Tensor)
        and (x.device.type != "cpu" or (group.get("differentiable", False) and x.requires_grad))
        for x in values.values()
    )


def _real(columns: Columns) -> Columns:
    """Complex tensors as pairs of real numbers, as torch's elementwise algorithms see them."""
    if not columns[0][0].is_complex():
        return columns
    return [[torch.view_as_real(x) for x in column] for column in columns]
