"""Several algorithms as one optimizer, against the same ones apart: torch's closely, ours bit for bit."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim.optimizer import register_optimizer_step_post_hook

from optim_cli.optim import ALGORITHMS, MultiOptimizer
from optim_cli.optim.lr_scheduler import LinearLR
from optim_cli.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tests.optim.oracle import NAMES, entries, give, like, parameters, params_of, tensors
from tests.optim.test_state_dict import as_saved
from tests.results import same_bits

STEPS = 6
RATE = 0.02
implementations = pytest.mark.parametrize("implementation", ["for_loop", "foreach"])
Maker = Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]

# With 0-d states and without; in place of the rule's and over whole matrices; of torch; each with a rate.
MIXED: list[Maker] = [
    lambda params: ALGORITHMS["AdamW"](params, lr=RATE),
    lambda params: ALGORITHMS["Adafactor"](params, lr=RATE),
    lambda params: torch.optim.SGD(params, lr=RATE, momentum=0.9),
    lambda params: ALGORITHMS["SGD"](params, lr=RATE, momentum=0.9, dampening=0.5),
]


def matrices_and_rest(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    params = list(model.parameters())
    return [p for p in params if p.dim() == 2], [p for p in params if p.dim() != 2]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 24), nn.LayerNorm(24), nn.ReLU(), nn.Linear(24, 10))


def shared_out(values: Sequence[Tensor], makers: Sequence[Maker]) -> list[torch.optim.Optimizer]:
    """An optimizer of each kind, of parameters of their own in turn."""
    params = parameters(values)
    return [make(params[i :: len(makers)]) for i, make in enumerate(makers)]


def weights_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.detach() for p in params_of(optimizer)]


def same_entries(x: torch.optim.Optimizer, y: torch.optim.Optimizer) -> bool:
    return same_bits(entries(x), entries(y))


@pytest.mark.parametrize("clipped", [False, True])
@implementations
def test_muon_and_adamw_as_torch_s_two_on_digits(implementation: str, clipped: bool, seed: int) -> None:
    """Both sides step the gradients of torch's."""
    torch.manual_seed(seed)
    images, labels = (torch.as_tensor(x) for x in load_digits(return_X_y=True))
    theirs, ours = network(), network()
    ours.load_state_dict(theirs.state_dict())
    options: dict[str, Any] = {"lr": RATE, "weight_decay": 0.1}
    torchs = [
        cls(params, **options)
        for cls, params in zip((torch.optim.Muon, torch.optim.AdamW), matrices_and_rest(theirs), strict=True)
    ]
    parts = [
        ALGORITHMS[name](params, **options, implementation=implementation)
        for name, params in zip(("Muon", "AdamW"), matrices_and_rest(ours), strict=True)
    ]
    multi = MultiOptimizer(parts)
    if clipped:
        multi.clip_gradients(max_norm=0.7, max_value=0.05)
    begin = [p.detach().clone() for p in ours.parameters()]
    for step in range(20):
        theirs.zero_grad()
        drawn = torch.randint(len(images), (32,))
        cross_entropy(theirs(images[drawn].float() / 16), labels[drawn]).backward()
        give([*ours.parameters()], [p.grad for p in theirs.parameters()])
        if clipped:
            norm = clip_grad_norm_(theirs.parameters(), 0.7)
            clip_grad_value_(theirs.parameters(), 0.05)
        for optimizer in torchs:
            optimizer.step()
        multi.step()
        if clipped:
            torch.testing.assert_close(multi.grad_norm, norm)
        for x, y in zip(ours.parameters(), theirs.parameters(), strict=True):
            # Directions of matrices are rounded to bfloat16, and summed in another order.
            error = RATE * (step + 1) * (2**-6 if x.dim() == 2 else 2**-14)
            torch.testing.assert_close(x, y, rtol=2e-6, atol=error)
    assert all((x - y).abs().max() > RATE for x, y in zip(ours.parameters(), begin, strict=True))
    assert set(multi.executions) == {implementation}


