"""Loading by name: models that were renamed, reordered, extended, cut down or given to other algorithms."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS, MultiOptimizer
from optim_cli.optim.optimizer import Optimizer
from tests.optim.any_algorithm import SHARED, takes_dimension, wants_sparse
from tests.optim.oracle import give, params_of
from tests.optim.test_state_dict import as_saved
from tests.results import same_bits

Weights = Mapping[str, nn.Parameter]
# What keeps a state of each parameter, on dense gradients, of vectors as of matrices.
NAMES = [x for x in SHARED if takes_dimension(x, 1) and not wants_sparse(x) and x != "LBFGS"]
names = pytest.mark.parametrize("name", NAMES)


def drawn(generator: torch.Generator, shapes: Mapping[str, Sequence[int]]) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(torch.randn(tuple(x), generator=generator)) for name, x in shapes.items()}


def copied(weights: Weights) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(p.detach().clone()) for name, p in weights.items()}


def step(optimizer: torch.optim.Optimizer, seed: int) -> None:
    """On gradients that are functions of the names."""
    for group in optimizer.param_groups:
        for name, p in zip(group["param_names"], group["params"], strict=True):
            own = torch.Generator().manual_seed(seed + sum(map(ord, name)))
            p.grad = torch.randn(p.shape, generator=own)
    optimizer.step()


def group(weights: Weights, *wanted: str, **options: Any) -> dict[str, Any]:
    return {"params": [(name, weights[name]) for name in wanted], **options}


def silently(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(state)


SHAPES = {"a": (3, 2), "b": (2,), "c": (3, 2), "d": (4,)}


@names
def test_what_matches_goes_on_as_if_nothing_had_happened(name: str, generator: torch.Generator) -> None:
    """Reordered and regrouped, with a parameter more and one less: bit for bit."""
    weights = drawn(generator, SHAPES)
    straight = ALGORITHMS[name]([group(weights, "a", "b"), group(weights, "c", "d")])
    for i in range(3):
        step(straight, i)
    saved = as_saved(straight.state_dict())
    here = copied(weights) | drawn(generator, {"new": (5,)})
    moved = ALGORITHMS[name]([group(here, "c"), group(here, "new", "a"), group(here, "d")])
    with pytest.warns(UserWarning, match="not saved.*: new; saved, but not here.*: b$") as told:
        moved.load_state_dict(saved)
    assert len(told) == 1
    for i in range(3, 6):
        step(straight, i)
        step(moved, i)
    assert all(torch.equal(here[x], weights[x]) for x in "acd")
    assert all(same_bits(moved.state[here[x]], straight.state[weights[x]]) for x in "acd")
    assert [x["param_names"] for x in moved.param_groups] == [["c"], ["new", "a"], ["d"]]
    assert [i for x in moved.state_dict()["param_groups"] for i in x["params"]] == [0, 1, 2, 3]


@names
def test_nothing_is_told_where_all_names_are_found(name: str, generator: torch.Generator) -> None:
    weights = drawn(generator, SHAPES)
    straight = ALGORITHMS[name](weights.items())
    step(straight, 0)
    here = copied(weights)
    same, other = ALGORITHMS[name](here.items()), ALGORITHMS[name](reversed(here.items()))
    for optimizer in (same, other):
        silently(optimizer, as_saved(straight.state_dict()))
        assert all(same_bits(optimizer.state[here[x]], straight.state[weights[x]]) for x in SHAPES)
    assert other.param_groups[0]["param_names"] == ["d", "c", "b", "a"]


def test_options_follow_the_names_of_groups(generator: torch.Generator) -> None:
    weights = drawn(generator, SHAPES)

    def made(*groups: dict[str, Any]) -> Optimizer:
        optimizer: Optimizer = ALGORITHMS["AdamW"](groups, lr=1.0)
        return optimizer

    saved = made(
        group(weights, "a", lr=0.1, name="body"), group(weights, "b", lr=0.2, name="head")
    ).state_dict()
    swapped = made(
        group(weights, "b", name="head"), group(weights, "c", name="new"), group(weights, "a", name="body")
    )
    with pytest.warns(UserWarning, match="not saved, so that it begins anew: c$"):
        swapped.load_state_dict(saved)
    assert [(x["name"], x["lr"]) for x in swapped.param_groups] == [
        ("head", 0.2),
        ("new", 1.0),
        ("body", 0.1),
    ]
    # Without names of groups their places count, if they are as many; names of here stay.
    for groups, rates in (
        ((group(weights, "b"), group(weights, "a")), [0.1, 0.2]),
        ((group(weights, "b"), group(weights, "a", "c")), [0.1, 0.2]),
        ((group(weights, "b", "a"),), [1.0]),
    ):
        optimizer = made(*groups)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.load_state_dict(saved)
        assert [x["lr"] for x in optimizer.param_groups] == rates
    unnamed = made(group(weights, "a"), group(weights, "b")).state_dict()
    named = made(group(weights, "a", name="body"), group(weights, "b", name="head"))
    silently(named, unnamed)
    assert [x["name"] for x in named.param_groups] == ["body", "head"]


@names
def test_without_a_common_name_positions_count(name: str, generator: torch.Generator) -> None:
    """As in torch, for a model that was renamed as a whole; said, and under the names of here."""
    weights = drawn(generator, SHAPES)
    source = ALGORITHMS[name](weights.items())
    step(source, 0)
    renamed = {f"module.{x}": p for x, p in copied(weights).items()}
    target = ALGORITHMS[name](renamed.items())
    with pytest.warns(UserWarning, match=r"loaded by position.*here module.a, .*; saved a, b, c, d$"):
        target.load_state_dict(as_saved(source.state_dict()))
    assert same_bits(target.state_dict()["state"], source.state_dict()["state"])
    assert target.param_groups[0]["param_names"] == [*renamed]
    shorter = ALGORITHMS[name]([("module.a", renamed["module.a"])])
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        shorter.load_state_dict(source.state_dict())


@names
def test_a_parameter_of_another_shape_begins_anew(name: str, generator: torch.Generator) -> None:
    """Also where each dimension by itself would fit into a sum over the other."""
    weights = drawn(generator, SHAPES)
    source = ALGORITHMS[name](weights.items())
    step(source, 0)
    held = [x for x in SHAPES if x not in ("a", "d") and source.state.get(weights[x])]
    here = copied(weights) | drawn(generator, {"a": (3, 5), "d": (1,), "e": (1,)})
    target = ALGORITHMS[name](here.items())
    told = "not saved, so that it begins anew: e"
    if held:
        told += "; saved of another shape, so that it begins anew: a, d$"
    with pytest.warns(UserWarning, match=told):
        target.load_state_dict(as_saved(source.state_dict()))
    assert [x for x in here if target.state.get(here[x])] == held
    step(target, 1)


@names
def test_a_head_of_another_width_begins_anew(name: str, generator: torch.Generator) -> None:
    """Under the same names in the same places."""
    weights = drawn(generator, SHAPES)
    source = ALGORITHMS[name](weights.items())
    step(source, 0)
    here = copied(weights) | drawn(generator, {"d": (5,)})
    target = ALGORITHMS[name](here.items())
    if source.state.get(weights["d"]):
        with pytest.warns(UserWarning, match="names: saved of another shape, so that it begins anew: d$"):
            target.load_state_dict(as_saved(source.state_dict()))
    else:
        silently(target, as_saved(source.state_dict()))
    for optimizer in (source, target):
        step(optimizer, 1)
    assert all(torch.equal(here[x], weights[x]) for x in "abc")


@pytest.mark.parametrize(
    ("before", "after"), [("Adamax", "Adam"), ("Adam", "Adamax"), ("NAdam", "Adamax"), ("Adam", "NAdam")]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_that_lacks_what_an_algorithm_keeps_is_anothers(
    before: str, after: str, prefix: str, generator: torch.Generator
) -> None:
    """Though the options are the same."""
    weights = drawn(generator, SHAPES)
    source = ALGORITHMS[before](weights.items())
    step(source, 0)
    target = ALGORITHMS[after]((prefix + name, p) for name, p in copied(weights).items())
    told = "not saved, so that it begins anew: module.a" if prefix else "another algorithm.*: a, b, c, d$"
    with pytest.warns(UserWarning, match=told):
        target.load_state_dict(as_saved(source.state_dict()))
    assert not target.state


class Norms(Optimizer):
    """Keeps something that does not have the parameter's shape."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def _update(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["corner"] = torch.eye(p.shape[0])


