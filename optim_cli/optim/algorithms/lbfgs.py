"""L-BFGS."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from annotated_types import Ge
from torch import Tensor
from torch.linalg import vector_norm
from torch.optim.optimizer import ParamsT

from optim_cli.optim.hyperparameters import NonNegative
from optim_cli.optim.optimizer import Implementation
from optim_cli.optim.whole_vector.base import QuasiNewton
from optim_cli.optim.whole_vector.curvature import CurvaturePairs
from optim_cli.optim.whole_vector.line_search import Line, Point, strong_wolfe
from optim_cli.optim.whole_vector.objective import Objective

# A pair is kept where the curvature along the step is positive beyond doubt.
LEAST_CURVATURE = 1e-10


class LBFGS(QuasiNewton):
    r"""Limited-memory BFGS (Liu and Nocedal, 1989) in compact form (Byrd, Nocedal, Schnabel, 1994).

    .. math::
        d_k = -H_k g_k, \quad \theta_{k+1} = \theta_k + t_k d_k, \quad
        H_k \text{ of pairs } s_i = t_i d_i,\ y_i = g_{i+1} - g_i

    Args:
        params: parameters, named parameters or parameter groups; groups have equal options.
        lr: :math:`t_k`, or what the line search tries first; less in the very first iteration.
        max_iter: iterations a step.
        max_eval: evaluations of the closure a step; by default 5/4 of `max_iter`.
        tolerance_grad: a step ends where no entry of the gradient is larger.
        tolerance_change: it ends where neither parameters nor loss change by more.
        history_size: pairs that are kept.
        line_search_fn: strong_wolfe, or None for steps of fixed length.
        implementation: auto.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: Annotated[int, Ge(1)] = 100,
        line_search_fn: Literal["strong_wolfe"] | None = None,
        *,
        implementation: Implementation = "auto",
    ) -> None:
        max_eval = max_iter * 5 // 4 if max_eval is None else max_eval
        self._setup(locals())

    def _check_options(self, options: dict[str, Any]) -> None:
        if (given := options["line_search_fn"]) not in ("strong_wolfe", None):
            raise RuntimeError(f"only 'strong_wolfe' is supported as line_search_fn, or None; got {given!r}")

    def _minimize(
        self, objective: Objective, loss: float, options: dict[str, Any], state: dict[str, Any]
    ) -> None:
        max_eval, tolerance_change = options["max_eval"], options["tolerance_change"]
        gradient, evaluations = objective.gradient(), 1
        if _largest(gradient) <= options["tolerance_grad"]:
            return
        for iterations_left in reversed(range(options["max_iter"])):
            state["n_iter"] += 1
            direction, t = self._direction(state, gradient), float(options["lr"])
            if state["n_iter"] == 1:
                t *= min(1.0, 1.0 / float(vector_norm(gradient, 1)))
            state.update(d=direction, t=t, prev_flat_grad=gradient, prev_loss=loss)
            start = Point(0.0, loss, gradient, float(gradient.dot(direction)))
            if start.slope > -tolerance_change:
                return
            used = 0
            if options["line_search_fn"] is not None:
                state["t"] = 0.0  # nothing has moved if the closure raises
                line = Line(objective, direction, start)
                end, used = strong_wolfe(line, t, tolerance_change, max_eval - evaluations)
                state["t"], loss, gradient = end.t, end.loss, end.gradient
            objective.move(direction, state["t"])
            if options["line_search_fn"] is None and iterations_left:
                # What the last iteration leaves is evaluated by the next step.
                (loss, gradient), used = objective.evaluate(), 1
            evaluations += used
            state["func_evals"] += used
            if (
                not iterations_left
                or evaluations >= max_eval
                or _largest(gradient) <= options["tolerance_grad"]
                or abs(state["t"]) * _largest(direction) <= tolerance_change
                or abs(loss - start.loss) < tolerance_change
            ):
                return

    def _direction(self, state: dict[str, Any], gradient: Tensor) -> Tensor:
        if state["n_iter"] == 1:
            self._pairs = CurvaturePairs(self.param_groups[0]["history_size"])
            self._show_pairs(state)
            return -gradient
        assert self._pairs is not None
        y, s = gradient - state["prev_flat_grad"], state["d"] * state["t"]
        curvature = y.dot(s)
        if curvature > LEAST_CURVATURE:
            self._pairs.append(s, y, curvature)
        direction = self._pairs.descent(gradient)
        self._show_pairs(state)
        return direction


def _largest(x: Tensor) -> float:
    return float(vector_norm(x, math.inf))
