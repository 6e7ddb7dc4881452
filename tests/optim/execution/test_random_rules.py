"""Random rules over the vocabulary: every execution computes what the rule called by hand computes."""

from __future__ import annotations

import importlib.util
import inspect
import math
import random
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor

from optim_cli.optim.execution.translate import Stage
from optim_cli.optim.execution.variant import Variant
from optim_cli.optim.execution.vocabulary import OPERATIONS

RULES = 60
SCALARS = ("x", "y", "z")
HEAD = """import torch


def scalars(step, *, x, y):
    twice = x + x
    return dict(z=torch.where(step > 2, twice - step, y) * torch.sqrt(x * x))


def rule(p, g, {states}, *, x, y, z):
"""


class Writer:
    """Writes a rule at random.

    With `exact`, all arithmetic is exact on small dyadic numbers, whatever the order: products have a factor
    that is an input, and denominators are the input `q`, which holds powers of two.
    """

    def __init__(self, draw: random.Random, exact: bool) -> None:
        self.draw = draw
        self.exact = exact
        self.states = [*"abc"[: draw.randint(2, 3)], "q"]
        self.inputs = ["p", "g", *self.states]
        self.known = list(self.inputs)

    def source(self) -> str:
        lines = []
        targets = [x for x in self.inputs if x not in ("g", "q")] + ["t", "u"]
        for _ in range(self.draw.randint(0, 4)):
            target = self.draw.choice(targets)
            lines.append(f"    {target} = {self.tensor(self.draw.randint(1, 3))}")
            if target not in self.known:
                self.known.append(target)
        results = [self.draw.choice([*self.known, self.tensor(1)]) for _ in ("p", *self.states)]
        if self.draw.random() < 0.3:
            results = self.draw.sample(self.inputs, len(results))  # moved about, the gradient among them
        lines.append(f"    return {', '.join(results)}")
        return HEAD.format(states=", ".join(self.states)) + "\n".join(lines) + "\n"

    def factor(self, depth: int) -> str:
        if self.exact:
            # What holds an input's own value still: names that no statement has assigned are few, so `g`.
            return "g"
        return self.tensor(depth)

    def tensor(self, depth: int) -> str:
        if depth == 0:
            leaf: str = self.draw.choice(self.known)
            return leaf
        t, u = (self.tensor(self.draw.randrange(depth)) for _ in range(2))
        f, s = self.factor(depth - 1), self.scalar(1)
        forms = [
            f"({t} + {u})",
            f"({t} - {u})",
            f"({t} * {f})",
            f"({t} * ({s}))",
            f"(({s}) * {t})",
            f"({t} + ({s}))",
            f"(({s}) + {t})",
            f"({t} / {self.draw.choice(['2', '4.0', '0.5'])})",
            f"(-{t})",
            f"torch.neg({t})",
            f"torch.maximum({t}, {u})",
            f"torch.sign({t})",
            f"torch.abs({t})",
            f"torch.clamp_min({t}, {s})",
            f"torch.clamp_max({t}, max={s})",
            f"torch.mul({t}, {f})",
            f"torch.add({t}, {u})",
            f"torch.add({t}, {u}, alpha={s})",
            f"torch.sub({t}, {u})",
            f"torch.lerp({t}, {u}, {s})",
            f"torch.lerp({t}, {u}, weight={s})",
            f"torch.addcmul({t}, {u}, {f})",
            f"torch.addcmul({t}, {u}, {f}, value={s})",
            f"torch.addcdiv({t}, {u}, q, value={s})",
            f"torch.addcdiv({t}, {u}, q)",
            f"torch.div({t}, q)",
        ]
        if not self.exact:
            forms += [f"({t} / {u})", f"torch.sqrt({t})", f"torch.addcdiv({t}, {u}, {f}, value={s})"]
        return self.draw.choice(forms)

    def scalar(self, depth: int) -> str:
        name = self.draw.choice(SCALARS)
        if depth == 0 or self.draw.random() < 0.4:
            return name
        other = self.scalar(depth - 1)
        return self.draw.choice([f"1 - {name}", f"-{name}", f"{name} + {other}", f"{name} / 2", "0.5", "-2"])


def load(source: str, path: Path) -> Any:
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def variant_of(module: Any) -> tuple[Variant, Sequence[str]]:
    parameters = inspect.signature(module.rule).parameters.values()
    outputs = [x.name for x in parameters if x.kind is not x.KEYWORD_ONLY and x.name != "g"]
    stage = Stage(module.rule, tuple(outputs))
    scalars: FunctionType = module.scalars
    return Variant("random", scalars, [stage], outputs[1:], {}), outputs


