"""Several algorithms in one model: optimizers, each of its own parameters, that act as one."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, MutableMapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from optim_cli.optim.clipping import Supplied, limit_in_place
from optim_cli.optim.composition import Composition
from optim_cli.optim.fusing import Fusing
from optim_cli.optim.matching import by_name, check_places
from optim_cli.optim.optimizer import needs_of
from optim_cli.optim.swa_utils import AveragedModel


class MultiOptimizer(Composition):
    """Optimizers of one model, such as Muon of its matrices and AdamW of the rest, as one optimizer.

    One step, one state_dict (in torch's layout; indices run on over the optimizers), schedules over all
    groups, one norm of all gradients to clip by, one GradScaler, one average. What is asked of this object
    holds for all of them: ask nothing of them directly, and register hooks here. What a scaler skips nobody
    steps; to know that, the step waits for the device.

    Optimizers that are not of this package are stepped as they are: where gradients are unscaled or clipped,
    theirs are overwritten first, as `torch.nn.utils.clip_grad_norm_` does. All others stay as they are.

    Args:
        optimizers: in the order of their parameter groups; of this package, of torch or a program's own.

    Attributes:
        optimizers: as given.
        param_groups: those of all optimizers, the very dictionaries; the list is made anew each time.
        state: what they keep of each parameter.
        defaults: options of all of them; where several have one, the first one's.
        executions, launches: those of all of them, counted together.

    Raises:
        ValueError: there is none; one is itself of several, stands there twice or needs a closure in its
            step; or a parameter is in two of them.
    """

    # Each takes what it takes.
    sparse_gradients = "accepted"

    optimizers: tuple[torch.optim.Optimizer, ...]

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = tuple(optimizers)
        self._check()
        defaults = [optimizer.defaults for optimizer in self.optimizers]
        united = {name: value for some in reversed(defaults) for name, value in some.items()}
        united["differentiable"] = any(some.get("differentiable") for some in defaults)
        # What torch sets up when it unpickles: hooks, but neither groups nor states.
        torch.optim.Optimizer.__setstate__(self, {"defaults": united})
        self._factors: dict[torch.device, Tensor] = {}
        self.clip_gradients()
        self.average_into(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.optimizers,)

    def __repr__(self) -> str:
        return f"{type(self).__name__} (\n" + "\n".join(map(repr, self.optimizers)) + "\n)"

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """See the class."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def state(self) -> States:  # type: ignore[override]
        """See the class."""
        return States(self.optimizers)

    @property
    def executions(self) -> Counter[str]:  # type: ignore[override]
        """See the class."""
        return self._counted("executions")

    @property
    def launches(self) -> Counter[str]:
        """See the class."""
        return self._counted("launches")

    def _counted(self, name: str) -> Counter[str]:
        counts: Counter[str] = Counter()
        for optimizer in self.optimizers:
            counts.update(getattr(optimizer, name, {}))
        return counts

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to the first optimizer; for another one, call that one's.

        Raises:
            TypeError: not a dict, or not of parameters.
            ValueError: the first optimizer cannot optimize them, or a parameter is in some group already.
        """
        first = self.optimizers[0]
        first.add_param_group(param_group)
        try:
            self._check()
        except ValueError:
            del first.param_groups[-1]
            raise

    def clip_gradients(self, max_norm: float | None = None, max_value: float | None = None) -> None:
        """See Composition; the norm is that of the gradients of all optimizers together."""
        super().clip_gradients(max_norm, max_value)
        for optimizer in self.optimizers:
            if isinstance(optimizer, Composition):
                optimizer.clip_gradients()

    def average_into(self, averaged: AveragedModel | None, model: nn.Module | None = None) -> None:
        """See Composition; the last optimizer that can averages all weights within its own step."""
        super().average_into(averaged, model)
        for optimizer in self.optimizers:
            if isinstance(optimizer, Composition):
                optimizer.average_into(None)
        if (averaging := self._averaging_part) is not None:
            averaging.average_into(averaged, model)

    @property
    def _averaging_part(self) -> Fusing | None:
        """The last one that may find all weights in hand, which must step after all others."""
        able = (x for x in reversed(self.optimizers) if isinstance(x, Fusing) and "fused" not in x.lacks)
        return next(able, None)

    def _update(self) -> None:
        supplied = self._measure()
        if self._is_skipped():
            self._average()
            return
        last = self._averaging_part
        for optimizer in self.optimizers:
            if optimizer is not last:
                self._step_part(optimizer, supplied)
        if last is None:
            self._average()
        else:
            self._step_part(last, supplied)

    def _measure(self) -> Supplied:
        """See Composition; factors lie where they lay before, so that fused steps can be repeated."""
        supplied = super()._measure()
        for device, values in supplied.items():
            factor = values.get("gradient_factor")
            if isinstance(factor, Tensor) and not factor.requires_grad:
                kept = self._factors.setdefault(device, torch.empty_like(factor))
                values["gradient_factor"] = kept.copy_(factor)
        return supplied

    def _step_part(self, optimizer: torch.optim.Optimizer, supplied: Supplied) -> None:
        if not isinstance(optimizer, Composition):
            if supplied:
                limit_in_place([p for group in optimizer.param_groups for p in group["params"]], supplied)
            optimizer.step()
            return
        optimizer._given = supplied or None
        try:
            with torch.set_grad_enabled(bool(optimizer.defaults.get("differentiable"))):
                optimizer._update()
        finally:
            optimizer._given = None

    def state_dict(self) -> dict[str, Any]:
        """See torch.optim.Optimizer.state_dict; indices of parameters run on over the optimizers."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state: dict[Any, Any] = {}
        groups: list[dict[str, Any]] = []
        start = 0
        for optimizer in self.optimizers:
            saved = optimizer.state_dict()
            # Programs keep entries of their own, which are not of parameters.
            state |= {start + i if isinstance(i, int) else i: held for i, held in saved["state"].items()}
            groups += [
                group | {"params": [start + i for i in group["params"]]} for group in saved["param_groups"]
            ]
            start += sum(len(group["params"]) for group in saved["param_groups"])
        result: dict[str, Any] = {"state": state, "param_groups": groups}
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, result)
            result = result if changed is None else changed
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, by the names of parameters where all groups of both sides have them.

        What does not match begins anew, and is told in one warning. Each optimizer loads its own as it does
        alone.

        Raises:
            ValueError: without names, it is of other parameters or algorithms; nothing has been loaded.
        """
        state_dict = state_dict.copy()
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, state_dict)
            state_dict = state_dict if changed is None else changed
        needs = [needs_of(optimizer) for optimizer in self.optimizers for _ in optimizer.param_groups]
        state_dict = by_name(self.param_groups, needs, state_dict)
        check_places(self.param_groups, needs, state_dict)
        saved = iter(state_dict["param_groups"])
        for optimizer in self.optimizers:
            groups = [next(saved) for _ in optimizer.param_groups]
            own = {i for group in groups for i in group["params"]}
            if optimizer is self.optimizers[0]:
                # Entries that are not of parameters.
                own |= {i for i in state_dict["state"] if not isinstance(i, int)}
            state = {i: held for i, held in state_dict["state"].items() if i in own}
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _check(self) -> None:
        """Refuse what cannot be one optimizer.

        Raises:
            ValueError: see the class.
        """
        if not self.optimizers:
            raise ValueError("MultiOptimizer got no optimizers")
        owners: dict[int, int] = {}
        for i, optimizer in enumerate(self.optimizers):
            name = _title(i, optimizer)
            if isinstance(optimizer, MultiOptimizer):
                raise ValueError(f"{name} is itself of several optimizers: list these instead")
            if any(optimizer is other for other in self.optimizers[:i]):
                raise ValueError(f"{name} is there twice")
            if wants_closure(optimizer):
                raise ValueError(
                    f"{name} evaluates a closure in its step, so that no other can step beside it"
                )
            for group in optimizer.param_groups:
                for j, p in enumerate(group["params"]):
                    if (other := owners.setdefault(id(p), i)) != i:
                        of = group.get("param_names", {j: f"of shape {list(p.shape)}"})[j]
                        raise ValueError(
                            "some parameters appear in more than one parameter group: parameter "
                            f"{of} is in {name} and in {_title(other, self.optimizers[other])}"
                        )


def _title(index: int, optimizer: torch.optim.Optimizer) -> str:
    return f"optimizer {index} ({type(optimizer).__name__})"


def wants_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer cannot step without a closure, as its signature says."""
    parameters = inspect.signature(optimizer.step).parameters.values()
    return any(x.default is x.empty and x.kind is x.POSITIONAL_OR_KEYWORD for x in parameters)


class States(MutableMapping[Any, Any]):
    """The states of several optimizers, each parameter's where its optimizer keeps it."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._optimizers = optimizers

    def _of(self, key: Any) -> Any:
        for optimizer in self._optimizers:
            if key in optimizer.state or any(key is p for x in optimizer.param_groups for p in x["params"]):
                return optimizer.state
        # Programs keep entries of their own.
        return self._optimizers[0].state

    def __getitem__(self, key: Any) -> Any:
        return self._of(key)[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._of(key)[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._of(key)[key]

    def __contains__(self, key: object) -> bool:
        return any(key in optimizer.state for optimizer in self._optimizers)

    def get(self, key: Any, default: Any = None) -> Any:
        """The state, or the default; unlike `[]`, creates none."""
        return self._of(key).get(key, default)

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(optimizer.state for optimizer in self._optimizers)

    def __len__(self) -> int:
        return sum(len(optimizer.state) for optimizer in self._optimizers)
