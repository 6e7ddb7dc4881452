"""What of a step runs fused, how it is repeated, and what happens where it cannot."""

from __future__ import annotations

import logging
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import attrgetter, getitem, is_
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from optim_cli.optim.clipping import Supplied
from optim_cli.optim.composition import Composition
from optim_cli.optim.execution.pointers import (
    FLOATING,
    in_order_of,
    is_dense,
    is_readable,
    mixes,
    ordered_like,
)
from optim_cli.optim.execution.scalars import Values
from optim_cli.optim.execution.variant import Variant
from optim_cli.optim.execution.work import Work
from optim_cli.optim.execution.zero_dim import ZeroDimStates, stored_dtype
from optim_cli.optim.optimizer import NATIVE, implementation_of
from optim_cli.optim.swa_utils import AveragedModel, ExponentialAverage
from optim_cli.optim.swa_utils.averaged_model import copy_pairs

if TYPE_CHECKING:
    from optim_cli.optim.execution.fused.kernels import Kernels
    from optim_cli.optim.execution.fused.plan import Around, Plan
    from optim_cli.optim.execution.fused.printer import Form

log = logging.getLogger(__name__)

# Patterns of missing gradients whose plans are kept.
PLANS = 8

_kernels: dict[tuple[Variant, tuple[str, ...], Form, torch.device], Kernels] = {}

IS_CUDA = attrgetter("is_cuda")


class Unavailable(Exception):
    """Triton, its assembler or the C compiler refuses."""


def fits(g: Tensor, p: Tensor) -> bool:
    """Whether a gradient is one that kernels may reach, or a copy of it."""
    return (
        g.layout == torch.strided
        and g.__class__ in NATIVE
        and g.dtype in FLOATING
        and g.is_complex() == p.is_complex()
    )