def test_states_of_unknown_shapes_go_on(generator: torch.Generator) -> None:
    weights = drawn(generator, SHAPES)
    source = Norms(weights.items())
    step(source, 0)
    target = Norms(copied(weights).items())
    silently(target, as_saved(source.state_dict()))
    moved = Norms(reversed(copied(weights).items()))
    silently(moved, as_saved(source.state_dict()))
    for optimizer in (target, moved):
        assert [len(x["corner"]) for x in optimizer.state.values()] == [len(x) for x in params_of(optimizer)]


def test_a_state_is_judged_by_the_options_that_it_was_saved_with(generator: torch.Generator) -> None:
    weights = drawn(generator, SHAPES)
    groups = [group(weights, "a", "b"), group(weights, "c", "d", amsgrad=True)]
    source = ALGORITHMS["Adam"](groups)
    step(source, 0)
    here = copied(weights)
    target = ALGORITHMS["Adam"]([group(here, "c", "d", amsgrad=True), group(here, "a", "b")])
    silently(target, as_saved(source.state_dict()))
    assert all(
        torch.equal(target.state[here[x]]["exp_avg"], source.state[weights[x]]["exp_avg"]) for x in SHAPES
    )
    step(target, 1)


def test_many_names_are_counted(generator: torch.Generator) -> None:
    weights = drawn(generator, {f"p{i}": (1,) for i in range(20)})
    source = ALGORITHMS["SGD"](weights.items())
    target = ALGORITHMS["SGD"]([("p19", weights["p19"])])
    with pytest.warns(UserWarning, match=r"dropped: p0, p1, p2, p3, p4 and 14 more$"):
        target.load_state_dict(source.state_dict())


