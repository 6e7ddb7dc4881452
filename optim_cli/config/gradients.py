"""Whether an optimizer takes the gradients of a model, found out before the first step."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer

from optim_cli.config.groups import key_of
from optim_cli.config.mistakes import Mistake
from optim_cli.optim.composition import Composition
from optim_cli.optim.param_groups import Group
from optim_cli.training.loop import Trainer

# Those of torch.optim that take sparse gradients.
REMEDY = "model.sparse=false, or optimizer=sparse_adam, sgd or adagrad"


def unfit_gradients(
    model: nn.Module, optimizer: Optimizer, groups: Collection[Group], trainer: Trainer | None
) -> Iterator[Mistake]:
    """Gradients that are sparse where none of those are taken, or dense where no other are.

    Sparse ones, too, that are to be clipped beside an optimizer that does not clip them itself.

    Args:
        groups: those that the optimizer is made of; none where it has all parameters as they are.
        trainer: what says how gradients are clipped; None where that is not known.
    """
    sparse = {
        parameter
        for module in model.modules()
        if getattr(module, "sparse", False) is True
        for parameter in module.parameters(recurse=False)
    }
    own = {group.name: group for group in groups}
    for part in getattr(optimizer, "optimizers", (optimizer,)):
        for held in part.param_groups:
            yield from _not_taken(part, held, sparse, own.get(held.get("name", "")), type(model).__name__)
    limits = () if trainer is None else (trainer.clip_norm, trainer.clip_value)
    if sparse and any(x is not None for x in limits) and not isinstance(optimizer, Composition):
        yield Mistake(
            "optimizer",
            f"gradients of {type(optimizer).__name__} are clipped by torch, which clips no sparse ones, and "
            f"those of {type(model).__name__} are sparse; use optimizer=sparse_adam, sgd or adagrad, or "
            "leave trainer.clip_norm and trainer.clip_value at null",
        )


def _not_taken(
    optimizer: Optimizer,
    held: dict[str, Any],
    sparse: Collection[nn.Parameter],
    group: Group | None,
    model: str,
) -> Iterator[Mistake]:
    """What is wrong with the gradients of a parameter group.

    Args:
        held: the group, as the optimizer has it.
        group: where it is from; None where it is the whole model, which is then called `model`.
    """
    taken = getattr(optimizer, "sparse_gradients", "accepted")
    is_wrong = {"required": lambda p: p not in sparse, "refused": lambda p: p in sparse}.get(taken)
    if is_wrong is None or not (wrong := [i for i, p in enumerate(held["params"]) if is_wrong(p)]):
        return
    who = type(optimizer).__name__
    whose = model if group is None else ", ".join(held["param_names"][i] for i in wrong[:5])
    key = "optimizer" if group is None or group.entry is None else key_of(group.entry)
    if taken == "required":
        remedy = "use recipe=python_reference/sparse_adam, or another optimizer"
        yield Mistake(key, f"{who} takes sparse gradients only, and those of {whose} are dense; {remedy}")
    else:
        yield Mistake(key, f"{who} takes no sparse gradients, and those of {whose} are sparse; use {REMEDY}")
