"""A step on one batch: of most optimizers by one evaluation of the loss, of some by several."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from optim_cli.training.around_step import AroundStep
from optim_cli.training.randomness import random_state, set_random_state, undisturbed

# Takes model, optimizer, what is around its steps, inputs and targets; returns loss and logits with the
# weights before the step.
Step = Callable[[nn.Module, Optimizer, AroundStep, Tensor, Tensor], tuple[Tensor, Tensor]]


def step_of(optimizer: Optimizer) -> Step:
    """The kind of step that an optimizer takes; the signature of its own says whether it needs a closure."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    needed = closure is not None and closure.default is closure.empty
    return step_with_closure if needed else step_once


def step_once(
    model: nn.Module, optimizer: Optimizer, around: AroundStep, inputs: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Evaluate loss and gradients, and step."""
    loss, logits = _evaluate(model, optimizer, around, inputs, targets)
    optimizer.step()
    around.after_step()
    return loss.detach(), logits


def step_with_closure(
    model: nn.Module, optimizer: Optimizer, around: AroundStep, inputs: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Let the optimizer evaluate loss and gradients as often as it likes.

    Every evaluation draws the same random numbers, so that dropout leaves it one function to minimize; they
    are drawn once as far as later steps are concerned. Buffers, such as the averages of batch normalization,
    follow every evaluation.
    """
    start = random_state()
    first: list[tuple[Tensor, Tensor]] = []

    def closure() -> Tensor:
        if not first:
            first.append(_evaluate(model, optimizer, around, inputs, targets))
            return first[0][0]
        with undisturbed():
            set_random_state(start)
            return _evaluate(model, optimizer, around, inputs, targets)[0]

    optimizer.step(closure)  # type: ignore[arg-type]  # a tensor stands for a number
    around.after_step()
    [(loss, logits)] = first
    return loss.detach(), logits


def _evaluate(
    model: nn.Module, optimizer: Optimizer, around: AroundStep, inputs: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    logits = model(inputs)
    loss = cross_entropy(logits, targets)
    optimizer.zero_grad()
    loss.backward()
    around.after_backward()
    return loss, logits