def test_between_algorithms(generator: torch.Generator) -> None:
    """What another algorithm has saved begins anew, and its groups keep their options."""
    weights = drawn(generator, SHAPES)

    def made(matrices: str, rest: str, weights: Weights) -> MultiOptimizer:
        """Muon of some of them, and AdamW of the others."""
        return MultiOptimizer(
            [
                ALGORITHMS["Muon"]([group(weights, *matrices, name="matrices")], lr=0.1),
                ALGORITHMS["AdamW"]([group(weights, *rest, name="rest")], lr=0.2),
            ]
        )

    source = made("ac", "bd", weights)
    step(source, 0)
    source.param_groups[1]["lr"] = 0.4
    here = copied(weights)
    moved = made("c", "dba", here)
    with pytest.warns(UserWarning, match="names: saved by another algorithm, so that it begins anew: a$"):
        moved.load_state_dict(as_saved(source.state_dict()))
    assert all(same_bits(moved.state[here[x]], source.state[weights[x]]) for x in "bcd")
    assert here["a"] not in moved.state
    assert [x["lr"] for x in moved.param_groups] == [0.1, 0.4]
    step(source, 1)
    step(moved, 1)
    assert all(torch.equal(here[x], weights[x]) for x in "bcd")
    alone = ALGORITHMS["AdamW"]([group(here, *"abcd", name="rest")], lr=0.3)
    with pytest.warns(UserWarning, match="another algorithm, so that it begins anew: a, c$"):
        alone.load_state_dict(as_saved(source.state_dict()))
    assert alone.param_groups[0]["lr"] == 0.4
    step(alone, 2)
    same = copied(weights)
    stayed = ALGORITHMS["Muon"]([group(same, "a", "c")], lr=0.3)
    source = ALGORITHMS["AdamW"]([group(same, "a", "c")], lr=0.5)
    step(source, 2)
    with pytest.warns(UserWarning, match=r"names: saved by another algorithm.*: a, c$"):
        stayed.load_state_dict(as_saved(source.state_dict()))
    assert stayed.param_groups[0]["lr"] == 0.3
    step(stayed, 2)
    other = ALGORITHMS["Muon"]([group(here, "a", "c", name="rest")], lr=0.3)
    with pytest.warns(UserWarning, match=r"dropped: b, d; saved by another algorithm.*: a, c$"):
        other.load_state_dict(as_saved(alone.state_dict()))
    assert other.param_groups[0]["lr"] == 0.3
    assert not other.state
    step(other, 0)


def test_hooks_see_what_the_caller_gave(generator: torch.Generator) -> None:
    weights = drawn(generator, SHAPES)
    source, target = (ALGORITHMS["AdamW"](x) for x in (weights.items(), reversed(weights.items())))
    step(source, 0)
    saved, seen = source.state_dict(), []
    target.register_load_state_dict_pre_hook(lambda _, state: seen.append(copy.deepcopy(state)))
    target.load_state_dict(saved)
    assert same_bits(seen, [saved])


@pytest.mark.parametrize("wide", [False, True])
def test_wide_states_stay_wide_where_they_move(wide: bool, generator: torch.Generator) -> None:
    weights = drawn(generator, SHAPES)
    source = ALGORITHMS["AdamW"](weights.items())
    step(source, 0)
    here = {name: nn.Parameter(p.detach().to(torch.bfloat16)) for name, p in weights.items()}
    target = ALGORITHMS["AdamW"](reversed(here.items()) if wide else here.items())
    silently(target, as_saved(source.state_dict()))
    assert all(
        torch.equal(target.state[here[x]]["exp_avg"], source.state[weights[x]]["exp_avg"]) for x in SHAPES
    )


def test_the_vector_of_lbfgs_is_not_parted(generator: torch.Generator) -> None:
    """Its state is of all parameters in their order, so that it loads as in torch."""
    weights = drawn(generator, {"a": (3,), "b": (3,)})
    source, target = (ALGORITHMS["LBFGS"](x) for x in (weights.items(), reversed(weights.items())))

    def closure() -> Tensor:
        loss = torch.stack([(p - 1).pow(4).sum() for p in weights.values()]).sum()
        give(params_of(source), torch.autograd.grad(loss, params_of(source)))
        return loss.detach()

    source.step(closure)
    silently(target, copy.deepcopy(source.state_dict()))
    assert same_bits(target.state_dict()["state"], source.state_dict()["state"])