class Recommender(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 5, sparse=True)
        self.layer = nn.Linear(5, 3)

    def forward(self, indices: Tensor) -> Tensor:
        out: Tensor = self.layer(self.table(indices).mean(1))
        return out


@pytest.mark.parametrize("limits", [(None, None), (0.3, None), (0.3, 0.02)], ids=str)
def test_sparse_and_dense(limits: tuple[float | None, float | None], seed: int) -> None:
    torch.manual_seed(seed)
    theirs, ours = Recommender(), Recommender()
    ours.load_state_dict(theirs.state_dict())
    torchs = [torch.optim.SparseAdam(theirs.table.parameters()), torch.optim.Adam(theirs.layer.parameters())]
    multi = MultiOptimizer(
        [ALGORITHMS["Adam"](ours.layer.parameters()), ALGORITHMS["SparseAdam"](ours.table.parameters())]
    )
    multi.clip_gradients(*limits)
    with torch.sparse.check_sparse_tensor_invariants():
        for _ in range(STEPS):
            indices, labels = torch.randint(12, (4, 3)), torch.randint(3, (4,))
            for model in (theirs, ours):
                model.zero_grad()
                cross_entropy(model(indices), labels).backward()
            given = [p.grad.clone() for p in ours.parameters() if p.grad is not None]
            values = []
            for p in theirs.parameters():
                assert p.grad is not None
                p.grad = p.grad.coalesce() if p.grad.is_sparse else p.grad
                values.append(p.grad.values() if p.grad.is_sparse else p.grad)
            norm = torch.cat([x.flatten() for x in values]).norm()
            for x in values:
                x.mul_(min(1.0, (limits[0] or torch.inf) / float(norm)))
                x.clamp_(-(limits[1] or torch.inf), limits[1] or torch.inf)
            for optimizer in torchs:
                optimizer.step()
            multi.step()
            for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
            for p, g in zip(ours.parameters(), given, strict=True):
                assert p.grad is not None
                assert torch.equal(p.grad.to_dense(), g.to_dense()), "as they were"
    assert multi.executions["sparse"] == STEPS


@pytest.mark.parametrize("trial", range(8))
def test_random_combinations_are_what_they_are_apart(trial: int, generator: torch.Generator) -> None:
    rng = random.Random(generator.initial_seed() + trial)
    values = [torch.randn(3, 2 + i % 3, generator=generator) for i in range(9)]
    chosen = rng.sample([*NAMES, "Muon", "Adafactor"], rng.randint(2, 4))
    print(chosen)

    def make(name: str) -> Maker:
        return lambda params: ALGORITHMS[name](params, lr=RATE)

    apart, parts = (shared_out(values, [make(name) for name in chosen]) for _ in range(2))
    multi = MultiOptimizer(parts)
    for _ in range(STEPS):
        gradients = [g if rng.random() < 0.8 else None for g in like(weights_of(multi), generator)]
        give(params_of(multi), gradients)
        give([p for optimizer in apart for p in params_of(optimizer)], gradients)
        multi.step()
        for optimizer in apart:
            optimizer.step()
    assert all(map(same_entries, parts, apart))


@pytest.mark.parametrize("limits", [(None, None), (0.5, None), (None, 0.1), (0.5, 0.1)], ids=str)
@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adafactor"])
@implementations
def test_one_algorithm_twice_is_it_once(
    name: str, implementation: str, limits: tuple[float | None, float | None], generator: torch.Generator
) -> None:
    """With one norm, and one verdict and scale of a scaler."""
    values = tensors(generator)
    cls, options = ALGORITHMS[name], {"implementation": implementation}
    params = parameters(values)
    once: Any = cls(parameters(values), **options)
    twice = MultiOptimizer([cls(params[:2], **options), cls(params[2:], **options)])
    for optimizer in (once, twice):
        optimizer.clip_gradients(*limits)
    scalers = [torch.amp.GradScaler("cpu", init_scale=4096.0, growth_interval=2) for _ in range(2)]
    for scaler in scalers:
        scaler.scale(torch.ones(()))
    for step in range(STEPS):
        gradients = like(values, generator)
        if step in (0, 3):
            gradients[2][1] = torch.inf
        for optimizer, scaler in zip((once, twice), scalers, strict=True):
            give(params_of(optimizer), [g * scaler.get_scale() for g in gradients])
            scaler.step(optimizer)
            scaler.update()
        assert same_entries(once, twice)
        assert same_bits(once.grad_norm, twice.grad_norm)
    assert len({scaler.get_scale() for scaler in scalers}) == 1
    assert set(twice.executions) == {implementation}


