"""Quasi-Newton methods: the base that keeps groups, checkpoints and the closure of `step`."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from optim_cli.optim.optimizer import Optimizer, is_watched
from optim_cli.optim.whole_vector.curvature import CurvaturePairs
from optim_cli.optim.whole_vector.objective import Objective

# Entries of the state that show what the pairs hold.
PAIRS = ("old_dirs", "old_stps", "ro", "al")


class QuasiNewton(Optimizer):
    """An algorithm that takes all parameters as one vector and learns of the curvature from its steps.

    A subclass defines `_minimize`. Parameter groups have equal options. As in torch, the state is that of the
    first parameter.
    """

    lacks = dict.fromkeys(("for_loop", "foreach", "fused"), "it takes all parameters as one vector")
    only_execution = "whole_vector"
    sparse_gradients = "accepted"
    state_of_all = True
    _pairs: CurvaturePairs | None = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; what was remembered of the shorter vector is forgotten.

        Raises:
            TypeError: not a dict, or not of parameters.
            ValueError: its options differ from those of the other groups, or it asks for another execution.
        """
        if isinstance(param_group, dict):
            self._check_options(self.defaults | param_group)
        super().add_param_group(param_group)
        try:
            self._check_equal(self.param_groups)
        except ValueError:
            del self.param_groups[-1]
            raise
        self.state.clear()
        self._pairs = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; it keeps its dtype (torch casts it to that of the first parameter).

        Raises:
            ValueError: it is of other parameters, or its groups have unequal options.
        """
        handle = self.register_load_state_dict_pre_hook(_check_and_spare)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        kept = super().__getstate__()
        # Each vector of a pair would bring the whole matrix that it is a row of.
        state = {p: {k: x for k, x in held.items() if k not in PAIRS} for p, held in self.state.items()}
        return kept | {"state": defaultdict(dict, state), "_pairs": self._pairs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for p, held in self.state.items():
            if isinstance(held, _AsSaved):
                self.state[p] = _moved(held.entries, p.device)
        held = self.state.get(self.param_groups[0]["params"][0], {})
        if held.get("d") is not None:  # torch's is None where no iteration was allowed
            if "_pairs" not in state:
                names = ("old_stps", "old_dirs", "ro", "prev_flat_grad", "H_diag")
                size = self.param_groups[0]["history_size"]
                self._pairs = CurvaturePairs.load(size, *(held[name] for name in names))
            self._show_pairs(held)

    def _show_pairs(self, state: dict[str, Any]) -> None:
        assert self._pairs is not None
        pairs = self._pairs
        state.update(old_dirs=pairs.changes, old_stps=pairs.steps, ro=pairs.rho, H_diag=pairs.scale)
        if state["n_iter"] > 1:
            unknown = [None] * (pairs.size - len(pairs.coefficients))
            state["al"] = [*pairs.coefficients, *unknown]

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Minimize for some iterations.

        Args:
            closure: reevaluates the model and returns the loss; called several times.

        Returns:
            What the closure returned first.

        Raises:
            TypeError: the closure is none.
            ValueError: the options of the parameter groups have come to differ.
        """
        if not callable(closure):
            raise TypeError(
                f"{type(self).__name__} evaluates the loss several times: step(closure) needs a function "
                "that clears the gradients, computes the loss, calls backward() and returns the loss, got "
                f"{closure!r}"
            )
        # Compiled in pieces, it would lose pairs. Importing the compiler to say so takes seconds.
        step = _uncompiled(type(self)._step) if "torch._dynamo" in sys.modules else type(self)._step
        if is_watched(self):
            step = torch.optim.Optimizer.profile_hook_step(step)
        return step(self, closure)

    step.hooked = True  # type: ignore[attr-defined]

    @torch.no_grad()
    def _step(self, closure: Callable[[], Any]) -> Any:
        options = self._options()
        objective = Objective([p for group in self.param_groups for p in group["params"]], closure)
        result = objective.compute()
        state = self.state[options["params"][0]]
        state["func_evals"] = state.get("func_evals", 0) + 1
        state.setdefault("n_iter", 0)
        self._minimize(objective, float(result), options, state)
        self.executions[self.only_execution] += 1
        return result

    def _minimize(
        self, objective: Objective, loss: float, options: dict[str, Any], state: dict[str, Any]
    ) -> None:
        """Iterate.

        Args:
            objective: once evaluated.
            loss: of that evaluation.
            options: of all groups.
            state: of the first parameter.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no _minimize")

    def _options(self) -> dict[str, Any]:
        """The options of all groups.

        Raises:
            ValueError: they have come to differ.
        """
        self._check_equal(self.param_groups)
        return self.param_groups[0]

    def _check_equal(self, groups: list[dict[str, Any]]) -> None:
        for number, group in enumerate(groups):
            for name in self.defaults:
                if group.get(name) != groups[0].get(name):
                    raise ValueError(
                        f"{type(self).__name__} doesn't support per-parameter options: {name} is "
                        f"{groups[0][name]} in parameter group 0 and {group[name]} in group {number}; give "
                        "all groups the same"
                    )


@cache
def _uncompiled(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step that torch.compile leaves alone."""
    alone: Callable[..., Any] = torch.compiler.disable(step)
    return alone


@dataclass(frozen=True)
class _AsSaved:
    """A parameter's state, hidden from torch, which would cast what is in it."""

    entries: Mapping[str, Any]


def _check_and_spare(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    assert isinstance(optimizer, QuasiNewton)
    optimizer._check_equal(state_dict["param_groups"])
    return state_dict | {"state": {key: _AsSaved(held) for key, held in state_dict["state"].items()}}


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    return [_moved(item, device) for item in value] if isinstance(value, list) else value
