"""Per-tensor algorithms: the base of those whose update takes sums or products over a whole tensor."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from optim_cli.optim.clipping import Supplied, limited
from optim_cli.optim.composition import Composition
from optim_cli.optim.execution.foreach import portions
from optim_cli.optim.execution.zero_dim import stored_dtype
from optim_cli.optim.optimizer import NATIVE, implementation_of

State = dict[str, Any]


class PerTensor(Composition):
    """An algorithm that is stated for a list of tensors of one kind.

    A subclass defines `create`, `kind` and `update`; the executions follow: foreach gives `update` all
    tensors of a kind, portion by portion, the for-loop gives it one tensor after another. Where gradients are
    unscaled or clipped, `update` gets copies, a portion at a time.
    """

    states_span: ClassVar[bool] = True
    lacks: ClassVar[Mapping[str, str]] = {"fused": "its step takes sums or products over whole tensors"}

    def create(self, p: Tensor) -> State:
        """The state of a parameter before its first step."""
        raise NotImplementedError(f"{type(self).__name__} defines no create")

    def kind(self, p: Tensor) -> Hashable:
        """What parameters of one call have in common, beside device, class and dtype."""
        raise NotImplementedError(f"{type(self).__name__} defines no kind")

    def update(
        self, options: dict[str, Any], params: list[Tensor], grads: list[Tensor], states: list[State]
    ) -> None:
        """One step of parameters of one kind, in place; gradients are left alone.

        Args:
            options: those of the parameter group, numbers where it holds tensors.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no update")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; `implementation` may be among its options.

        Raises:
            TypeError: not a dict, or not of parameters.
            ValueError: an implementation that there is not, or parameters that cannot be optimized.
        """
        super().add_param_group(param_group)
        try:
            self._check_params(self.param_groups[-1])
        except ValueError:
            del self.param_groups[-1]
            raise

    def _check_params(self, group: dict[str, Any]) -> None:
        """Refuse parameters that cannot be optimized; an algorithm that does not take all overrides this."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for held in self.state.values():
            if isinstance(held, dict) and "step" in held and not isinstance(held["step"], Tensor):
                # Old checkpoints of torch hold a plain number.
                held["step"] = torch.tensor(float(held["step"]), dtype=stored_dtype())

    def _update(self) -> None:
        work = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        for _, params in work:
            self._refuse(params)
        supplied = self._measure()
        if not self._is_skipped():
            for group, params in work:
                self._update_group(group, params, supplied)
        self._average()

    def _update_group(self, group: dict[str, Any], params: Sequence[Tensor], supplied: Supplied) -> None:
        options = {name: x.item() if isinstance(x, Tensor) else x for name, x in group.items()}
        for alike in self._alike(params):
            execution = _execution(group, alike)
            self.executions[execution] += 1
            values = supplied.get(alike[0].device, {})
            for part in _parts(execution, alike):
                some = alike[part]
                grads = limited([cast(Tensor, p.grad) for p in some], values)
                self.update(options, some, grads, [self._state_of(p) for p in some])

    def _alike(self, params: Sequence[Tensor]) -> list[list[Tensor]]:
        """Parameters that may share a call."""
        found: dict[Hashable, list[Tensor]] = {}
        for p in params:
            found.setdefault((p.device, p.__class__, p.dtype, self.kind(p)), []).append(p)
        return list(found.values())

    def _state_of(self, p: Tensor) -> State:
        state: State = self.state[p]
        if not state:
            state.update(self.create(p))
        return state

    def _refuse(self, params: Sequence[Tensor]) -> None:
        """Refuse what torch refuses, before anything has moved."""
        name = type(self).__name__
        if any(p.is_complex() for p in params):
            raise RuntimeError(f"{name} does not support complex parameters")
        if any(cast(Tensor, p.grad).layout is not torch.strided for p in params):
            raise RuntimeError(
                f"{name} does not support sparse gradients, please consider SparseAdam instead"
            )


def _execution(group: Mapping[str, Any], params: Sequence[Tensor]) -> str:
    """The execution for parameters of one kind."""
    wanted = implementation_of(group)
    if wanted != "auto":
        return wanted
    # A tensor subclass need not know torch's foreach functions.
    return "foreach" if params[0].__class__ in NATIVE else "for_loop"


def _parts(execution: str, params: Sequence[Tensor]) -> Iterator[slice]:
    """Which parameters go into one call of `update`."""
    if execution == "foreach":
        return portions(params)
    return (slice(i, i + 1) for i in range(len(params)))