def row(names: Sequence[str], shape: tuple[int, ...], draw: random.Random) -> list[Tensor]:
    """Small integers; `q` holds powers of two."""

    def values(choices: Sequence[float]) -> Tensor:
        flat = [draw.choice(choices) for _ in range(math.prod(shape))]
        return torch.tensor(flat, dtype=torch.float64).reshape(shape)

    return [values([-2, -0.5, 1, 2] if x == "q" else range(-3, 4)) for x in ("p", "g", *names[1:])]


def by_hand(module: Any, rows: Sequence[Sequence[Tensor]], values: Any) -> list[list[Tensor]]:
    """What should lie in the rows afterwards: `(p, g, *states)`."""
    expected = []
    for p, g, *states in rows:
        new_p, *new_states = module.rule(p, g, *states, **values)
        expected.append([x.clone() for x in (new_p, g, *new_states)])
    return expected


EXECUTIONS = (
    "for_loop",
    "differentiable",
    "foreach",
    "for_loop_with_tensors",
    "differentiable_with_tensors",
    "foreach_with_tensors",
)


@pytest.mark.parametrize("exact", [False, True], ids=["free", "exact"])
def test_every_execution_does_what_the_rule_says(exact: bool, seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    operations: set[str] = set()
    for number in range(RULES):
        source = Writer(draw, exact).source()
        module = load(source, tmp_path / f"rule_{number}.py")
        variant, names = variant_of(module)
        operations |= {op.operation.name for op in variant.program.ops}
        shapes = [(3,), (), (2, 2)]
        rows = [row(names, shape, draw) for shape in shapes]
        values: Any = {"x": 0.5, "y": draw.choice([-0.5, 2.0, 0.25]), "step": draw.choice([1.0, 3.0])}
        known = variant.derive(values)
        expected = by_hand(module, rows, {x: known[x] for x in SCALARS})
        for execution in EXECUTIONS:
            if execution.endswith("tensors") and not exact:
                continue  # operations taken apart round elsewhere
            held = [[x.clone() for x in r] for r in rows]
            run(variant, execution, held, values, draw)
            for r, e in zip(held, expected, strict=True):
                for name, x, y in zip(("p", "g", *names[1:]), r, e, strict=True):
                    assert torch.equal(x.nan_to_num(7, 8, 9), y.nan_to_num(7, 8, 9)), (
                        f"{execution}, {name}: {x.tolist()} instead of {y.tolist()}; {values}\n{source}"
                    )
    assert operations >= OPERATIONS.keys() - ({"sqrt"} if exact else set())


def run(variant: Variant, execution: str, rows: list[list[Tensor]], values: Any, draw: random.Random) -> None:
    columns = [list(column) for column in zip(*rows, strict=True)]
    if execution.endswith("tensors"):
        # A count for each row, some hyperparameters in tensors too.
        known = values | {"step": torch.full((len(rows),), values["step"], dtype=torch.float64)}
        for name in draw.sample(["x", "y"], draw.randint(0, 2)):
            known[name] = torch.tensor(values[name], dtype=torch.float64)
        values = known
    known = variant.derive(values)
    scalars = variant.hoisted(known)
    if execution.startswith("foreach"):
        variant.foreach(columns, scalars)
    else:
        variant.for_loop(columns, scalars, known, execution.startswith("differentiable"))


MOVES = [
    "p, b, a, q",
    "a, b, q, p",
    "p, a, b, q",
    "p, g, g, q",
    "g, p, a, b",
    "a, a, a, a",
    "p + g, p, a, b",
    "a, a + b, p, q",
]


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("returned", MOVES)
def test_states_may_change_places(returned: str, execution: str, seed: int, tmp_path: Path) -> None:
    source = HEAD.format(states="a, b, q") + f"    return {returned}\n"
    module = load(source, tmp_path / "rule.py")
    variant, names = variant_of(module)
    draw = random.Random(seed)
    rows = [row(names, (3,), draw) for _ in range(2)]
    values: Any = {"x": 0.5, "y": 2.0, "step": 1.0}
    expected = by_hand(module, rows, {x: variant.derive(values)[x] for x in SCALARS})
    run(variant, execution, rows, values, draw)
    for r, e in zip(rows, expected, strict=True):
        assert all(map(torch.equal, r, e)), f"{r} instead of {e}"