@pytest.mark.parametrize("unscaled", [False, True], ids=["in the step", "before"])
def test_a_scaler_scales_and_skips_all_together(unscaled: bool, generator: torch.Generator) -> None:
    """Scales are powers of two, so that nothing is rounded; only torch's gradients are overwritten."""
    values = [torch.randn(2, 3, generator=generator) for _ in range(8)]
    apart, parts = (shared_out(values, MIXED) for _ in range(2))
    multi = MultiOptimizer(parts)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    scaler.scale(torch.ones(()))
    for step in range(STEPS):
        gradients = like(weights_of(multi), generator)
        if step in (0, 3):
            gradients[step * 2][1] = torch.nan
        scaled = [g * scaler.get_scale() for g in gradients]
        give(params_of(multi), scaled)
        if unscaled:
            scaler.unscale_(multi)
            scaled = gradients
        scaler.step(multi)
        scaler.update()
        for part in (parts[0], parts[1], parts[3]):
            kept = {id(p): g for p, g in zip(params_of(multi), scaled, strict=True)}
            assert all(same_bits(p.grad, kept[id(p)]) or step in (0, 3) for p in params_of(part))
        if step not in (0, 3):
            give([p for optimizer in apart for p in params_of(optimizer)], gradients)
            for optimizer in apart:
                optimizer.step()
        assert all(map(same_entries, parts, apart)), step
    assert not {"grad_scale", "found_inf"} & vars(multi).keys()


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("equal", [True, False])
def test_an_average_of_all_weights(order: int, equal: bool, seed: int) -> None:
    """As by hand after the step, whoever of the optimizers does it, in steps that are skipped too."""
    torch.manual_seed(seed)
    model = network()
    other = copy.deepcopy(model)
    function = None if equal else get_ema_multi_avg_fn(0.6)
    averaged, expected = (AveragedModel(x, multi_avg_fn=function) for x in (model, other))

    def optimizer_of(model: nn.Module) -> MultiOptimizer:
        matrices, rest = matrices_and_rest(model)
        parts = [ALGORITHMS["Muon"](matrices), ALGORITHMS["AdamW"](rest[::2]), torch.optim.SGD(rest[1::2])]
        return MultiOptimizer(parts[::order])

    within, after = optimizer_of(model), optimizer_of(other)
    within.average_into(averaged, model)
    for step in range(STEPS):
        gradients = [torch.randn_like(p) for p in model.parameters()]
        for optimizer, owner in ((within, model), (after, other)):
            give([*owner.parameters()], gradients)
            if step == 2:
                optimizer.found_inf = torch.ones(())
            optimizer.step()
            optimizer.__dict__.pop("found_inf", None)
        expected.update_parameters(other)
        assert same_bits(averaged.state_dict(), expected.state_dict()), step
    within.average_into(None)
    within.step()
    assert int(averaged.n_averaged) == STEPS


def test_a_state_goes_on_through_a_file(generator: torch.Generator) -> None:
    """Indices run on over the optimizers, as in torch's layout of several groups."""
    values = [torch.randn(2, 3, generator=generator) for _ in range(9)]
    multi = MultiOptimizer(shared_out(values, MIXED))
    legs = [[like(weights_of(multi), generator) for _ in range(3)] for _ in range(2)]
    for gradients in legs[0]:
        give(params_of(multi), gradients)
        multi.step()
    saved = as_saved(multi.state_dict())
    assert [group["params"] for group in saved["param_groups"]] == [[0, 1, 2], [3, 4], [5, 6], [7, 8]]
    assert sorted(saved["state"]) == [*range(9)]
    assert {key: len(held) for key, held in saved["state"].items()} == dict(
        zip(range(9), [3, 3, 3, 3, 3, 1, 1, 1, 1], strict=True)
    )
    loaded = MultiOptimizer(shared_out(values, MIXED))
    loaded.load_state_dict(saved)
    with torch.no_grad():
        for x, y in zip(params_of(loaded), params_of(multi), strict=True):
            x.copy_(y)
    for gradients in legs[1]:
        for optimizer in (multi, loaded):
            give(params_of(optimizer), gradients)
            optimizer.step()
    assert same_entries(multi, loaded)
    assert same_bits(multi.state_dict(), loaded.state_dict())


