"""The base of every optimizer: options, the switch between executions, `step` with its closure."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.optim import optimizer as torch_optimizer

from optim_cli.optim.hyperparameters import check_ranges
from optim_cli.optim.matching import Needs, by_name
from optim_cli.optim.saved_state import restore, spare_wide

Implementation = Literal["auto", "for_loop", "foreach", "fused"]

# A tensor of another class need not know torch's foreach functions.
NATIVE = (Tensor, torch.nn.Parameter)

# The one place where torch's two arguments and our one switch meet. Parameter groups keep torch's
# two, so that a state_dict holds torch's keys and no others.
_AS_FOREACH_AND_FUSED: dict[str, tuple[bool | None, bool | None]] = {
    "auto": (None, None),
    "for_loop": (False, None),
    "foreach": (True, None),
    "fused": (None, True),
}


def as_torch_spells_it(options: dict[str, Any]) -> dict[str, Any]:
    """Options with `foreach` and `fused` in the place of `implementation`.

    Raises:
        ValueError: an unknown implementation, or one given together with torch's switches.
    """
    options = dict(options)
    implementation = options.pop("implementation")
    if implementation not in get_args(Implementation):
        allowed = ", ".join(get_args(Implementation))
        raise ValueError(f"Invalid implementation: {implementation!r} (allowed: {allowed})")
    if implementation == "auto":
        return options
    switches = {name: options[name] for name in ("foreach", "fused") if options.get(name) is not None}
    if switches:
        given = ", ".join(f"{name}={value}" for name, value in switches.items())
        raise ValueError(f"implementation={implementation!r} and {given}: give one or the other")
    spelled = zip(("foreach", "fused"), _AS_FOREACH_AND_FUSED[implementation], strict=True)
    # Most of torch's algorithms have no `fused`; theirs is written only where it says something.
    return options | {name: value for name, value in spelled if name in options or value is not None}


def implementation_of(group: Mapping[str, Any]) -> Implementation:
    """The implementation that a parameter group asks for, as torch reads `foreach` and `fused`."""
    foreach, fused = group.get("foreach"), group.get("fused")
    if fused:
        return "fused"
    if foreach:
        return "foreach"
    return "auto" if foreach is None and fused is None else "for_loop"


class Optimizer(torch.optim.Optimizer):
    """What all algorithms share; a subclass lists its options in `__init__` and defines `_update`.

    Options that mean the same wherever an algorithm has them:

    Args:
        maximize: ascend instead of descend.
        capturable: keep 0-d states on the parameters' device, so that a CUDA graph may hold the step.
        differentiable: record the step for autograd, in the for-loop.
        implementation: auto (the fastest that the tensors allow), for_loop, foreach or fused.
        foreach, fused: torch's two switches for the same; `None` leaves the choice open.

    Attributes:
        executions: how often each execution has run, by name: tests and benchmarks assert on it.
        lacks: implementations that are refused, each with the reason.
        only_execution: what runs where all are refused.
        sparse_gradients: whether gradients may or must be sparse.
        beyond_torch: options that torch lacks; groups hold them only where they are set.
        state_of_all: whether the state is of all parameters in their order, so that names do not part it.
        states_span: whether the tensors kept of a parameter have its shape together.
    """

    lacks: ClassVar[Mapping[str, str]] = {}
    only_execution: ClassVar[str | None] = None
    sparse_gradients: ClassVar[Literal["refused", "accepted", "required"]] = "refused"
    beyond_torch: ClassVar[tuple[str, ...]] = ()
    state_of_all: ClassVar[bool] = False
    states_span: ClassVar[bool] = False

    # Keys that checkpoints written before torch had them lack, by option name.
    _absent_in_old_checkpoints: ClassVar[dict[str, Any]] = {
        "amsgrad": False,
        "nesterov": False,
        "decoupled_weight_decay": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
    }

    executions: Counter[str]

    # torch keeps these out of compiled graphs by a wrapper that imports its compiler at the first
    # call, which takes seconds of every start; the functions themselves do the same work.
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)

    def _setup(self, arguments: Mapping[str, Any]) -> None:
        """Initialise from the constructor's arguments (its `locals()`).

        Raises:
            ValueError: a value outside its range, options that contradict each other, or an implementation
                that the algorithm lacks.
            RuntimeError: `fused` together with `foreach`, one of them with `differentiable`.
        """
        options = as_torch_spells_it(
            {
                # Pairs come as lists from YAML and JSON; torch stores tuples.
                name: tuple(value) if isinstance(value, list) else value
                for name, value in arguments.items()
                if name not in ("self", "params", "__class__") and (name not in self.beyond_torch or value)
            }
        )
        check_ranges(type(self), options)
        self._check_options(options)
        self._check_implementation(options)
        super().__init__(arguments["params"], options)
        self.executions = Counter()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; `implementation` may be among its options.

        Raises:
            TypeError: not a dict, or not of parameters.
            ValueError: an implementation that there is not, or parameters that cannot be optimized.
            RuntimeError: `fused` together with `foreach`, one of them with `differentiable`.
        """
        if isinstance(param_group, dict):
            if "implementation" in param_group:
                switches = {name: None for name in ("foreach", "fused") if name in self.defaults}
                param_group = as_torch_spells_it(switches | param_group)
            self._check_implementation(self.defaults | param_group)
        _add_param_group(self, param_group)

    def _check_options(self, options: dict[str, Any]) -> None:
        """Refuse options that contradict each other; a subclass with such options overrides this."""

    def _check_implementation(self, options: Mapping[str, Any]) -> None:
        if options.get("fused") and options.get("foreach"):
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        asked, name = implementation_of(options), type(self).__name__
        if asked in self.lacks:
            allowed = ", ".join(x for x in get_args(Implementation) if x not in self.lacks)
            raise ValueError(
                f"{name} has no {asked} execution, since {self.lacks[asked]}; implementation may be {allowed}"
            )
        if asked in ("foreach", "fused") and options.get("differentiable"):
            raise RuntimeError(
                f"`{asked}` does not support `differentiable`: autograd records {name}'s for-loop only "
                "(implementation may be auto or for_loop)"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, by the names of parameters where all groups of both sides have them.

        What does not match begins anew, and is told in one warning. What was saved wider than its parameter
        keeps its dtype (torch rounds it).

        Raises:
            ValueError: without names, it is of other parameters.
        """
        # After the hooks of others, which see what the caller gave.
        handle = self.register_load_state_dict_pre_hook(_laid_out_and_spared)
        try:
            _load_state_dict(self, state_dict)
        finally:
            handle.remove()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        restore(self)
        # Loading a state calls this too, and must not lose count.
        self.__dict__.setdefault("executions", Counter())
        parameters = inspect.signature(type(self)).parameters
        for group in self.param_groups:
            # torch's checkpoints cannot say what was asked for beyond torch.
            for name in {*self.beyond_torch} & {*self.defaults}:
                group.setdefault(name, self.defaults[name])
            for name, value in self._absent_in_old_checkpoints.items():
                if name in parameters and name not in self.beyond_torch:
                    group.setdefault(name, value)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one optimization step.

        Args:
            closure: reevaluates the model and returns the loss.

        Returns:
            What the closure returned, or None.
        """
        if is_watched(self):
            return _watched_step(self) if closure is None else _watched_step(self, closure)
        return _step(self, closure)

    # torch would wrap `step` in its profiler range and hooks on every call, at 10 to 25 us each.
    step.hooked = True  # type: ignore[attr-defined]

    @staticmethod
    def state_names(group: dict[str, Any]) -> Collection[str]:
        """What is kept of each parameter of a group with these options, as far as it is always there."""
        return ()

    def _update(self) -> None:
        """Update every parameter that has a gradient."""
        raise NotImplementedError(f"{type(self).__name__} defines no _update")


def needs_of(optimizer: torch.optim.Optimizer) -> Needs:
    """By what saved groups and states show that they are of the same algorithm."""
    recent = {*Optimizer._absent_in_old_checkpoints, *getattr(optimizer, "beyond_torch", ())}
    names = optimizer.state_names if isinstance(optimizer, Optimizer) else Optimizer.state_names
    # Old checkpoints lack some options.
    span = bool(getattr(optimizer, "states_span", False))
    return Needs({*optimizer.defaults} - recent, lambda options: names(optimizer.defaults | options), span)


def _laid_out_and_spared(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    if not getattr(optimizer, "state_of_all", False):
        needs = [needs_of(optimizer)] * len(optimizer.param_groups)
        state_dict = by_name(optimizer.param_groups, needs, state_dict)
    return spare_wide(optimizer, state_dict)


def is_watched(optimizer: Optimizer) -> bool:
    """Whether a profiler or a step hook, of this optimizer or a global one, is waiting for the step."""
    return bool(
        profiler._is_profiler_enabled
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
    )


def _step(optimizer: Optimizer, closure: Callable[[], Any] | None = None) -> Any:
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    with torch.set_grad_enabled(bool(optimizer.defaults.get("differentiable"))):
        optimizer._update()
    return loss


_load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
_add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
_watched_step = torch.optim.Optimizer.profile_hook_step(_step)
