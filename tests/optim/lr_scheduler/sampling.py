"""Random schedules that torch accepts and can compute, and both packages side by side on them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as theirs
from torch.optim import swa_utils

from optim_cli import optim
from optim_cli.optim import lr_scheduler as ours
from optim_cli.optim.lr_scheduler import place

Options = dict[str, Any]
EXACT = 1e-12
LONGEST = 40


class Power:
    """A factor with an attribute, which a state_dict holds; pickled by no one."""

    def __init__(self, base: float) -> None:
        self.base = base

    def __call__(self, x: float) -> float:
        return float(self.base**x)


def _lambdas(g: random.Random, groups: int) -> Any:
    functions = [
        g.choice([Power(base), lambda t, base=base: base + 0.01 * t])
        for base in (g.uniform(0.6, 1) for _ in range(groups))
    ]
    return functions if g.random() < 0.5 else functions[0]


def _one_or_many(g: random.Random, groups: int, low: float, high: float) -> Any:
    values = [g.uniform(low, high) for _ in range(groups)]
    return values if g.random() < 0.5 else values[0]


def _one_cycle(g: random.Random, groups: int) -> Options:
    total = g.choice([2, 3, 5, 10, 17, LONGEST])
    # Where the rise takes exactly one step, torch divides by zero: see test_schedule.py.
    shares = [0.0, 0.1, 0.25, 0.3, 0.5, 0.77, 1.0, g.random()]
    options: Options = {
        "max_lr": _one_or_many(g, groups, 1e-3, 2),
        "total_steps": total,
        "pct_start": g.choice([x for x in shares if x * total != 1 and 2 * x * total != 2]),
        "anneal_strategy": g.choice(["cos", "linear"]),
        "cycle_momentum": g.random() < 0.7,
        "base_momentum": _one_or_many(g, groups, 0.1, 0.9),
        "max_momentum": _one_or_many(g, groups, 0.1, 0.99),
        "div_factor": g.choice([1.0, 10.0, 25.0]),
        "final_div_factor": g.choice([1.0, 1e4]),
        "three_phase": g.random() < 0.4,
    }
    if total == LONGEST and g.random() < 0.5:
        del options["total_steps"]
        options |= {"epochs": 5, "steps_per_epoch": 8}
    return options


def _cyclic(g: random.Random, groups: int) -> Options:
    options: Options = {
        "base_lr": _one_or_many(g, groups, 1e-3, 0.1),
        "max_lr": _one_or_many(g, groups, 0.1, 2),
        "step_size_up": g.randint(1, 9),
        "step_size_down": g.choice([None, 1, 4, 7]),
        "mode": g.choice(["triangular", "triangular2", "exp_range"]),
        "gamma": g.uniform(0.8, 1),
        "cycle_momentum": g.random() < 0.7,
        "base_momentum": _one_or_many(g, groups, 0.1, 0.5),
        "max_momentum": _one_or_many(g, groups, 0.5, 0.99),
    }
    if g.random() < 0.4:
        own = {"scale_fn": Power(g.uniform(0.5, 1)), "scale_mode": g.choice(["cycle", "iterations"])}
        options |= own
    return options


# Options of each class, drawn for a number of groups.
SIMPLE: dict[str, Callable[[random.Random, int], Options]] = {
    "LambdaLR": lambda g, n: {"lr_lambda": _lambdas(g, n)},
    "MultiplicativeLR": lambda g, n: {"lr_lambda": _lambdas(g, n)},
    "StepLR": lambda g, n: {"step_size": g.randint(1, 9), "gamma": g.uniform(0.1, 1.1)},
    "MultiStepLR": lambda g, n: {
        "milestones": [g.randint(0, LONGEST) for _ in range(g.randint(0, 5))],
        "gamma": g.uniform(0.1, 1),
    },
    "ConstantLR": lambda g, n: {"factor": g.uniform(0.01, 1), "total_iters": g.randint(1, 30)},
    "LinearLR": lambda g, n: {
        "start_factor": g.choice([1.0, g.uniform(0.01, 1)]),
        "end_factor": g.choice([0.0, 1.0, g.random()]),
        "total_iters": g.randint(1, 30),
    },
    "ExponentialLR": lambda g, n: {"gamma": g.uniform(0.5, 1.1)},
    "PolynomialLR": lambda g, n: {"total_iters": g.randint(1, 30), "power": g.uniform(0.5, 3)},
    "CosineAnnealingLR": lambda g, n: {
        "T_max": g.choice([1, 2, 3, 7, 20]),
        "eta_min": g.choice([0.0, 1e-4, 0.03, 2.0]),
    },
    "CosineAnnealingWarmRestarts": lambda g, n: {
        "T_0": g.randint(1, 9),
        "T_mult": g.randint(1, 3),
        "eta_min": g.choice([0.0, 1e-4, 0.03]),
    },
    "CyclicLR": _cyclic,
    "OneCycleLR": _one_cycle,
    "SWALR": lambda g, n: {
        "swa_lr": _one_or_many(g, n, 1e-3, 1),
        "anneal_epochs": g.randint(0, 9),
        "anneal_strategy": g.choice(["cos", "linear"]),
    },
}


def make(package: Any, name: str, optimizer: Any, **options: Any) -> Any:
    """A schedule of a package, by the name of its class.

    One of torch's CyclicLR starts at `base_lr`, as ours does: see test_repairs.py.
    """
    if package is theirs and name == "SWALR":
        return swa_utils.SWALR(optimizer, **options)
    made = getattr(package, name)(optimizer, **options)
    if package is theirs and name == "CyclicLR":
        for group, rate in zip(optimizer.param_groups, made.base_lrs, strict=True):
            place.write(group, "lr", rate)
    return made


def optimizer_of(package: Any, name: str, rates: Sequence[float], tensor: torch.dtype | None = None) -> Any:
    """An optimizer of a group a rate, the rates in tensors if a dtype is given."""
    groups = [
        {
            "params": [nn.Parameter(torch.ones(1))],
            "lr": x if tensor is None else torch.tensor(x, dtype=tensor),
        }
        for x in rates
    ]
    return getattr(package, name)(groups, lr=0.1, **({"momentum": 0.9} if name == "SGD" else {}))


def rates_of(generator: random.Random) -> list[float]:
    """Rates of one to three groups."""
    return [generator.uniform(1e-3, 1) for _ in range(generator.randrange(1, 4))]


def length_of(name: str, options: Options) -> int:
    """Steps to compare: past the end of most, but torch's cycle has none past its end."""
    if name != "OneCycleLR":
        return LONGEST
    return int(options.get("total_steps") or options["epochs"] * options["steps_per_epoch"]) - 1