class Fusing(Composition):
    """An optimizer that updates tensors on a GPU in one launch, where Triton is there.

    Attributes:
        zero_dim_state: names of the 0-d states, as torch names them.
        zero_dim_beside_parameters: whether they are on the parameters' device whatever runs.
        launches: kernels that the fused execution has launched, by kind (table, norm, prologue, update).
    """

    zero_dim_state: ClassVar[tuple[str, ...]] = ()
    zero_dim_beside_parameters: ClassVar[bool] = False

    launches: Counter[str]

    _averages: Mapping[int, Tensor] = {}
    _pairs: Sequence[tuple[Tensor, Tensor]] = ()
    _copied: Sequence[tuple[Tensor, Tensor]] = ()
    # Whether this step has taken the weights into the average.
    _averaged = False
    # Whether kernels have turned out not to compile here.
    _unavailable = False
    # Whether somebody else has had the states in hand.
    _state_seen = False

    def _setup(self, arguments: Mapping[str, Any]) -> None:
        self._forget_plans()
        self._told: set[str] = set()
        # Graphs read the tables of these for as long as they are replayed.
        self._of_graphs: list[Plan] = []
        self.launches = Counter()
        super()._setup(arguments)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget_plans()
        self._state_seen = False
        self.__dict__.setdefault("_told", set())
        self.__dict__.setdefault("_of_graphs", [])
        self.__dict__.setdefault("launches", Counter())

    @property
    def state(self) -> Any:
        """What is kept of each parameter; who has it in hand may change it, so that steps look it through."""
        self._state_seen = True
        return self._states

    @state.setter
    def state(self, state: Any) -> None:
        self.__dict__["state"] = state
        self._forget_plans()
        self._state_seen = False

    @property
    def _states(self) -> Any:
        return self.__dict__["state"]

    def state_dict(self) -> dict[str, Any]:
        """See torch.optim.Optimizer.state_dict; 0-d states are where torch would have them."""
        seen = self._state_seen
        result: dict[str, Any] = super().state_dict()
        # Who changes what is in there changes no state.
        result["state"] = {i: {**x} if isinstance(x, dict) else x for i, x in result["state"].items()}
        self._plans.clear()
        self._state_seen = seen
        for group in result["param_groups"]:
            if self.zero_dim_beside_parameters or group.get("capturable") or group.get("fused"):
                continue
            members = [i for i in group["params"] if i in result["state"]]
            for name in self.zero_dim_state:
                _bring_home(name, [result["state"][i] for i in members])
        return result

    def _forget_plans(self) -> None:
        self._plans: list[Plan] = []
        # What is done around the rule, where that is the same at every step.
        self._lasting: Around | None = None

    def _fuses(self, p: Tensor, group: Mapping[str, Any]) -> bool:
        """Whether a parameter of a group is one that kernels may reach by its address."""
        return self._fuses_some(group) and self._is_reached(p, group)

    def _fuses_some(self, group: Mapping[str, Any]) -> bool:
        wanted = implementation_of(group)
        return wanted in ("auto", "fused") and not self._unavailable and not group.get("differentiable")

    def _is_reached(self, p: Tensor, group: Mapping[str, Any]) -> bool:
        return (
            (p.is_cuda or (_interpreted(group) and p.device.type == "cpu"))
            and p.__class__ in NATIVE
            and p.dtype in FLOATING
            and p.layout == torch.strided
            and is_dense(p)
            and not any(_is_odd(x, p.device) for x in group.values())
        )

    def _split(self, group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters that have a gradient: those whose step runs fused, and others."""
        params = [p for p in group["params"] if p.grad is not None]
        if not self._fuses_some(group) or not (any(map(IS_CUDA, params)) or _interpreted(group)):
            return [], params
        fused: list[Tensor] = []
        others: list[Tensor] = []
        for p in params:
            reached = p.grad is not None and fits(p.grad, p) and self._is_reached(p, group)
            (fused if reached else others).append(p)
        return fused, others

    def _fused_variant(self, group: dict[str, Any]) -> Variant | None:
        """What a group runs as one of those that step together; None where it does not run fused."""
        if implementation_of(group) not in ("auto", "fused") or group.get("differentiable"):
            return None
        # Weight decay is a number like others, so that groups with and without it are one launch.
        decay = {"weight_decay": 1.0} if "weight_decay" in group else {}
        return self.variant_of(group | decay, self._factored(), self._clamps())

    def _factored(self) -> bool:
        if self._given is not None:
            return self._scales()
        return self._clipping.max_norm is not None or self._is_scaled()

    def _is_scaled(self) -> bool:
        return any(getattr(self, name, None) is not None for name in ("found_inf", "grad_scale"))

    def variant_of(self, group: dict[str, Any], scaled: bool = False, clamped: bool = False) -> Variant:
        """The algorithm as the options of a parameter group resolve it."""
        raise NotImplementedError(f"{type(self).__name__} defines no variant_of")

    def _prepare_fused(self, part: Work) -> None:
        """Bring what steps into the form that kernels reach: gradients, states and 0-d states."""
        params, grads, *states = part.columns
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g.shape != p.shape:
                raise RuntimeError(
                    f"{type(self).__name__}: the gradient of a parameter of shape {tuple(p.shape)} is of "
                    f"shape {tuple(g.shape)}"
                )
            plain = g.resolve_conj().resolve_neg().detach()
            grads[i] = plain if ordered_like(plain, p) else in_order_of(plain, p)
            for name, column in zip(part.variant.states, states, strict=True):
                x = column[i]
                if x.device != p.device or x.shape != p.shape or x.is_complex() != p.is_complex():
                    raise RuntimeError(
                        f"{type(self).__name__}: the state {name} of a parameter of shape {tuple(p.shape)} "
                        f"on {p.device} is of shape {tuple(x.shape)} on {x.device}"
                    )
                if not ordered_like(x, p):
                    column[i] = part.states[i][name] = in_order_of(x, p)
        for name in self.zero_dim_state:
            entries = [state[name] for state in part.states]
            placed = all(
                isinstance(x, Tensor) and x.device == part.place and x.dtype == stored_dtype()
                for x in entries
            )
            if any(part.firsts) or not placed:
                ZeroDimStates().gather(name, part.states, part.place)

    def clip_gradients(self, max_norm: float | None = None, max_value: float | None = None) -> None:
        """See Composition."""
        super().clip_gradients(max_norm, max_value)
        self._forget_plans()

    def average_into(self, averaged: AveragedModel | None, model: nn.Module | None = None) -> None:
        """See Composition."""
        super().average_into(averaged, model)
        self._forget_plans()
        self._pair_up()

    def _pair_up(self) -> None:
        """Find out what kernels average, if they can average all that steps."""
        self._averages, self._pairs, self._copied = {}, [], []
        if self._averaging is None:
            return
        averaged, model = self._averaging
        stepping = {id(p): p for group in self.param_groups for p in group["params"] if self._fuses(p, group)}
        devices = {p.device for p in stepping.values()}
        pairs = averaged.pairs(model)
        own = [(x, p) for x, p in pairs if id(p) in stepping]
        # Subclasses may decay in another way.
        exponential = type(averaged.multi_avg_fn) is ExponentialAverage
        if exponential and len(devices) == 1 and all(mixes(x, p) for x, p in own):
            # Counted where graphs can count.
            averaged.n_averaged = averaged.n_averaged.to(devices.pop())
            self._averages = {id(p): x for x, p in own}
            self._pairs, self._copied = pairs, averaged.copied(model)
            modules = [*averaged.module.modules(), *model.modules()]
            places: list[tuple[Any, str]] = [(x._buffers, name) for x in modules for name in x._buffers]
            places += [(x._parameters, name) for x in averaged.module.modules() for name in x._parameters]
            self._holders, self._names = [x for x, _ in places], [name for _, name in places]
            self._found = [*map(getitem, self._holders, self._names)]
            self._counts = averaged.n_averaged.device, averaged.multi_avg_fn

    def _averages_where_they_were(self) -> bool:
        """Whether averages and buffers are the very tensors that were paired up."""
        if not self._averages or self._averaging is None:
            return True
        averaged, _ = self._averaging
        try:
            found = [*map(getitem, self._holders, self._names)]
        except KeyError:
            return False
        counts = averaged.n_averaged.device, averaged.multi_avg_fn
        return counts == self._counts and all(map(is_, found, self._found))

    def _around(self, supplied: Supplied | None, device: torch.device) -> Around:
        """What a step does besides the rule; where others step beside, they all share what is supplied."""
        given = self._given if supplied is None else supplied
        around = self._around_alone() if given is None else self._around_given(given, device)
        if supplied is None and self._averages and self._averaging:
            averaged, _ = self._averaging
            average = cast(ExponentialAverage, averaged.multi_avg_fn)
            around.averages, around.pairs = self._averages, self._pairs
            around.weight, around.warmup = 1 - average.decay, average.warmup
            around.averaged = averaged.n_averaged
        elif given is None and around.lasts:
            self._lasting = around
        return around

    def _around_alone(self) -> Around:
        from optim_cli.optim.execution.fused.plan import Around

        limits = self._clipping
        values: Values = {} if limits.max_value is None else {"clip_value": limits.max_value}
        scaler = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        return Around(limits.max_norm, values, None, *scaler)

    def _around_given(self, supplied: Supplied, device: torch.device) -> Around:
        from optim_cli.optim.execution.fused.plan import Around

        values = dict(supplied.get(device, {}))
        factor = cast(Tensor | None, values.pop("gradient_factor", None))
        if factor is None and self._factored():
            factor = torch.ones((), dtype=torch.float64, device=device)
        return Around(None, values, factor)

    def _repeat(self) -> bool:
        """Step as the last time or one of the last times, if that is all there is to it."""
        if not self._plans:
            return False
        around = self._lasting
        if around is None or self._given is not None or self._averages or self._is_scaled():
            if not self._averages_where_they_were():
                return False
            around = self._around(None, self._plans[0].device)
        states = self._states if self._state_seen else None
        for plan in self._plans:
            if plan.repeats(self.param_groups, states, self._fused_variant, around, self.launches):
                if plan is not self._plans[0]:
                    self._plans.remove(plan)
                    self._plans.insert(0, plan)
                self._launch(plan, measured=True)
                return True
        return False

    def _run_fused(self, parts: Sequence[Work], supplied: Supplied | None, apart: bool) -> None:
        """Step what was gathered.

        Args:
            parts: what steps.
            supplied: what the step supplies where others step beside; else all is measured on the way.
            apart: a graph is being captured.

        Raises:
            Unavailable: nothing has happened yet, and another execution has to do it.
            RuntimeError: kernels would have to be compiled while a graph is captured.
        """
        if self._averaging is not None and not apart:
            known, self._plans = self._averages, self._plans if self._averages_where_they_were() else []
            self._pair_up()
            if known.keys() == self._averages.keys() and all(
                self._averages[i] is x for i, x in known.items()
            ):
                # Other plans know them by this dictionary.
                self._averages = known
        try:
            from optim_cli.optim.execution.fused.plan import Plan

            around = self._around(supplied, parts[0].place)
        except ImportError as error:
            raise Unavailable(f"Triton is not there ({error})") from error
        for part in parts:
            self._prepare_fused(part)
        plan = Plan(self.param_groups, parts, self.zero_dim_state, around, self._kernels_for, apart)
        if apart:
            self._of_graphs.append(plan)
        elif supplied is None:
            self._plans = [plan, *self._plans][:PLANS]
        self._launch(plan, measured=False)

    def _launch(self, plan: Plan, measured: bool) -> None:
        self._averaged = bool(plan.averages)
        if self._averaged and plan.only_averaged and self._averaging is not None:
            # What does not step, while the count is still that of the last time.
            self._averaging[0].update_pairs(plan.only_averaged)
        if self._averaged and self._copied:
            copy_pairs(self._copied)
        plan.launch(self.launches, measured)
        # As an operation in place would, so that autograd notices a backward pass through old values.
        increment_version(plan.params)
        self.executions["fused"] += len(plan.batches)
        if plan.norm is not None:
            self._norm = plan.norm

    def _kernels_for(self, variant: Variant, form: Form, device: torch.device) -> Kernels:
        from optim_cli.optim.execution.fused.kernels import Kernels

        key = (variant, self.zero_dim_state, form, device)
        if key not in _kernels:
            if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    f"{type(self).__name__}: kernels would have to be compiled while a CUDA graph is "
                    "captured: take one step with the same options before the capture"
                )
            try:
                _kernels[key] = Kernels(*key)
            except Exception as error:
                log.exception("%s: a fused kernel does not compile", type(self).__name__)
                reason = str(error).strip().rpartition("\n")[2] or type(error).__name__
                raise Unavailable(f"its kernel does not compile ({reason})") from error
        return _kernels[key]

    def _fall_back(self, reason: Unavailable) -> None:
        self._unavailable = True
        self._tell_once(f"no fused execution here, since {reason}: foreach runs instead")

    def _tell_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            warnings.warn(f"{type(self).__name__}: {message}", stacklevel=2)


def _interpreted(group: Mapping[str, Any]) -> bool:
    """Whether Triton's interpreter runs kernels on the host, where a test asks for it."""
    return implementation_of(group) == "fused" and os.environ.get("TRITON_INTERPRET") == "1"


def _is_odd(option: object, device: torch.device) -> bool:
    """Whether an option is held in tensors that a kernel on a device does not read."""
    held = option if isinstance(option, tuple) else (option,)
    tensors = (x for x in held if isinstance(x, Tensor))
    return any(x.device.type != "cpu" and not is_readable(x, device) for x in tensors)


def _bring_home(name: str, states: Sequence[dict[str, Any]]) -> None:
    """Replace an entry of some states that is on a device by copies on the host."""
    away = [x for x in states if isinstance(value := x.get(name), Tensor) and value.device.type != "cpu"]
    if away:
        copies = torch.stack([x[name] for x in away]).cpu().unbind()
        for state, copy in zip(away, copies, strict=True):
            state[name] = copy