def test_a_state_of_other_parameters_is_refused_and_changes_nothing(generator: torch.Generator) -> None:
    values = [torch.randn(2, 3, generator=generator) for _ in range(9)]
    multi = MultiOptimizer(shared_out(values, MIXED))
    give(params_of(multi), weights_of(multi))
    multi.step()
    before = copy.deepcopy(multi.state_dict())
    for makers, told in ((MIXED[:3], "a different number of parameter groups"), (MIXED, "match the size of")):
        saved = MultiOptimizer(shared_out(values[: 2 * len(makers)], makers)).state_dict()
        with pytest.raises(ValueError, match=told):
            multi.load_state_dict(saved)
    assert same_bits(multi.state_dict(), before)


def test_a_state_of_other_algorithms_is_refused_and_changes_nothing() -> None:
    """Without names nothing else tells; by its options, or where these are the same by what is kept."""

    def made(first: str, second: str) -> MultiOptimizer:
        of_both = [parameters([torch.ones(2, 3)]) for _ in range(2)]
        groups = [[{"params": of_both[0], "name": "matrices"}], of_both[1]]
        multi = MultiOptimizer([ALGORITHMS[x](y) for x, y in zip((first, second), groups, strict=True)])
        give(params_of(multi), weights_of(multi))
        multi.step()
        return multi

    multi = made("Muon", "Adamax")
    before = copy.deepcopy(multi.state_dict())
    told = "group matrices lacks adjust_lr_fn, momentum, ns_coefficients, ns_steps; group 1 lacks exp_inf$"
    with pytest.raises(ValueError, match=told):
        multi.load_state_dict(made("AdamW", "Adam").state_dict())
    assert same_bits(multi.state_dict(), before)
    multi.load_state_dict(as_saved(made("Muon", "Adamax").state_dict()))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_train_on_alone(duplicate: Any, generator: torch.Generator) -> None:
    multi = MultiOptimizer(shared_out([torch.randn(2, 3, generator=generator) for _ in range(4)], MIXED))
    multi.clip_gradients(max_norm=1.0)
    give(params_of(multi), weights_of(multi))
    multi.step()
    twin = duplicate(multi)
    assert same_entries(multi, twin)
    held = copy.deepcopy(entries(multi))
    give(params_of(twin), weights_of(twin))
    twin.step()
    assert same_bits(entries(multi), held)
    assert twin.grad_norm is None, "copies do not clip, as those of others"
    assert [type(x) for x in twin.optimizers] == [type(x) for x in multi.optimizers]