def values_of(optimizer: Any) -> list[float]:
    """Rates and momenta of all groups."""
    found = []
    for group in optimizer.param_groups:
        found += [float(group["lr"]), float(group["momentum"] if "momentum" in group else group["betas"][0])]
    return found


def close(left: Sequence[float], right: Sequence[float], rtol: float = EXACT) -> bool:
    """Whether numbers are equal but for roundings."""
    return left == pytest.approx(right, rel=rtol, abs=rtol)


def tolerance(tensor: torch.dtype | None) -> float:
    """Near the lowest rate, a recurrence in float32 magnifies roundings of 2^-24 a thousand times."""
    return 2e-3 if tensor is torch.float32 else EXACT


class Pair:
    """The same schedule of both packages, each on its own optimizer.

    Args:
        build: (package, optimizer) -> the schedule.
        rates: of the groups.
        algorithm: whose momentum is cycled.
        tensor: dtype of rates that are tensors.
    """

    def __init__(
        self,
        build: Callable[[Any, Any], Any],
        rates: Sequence[float],
        algorithm: str = "SGD",
        tensor: torch.dtype | None = None,
    ) -> None:
        self.optimizers = [optimizer_of(x, algorithm, rates, tensor) for x in (optim, torch.optim)]
        self.schedules = [build(x, y) for x, y in zip((ours, theirs), self.optimizers, strict=True)]
        self.tolerance = tolerance(tensor)

    def step(self) -> None:
        """A step of everything."""
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            if not hasattr(optimizer, "_opt_called"):  # once is enough for the schedule not to complain
                optimizer.step()
            schedule.step()

    def scale(self, factor: float) -> None:
        """A change of the rates by hand."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] *= factor

    def check(self) -> None:
        """Equal values, in the groups and as the schedules tell them."""
        left, right = map(values_of, self.optimizers)
        assert close(left, right, self.tolerance)
        left, right = ([float(x) for x in schedule.get_last_lr()] for schedule in self.schedules)
        assert close(left, right, self.tolerance)


def drawn(generator: random.Random, name: str) -> tuple[Pair, int]:
    """A schedule of both packages, and how many steps torch's can take."""
    algorithm, rates = generator.choice(["SGD", "Adam"]), rates_of(generator)
    tensor = generator.choice([None, None, torch.float64, torch.float32])
    options = SIMPLE[name](generator, len(rates))
    print(algorithm, rates, tensor, options)
    return Pair(lambda x, y: make(x, name, y, **options), rates, algorithm, tensor), length_of(name, options)
