"""Parameters that are trained only from some step of a run on."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from optim_cli.optim.param_groups.entries import Group


class Unfreezing:
    """Lets parameters need gradients when their time has come; it is a function of the step alone.

    Until then they have no gradient, so that an optimizer leaves them, and what it keeps of them, alone.

    Args:
        groups: parameter groups; those with a setting `unfreeze_at` are trained after so many steps.
    """

    def __init__(self, groups: Iterable[Group]) -> None:
        self._waiting = [
            (group.settings["unfreeze_at"], [*group.parameters.values()])
            for group in groups
            if "unfreeze_at" in group.settings
        ]

    def before_step(self, step: int) -> None:
        """Get ready for a step; they count from 1."""
        for frozen_steps, parameters in self._waiting:
            trained = step > frozen_steps
            if parameters[0].requires_grad != trained:
                let_train(parameters, trained)


def let_train(parameters: Iterable[nn.Parameter], trained: bool) -> None:
    """Let parameters need gradients, or freeze them."""
    for parameter in parameters:
        parameter.requires_grad_(trained)
        if not trained:
            # With one from before, an optimizer would move it.
            parameter.grad = None