def test_it_is_an_optimizer_to_others(generator: torch.Generator) -> None:
    """Hooks run once, a closure is called once, schedules move all groups, states are where they were."""
    multi = MultiOptimizer(shared_out([torch.randn(2, 3, generator=generator) for _ in range(8)], MIXED[:2]))
    first, second = multi.optimizers
    seen: list[Any] = []
    multi.register_step_pre_hook(lambda *_: seen.append("before"))
    multi.register_state_dict_pre_hook(lambda *_: seen.append("saving"))
    multi.register_state_dict_post_hook(lambda optimizer, state: state | {"more": 1})
    multi.register_load_state_dict_pre_hook(lambda optimizer, state: seen.append(state.pop("more")))
    multi.register_load_state_dict_post_hook(lambda *_: seen.append("loaded"))
    handle = register_optimizer_step_post_hook(lambda optimizer, *_: seen.append(optimizer))
    schedule = LinearLR(multi, start_factor=0.5, total_iters=2)
    try:

        def closure() -> float:
            seen.append("closure")
            give(params_of(multi), weights_of(multi))
            return 1.5

        assert multi.step(closure) == 1.5
    finally:
        handle.remove()
    assert seen == ["before", "closure", multi]
    schedule.step()
    assert [group["lr"] for x in (first, second) for group in x.param_groups] == [0.75 * RATE] * 2
    multi.load_state_dict(multi.state_dict())
    assert seen[3:] == ["saving", 1, "loaded"]
    assert all(
        x is y for x, y in zip(multi.param_groups, first.param_groups + second.param_groups, strict=True)
    )
    multi.zero_grad()
    assert all(p.grad is None for p in params_of(multi))
    assert multi.defaults["betas"] == first.defaults["betas"]
    assert multi.defaults["d"] == second.defaults["d"]
    text = repr(multi)
    assert text.startswith("MultiOptimizer (\nAdamW (")
    assert "Adafactor (" in text


def test_the_state_is_that_of_the_parts(generator: torch.Generator) -> None:
    multi = MultiOptimizer(shared_out([torch.randn(2, 3, generator=generator) for _ in range(4)], MIXED[:2]))
    params = params_of(multi)
    assert not multi.state
    assert params[0] not in multi.state
    assert multi.state.get(params[0]) is None
    give(params, weights_of(multi))
    multi.step()
    assert [*multi.state] == params
    for part in multi.optimizers:
        assert all(multi.state[p] is part.state[p] for p in params_of(part))
    del multi.state[params[3]]
    assert len(multi.state) == 3
    assert params[3] not in multi.optimizers[1].state
    multi.state[params[3]]["mine"] = 1
    assert multi.optimizers[1].state[params[3]] == {"mine": 1}
    multi.state["note"] = {"mine": 2}
    assert [*multi.optimizers[0].state] == [*params[:2], "note"]
    multi.load_state_dict(multi.state_dict())
    assert multi.optimizers[0].state.get("note") == {"mine": 2}  # type: ignore[call-overload]
    assert len(multi.state) == 5


def test_a_group_is_added_to_the_first(generator: torch.Generator) -> None:
    multi = MultiOptimizer(shared_out([torch.randn(2, 3, generator=generator) for _ in range(4)], MIXED[:2]))
    multi.add_param_group({"params": parameters([torch.ones(3)]), "lr": 0.5})
    assert [len(part.param_groups) for part in multi.optimizers] == [2, 1]
    assert multi.param_groups[1]["lr"] == 0.5
    with pytest.raises(ValueError, match=r"more than one parameter group.*of shape \[2, 3\]"):
        multi.add_param_group({"params": params_of(multi.optimizers[1])[:1]})
    assert len(multi.param_groups) == 3


class Needy(torch.optim.Optimizer):
    def step(self, closure: Callable[[], float]) -> float:  # type: ignore[override]
        return closure()


def test_what_cannot_be_one_optimizer() -> None:
    one, other = (ALGORITHMS["SGD"](nn.Linear(2, 2).named_parameters()) for _ in range(2))
    lbfgs = ALGORITHMS["LBFGS"](parameters([torch.ones(2)]))
    needy = Needy(parameters([torch.ones(2)]), {})
    shared = ALGORITHMS["AdamW"]([("head.weight", params_of(one)[0])])
    for parts, told in (
        ([], "got no optimizers"),
        ([one, other, one], r"optimizer 2 \(SGD\) is there twice"),
        ([one, MultiOptimizer([other])], r"optimizer 1 \(MultiOptimizer\) is itself of several"),
        ([one, lbfgs], r"optimizer 1 \(LBFGS\) evaluates a closure"),
        ([needy, one], r"optimizer 0 \(Needy\) evaluates a closure"),
        (
            [one, shared],
            r"some parameters appear in more than one parameter group: parameter head.weight is in "
            r"optimizer 1 \(AdamW\) and in optimizer 0 \(SGD\)",
        ),
    ):
        with pytest.raises(ValueError, match=told):
            MultiOptimizer(parts)
