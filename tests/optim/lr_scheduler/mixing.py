"""Optimizers whose groups are of several algorithms, and random schedules of them, group by group too."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from optim_cli import optim
from optim_cli.optim import lr_scheduler
from optim_cli.optim.lr_scheduler import place
from tests.optim.lr_scheduler.sampling import LONGEST, SIMPLE, make

# Betas, a momentum, neither; a number where another has a tuple.
KINDS = ("AdamW", "SGD", "Adagrad", "Adafactor")
CYCLES = ("CyclicLR", "OneCycleLR")
# A number that every group has: what is scheduled where the hyperparameter that is meant is not there.
SPARE = "spare"


@dataclass(frozen=True)
class Drawn:
    """A schedule to be made: a class of SIMPLE with its options, or a chain or sequence of parts."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    parts: tuple[Drawn, ...] = ()
    milestones: tuple[int, ...] = ()

    def of_group(self, index: int, group: dict[str, Any]) -> Drawn:
        """What it is for one of the groups; where that lacks the hyperparameter, nothing happens."""
        parts = tuple(x.of_group(index, group) for x in self.parts)
        if not place.has(group, self.options.get("hyperparameter", "lr")):
            return Drawn("ConstantLR", {"factor": 1.0, "hyperparameter": SPARE})
        options = {
            key: x[index] if isinstance(x, list) and key != "milestones" else x
            for key, x in self.options.items()
        }
        return Drawn(self.name, options, parts, self.milestones)

    def made(self, optimizer: Any) -> Any:
        """The schedule."""
        parts = [x.made(optimizer) for x in self.parts]
        if self.name == "ChainedScheduler":
            return lr_scheduler.ChainedScheduler(parts, optimizer)
        if self.name == "SequentialLR":
            return lr_scheduler.SequentialLR(optimizer, parts, [*self.milestones])
        return make(lr_scheduler, self.name, optimizer, **self.options)


def drawn(
    g: random.Random,
    groups: Sequence[dict[str, Any]],
    among: Sequence[str] = tuple(SIMPLE),
    nesting: int = 2,
) -> Drawn:
    """A random schedule of groups: of a hyperparameter that one of them has, or several together."""
    if nesting and g.random() < 0.5:
        parts = tuple(drawn(g, groups, among, nesting - 1) for _ in range(g.randint(1, 3)))
        if g.random() < 0.5:
            return Drawn("ChainedScheduler", parts=parts)
        milestones = sorted(g.sample(range(1, LONGEST), len(parts) - 1))
        return Drawn("SequentialLR", parts=parts, milestones=tuple(milestones))
    name = g.choice(among)
    options = SIMPLE[name](g, len(groups))
    if name == "OneCycleLR":
        options = {x: y for x, y in options.items() if x not in ("epochs", "steps_per_epoch")}
        options |= {"total_steps": 3 * LONGEST}
    if name in CYCLES and g.random() < 0.3:
        options["max_lr"] = None
    if g.random() < 0.5:
        there = ["momentum", "betas.0", "betas.1", "eps", "eps.1", "weight_decay"]
        options["hyperparameter"] = g.choice([x for x in there if any(place.has(y, x) for y in groups)])
    return Drawn(name, options)


def optimizer_of(kinds: Sequence[str], rates: Sequence[float | Tensor]) -> Any:
    """An optimizer of a group for each of the algorithms, in order; of several where there are several.

    Rates that are tensors are copied.
    """
    made = []
    for kind, rate in zip(kinds, rates, strict=True):
        group = {"params": [nn.Parameter(torch.ones(1, 1))], "lr": place.copied(rate), SPARE: 1.0}
        made.append(getattr(optim, kind)([group], **({"momentum": 0.7} if kind == "SGD" else {})))
    return made[0] if len(made) == 1 else optim.MultiOptimizer(made)


def numbers_of(group: dict[str, Any]) -> dict[str, Any]:
    """Everything in a group that may be scheduled, or is not to be touched."""
    return {key: group[key] for key in ("lr", "betas", "momentum", "eps", "weight_decay") if key in group}
