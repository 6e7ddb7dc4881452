"""An optimizer as other code meets it: closures, hooks, scalers, schedulers, the base class."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from optim_cli import optim
from optim_cli.optim import ALGORITHMS
from optim_cli.optim.optimizer import Implementation
from tests.optim.oracle import (
    NAMES,
    asked,
    assert_close,
    drift,
    give,
    like,
    pair,
    parameters,
    params_of,
    ran,
    step_both,
    takes,
    tensors,
    theirs_of,
)

names = pytest.mark.parametrize("name", NAMES)


@names
def test_class_is_what_other_libraries_check_for(name: str) -> None:
    assert issubclass(ALGORITHMS[name], torch.optim.Optimizer)
    assert not issubclass(ALGORITHMS[name], theirs_of(name))
    assert getattr(optim, name) is ALGORITHMS[name]
    ours, theirs = pair(name, [torch.ones(2)])
    assert ours.defaults == theirs.defaults
    assert repr(ours) == repr(theirs)


def test_adamw_is_an_adam() -> None:
    assert issubclass(ALGORITHMS["AdamW"], ALGORITHMS["Adam"])


@names
def test_closure_is_evaluated_once_with_gradients_on(name: str) -> None:
    both = pair(name, [torch.ones(2, 2)])
    for optimizer in both:
        (p,) = params_of(optimizer)
        calls: list[bool] = []

        def closure(p: Tensor = p, calls: list[bool] = calls) -> Any:
            calls.append(torch.is_grad_enabled())
            p.grad = None
            loss = (p**2).sum()
            loss.backward()
            return loss

        with torch.no_grad():
            loss = optimizer.step(closure)
        assert loss == 4
        assert calls == [True]
        assert optimizer.step(closure=closure) < 4
    assert_close(*both)
    assert both[0].step() is None
    assert ran(both[0]) == {"foreach": 3}


@names
def test_step_hooks_run_around_the_step(name: str) -> None:
    ours = ALGORITHMS[name]([nn.Parameter(torch.ones(2))])
    seen: list[Any] = []
    p = params_of(ours)[0]

    def note(which: str) -> Any:
        return lambda optimizer, args, kwargs: seen.append((which, optimizer is ours, bool((p == 1).all())))

    handles = [
        register_optimizer_step_pre_hook(note("global pre")),
        register_optimizer_step_post_hook(note("global post")),
        ours.register_step_pre_hook(note("pre")),
        ours.register_step_post_hook(note("post")),
    ]
    try:
        give([p], [torch.ones(2)])
        ours.step()
    finally:
        for handle in handles:
            handle.remove()
    assert sorted(seen) == [
        ("global post", True, False),
        ("global pre", True, True),
        ("post", True, False),
        ("pre", True, True),
    ]
    ours.step()
    assert len(seen) == 4
    assert ran(ours) == {"foreach": 2}


@names
def test_a_pre_hook_may_replace_the_closure(name: str) -> None:
    ours = ALGORITHMS[name]([nn.Parameter(torch.ones(2))])
    ours.register_step_pre_hook(lambda optimizer, args, kwargs: ((optimizer, lambda: 7), {}))
    assert ours.step(lambda: 3) == 7


@names
def test_a_profiler_sees_the_step(name: str) -> None:
    ours = ALGORITHMS[name]([nn.Parameter(torch.ones(2))])
    give(params_of(ours), [torch.ones(2)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            ours.step()
    assert f"Optimizer.step#{name}.step" in {event.key for event in profile.key_averages()}
    assert ran(ours) == {"foreach": 1}


@names
def test_state_dict_hooks_run(name: str) -> None:
    ours = ALGORITHMS[name]([nn.Parameter(torch.ones(2))])
    seen = []
    ours.register_state_dict_pre_hook(lambda optimizer: seen.append("save"))
    ours.register_load_state_dict_post_hook(lambda optimizer: seen.append("load"))
    ours.load_state_dict(ours.state_dict())
    assert seen == ["save", "load"]


@pytest.mark.parametrize("set_to_none", [True, False])
@names
def test_zero_grad(name: str, set_to_none: bool) -> None:
    ours = ALGORITHMS[name]([nn.Parameter(torch.ones(2))])
    give(params_of(ours), [torch.ones(2)])
    ours.zero_grad(set_to_none=set_to_none)
    (gradient,) = (p.grad for p in params_of(ours))
    assert (gradient is None) == set_to_none
    assert gradient is None or torch.equal(gradient, torch.zeros(2))


@pytest.mark.parametrize("execution", ["auto", "fused"])
@pytest.mark.filterwarnings("ignore:.*no fused execution")
@names
def test_grad_scaler_skips_and_scales_as_with_torch(name: str, execution: str) -> None:
    scaled = [torch.tensor([1.0, 2.0]), torch.tensor([torch.inf, 1.0]), torch.tensor([4.0, -8.0])]
    results = []
    for cls, asking in zip((ALGORITHMS[name], theirs_of(name)), asked(name, execution), strict=True):
        optimizer = cls(parameters([torch.ones(2)]), lr=0.1, **asking)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1)
        scales = []
        for g in scaled:
            scaler.scale(torch.ones(()))
            give(params_of(optimizer), [g])
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
        results.append((optimizer, scales))
    (ours, our_scales), (theirs, their_scales) = results
    assert our_scales == their_scales == [8.0, 4.0, 8.0]
    assert_close(ours, theirs)
    assert ran(ours) == {"foreach": 2}


def schedules(optimizer: torch.optim.Optimizer) -> Iterator[lr_scheduler.LRScheduler]:
    yield lr_scheduler.StepLR(optimizer, 2, 0.5)
    yield lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch)
    yield lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3)
    yield lr_scheduler.LinearLR(optimizer)
    cycles = "momentum" in optimizer.defaults or "betas" in optimizer.defaults
    yield lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10, cycle_momentum=cycles)
    yield lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, 2, cycle_momentum="momentum" in optimizer.defaults)
    yield lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.5)], [2]
    )
    yield swa_utils.SWALR(optimizer, swa_lr=0.05)


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("index", range(8))
@names
def test_schedulers_of_torch_drive_our_optimizers(
    name: str, index: int, tensor_lr: bool, generator: torch.Generator
) -> None:
    values = tensors(generator, torch.float64)
    options = {"momentum": 0.9} if takes(name, "momentum") else {}
    both = []
    for cls in (ALGORITHMS[name], theirs_of(name)):
        lr = torch.tensor(0.1, dtype=torch.float64) if tensor_lr else 0.1
        both.append(cls(parameters(values), lr=lr, **options))
    ours, theirs = both
    schedulers = [next(s for i, s in enumerate(schedules(optimizer)) if i == index) for optimizer in both]
    rates = set()
    for _ in range(5):
        step_both(ours, theirs, like(values, generator))
        for scheduler in schedulers:
            scheduler.step()
        assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
        rates.add(float(ours.param_groups[0]["lr"]))
    assert_close(ours, theirs, drift(name))
    assert len(rates) > 1
    assert ran(ours) == {"foreach": 5}


@names
def test_reduce_on_plateau_drives_our_optimizers(name: str) -> None:
    ours = ALGORITHMS[name]([nn.Parameter(torch.ones(2))], lr=0.1)
    scheduler = lr_scheduler.ReduceLROnPlateau(ours, patience=0)
    for loss in (1.0, 1.0, 1.0):
        scheduler.step(loss)
    assert ours.param_groups[0]["lr"] == pytest.approx(0.001)


@pytest.mark.parametrize("option", ["fused", "implementation"])
@names
def test_fused_on_a_cpu_is_told_once(name: str, option: str) -> None:
    if not takes(name, option):
        pytest.skip(f"{name} has no {option}")
    options: dict[str, Any] = {option: True if option == "fused" else "fused"}
    values = [torch.ones(2), torch.ones(2).double()]
    ours = ALGORITHMS[name](parameters(values), **options)
    give(params_of(ours), values)
    with pytest.warns(UserWarning, match=f"{name}: no fused execution .*foreach runs instead") as told:
        ours.step()
    assert len(told) == 1
    ours.step()  # where another warning would be an error
    assert ran(ours) == {"foreach": 4}


@names
def test_fused_on_a_cpu_is_not_told_again_after_loading(name: str) -> None:
    ours = ALGORITHMS[name](parameters([torch.ones(2)]), implementation="fused")
    give(params_of(ours), [torch.ones(2)])
    with pytest.warns(UserWarning, match="no fused execution"):
        ours.step()
    ours.load_state_dict(copy.deepcopy(ours.state_dict()))
    ours.step()
    assert ran(ours) == {"foreach": 2}


SWITCH: list[tuple[Implementation, bool | None, bool | None, str]] = [
    ("auto", None, None, "foreach"),
    ("for_loop", False, None, "for_loop"),
    ("foreach", True, None, "foreach"),
    ("fused", None, True, "foreach"),
]


@pytest.mark.filterwarnings("ignore:.*no fused execution")
@pytest.mark.parametrize(("implementation", "foreach", "fused", "execution"), SWITCH)
@names
def test_implementation_is_torchs_two_switches_in_one(
    name: str, implementation: Implementation, foreach: bool | None, fused: bool | None, execution: str
) -> None:
    spelled = {"foreach": foreach} | ({"fused": fused} if takes(name, "fused") else {})
    equals = [{"implementation": implementation}] + (
        [spelled] if fused in (None, spelled.get("fused")) else []
    )
    for options in equals:
        ours = ALGORITHMS[name]([nn.Parameter(torch.ones(2))], **options)
        group = ours.param_groups[0]
        assert (group["foreach"], group.get("fused")) == (foreach, fused or spelled.get("fused"))
        assert "implementation" not in group
        assert optim.optimizer.implementation_of(group) == implementation
        give(params_of(ours), [torch.ones(2)])
        ours.step()
        assert ran(ours) == {execution: 1}


@pytest.mark.parametrize(
    ("foreach", "fused", "implementation"),
    [(False, None, "for_loop"), (None, False, "for_loop"), (False, True, "fused"), (True, False, "foreach")],
)
def test_other_values_of_torchs_switches(
    foreach: bool | None, fused: bool | None, implementation: Implementation
) -> None:
    ours = ALGORITHMS["SGD"]([torch.ones(1)], foreach=foreach, fused=fused)
    assert optim.optimizer.implementation_of(ours.param_groups[0]) == implementation


@pytest.mark.parametrize("torchs", [{"foreach": True}, {"foreach": False}, {"fused": True}, {"fused": False}])
@names
def test_implementation_beside_torchs_switches_is_refused(name: str, torchs: dict[str, bool]) -> None:
    (given,) = torchs
    if not takes(name, given):
        pytest.skip(f"{name} has no {given}")
    with pytest.raises(ValueError, match=f"implementation='foreach' and .*{given}={torchs[given]}"):
        ALGORITHMS[name]([torch.ones(1)], implementation="foreach", **torchs)


@names
def test_an_unknown_implementation_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"'quick'.*auto, for_loop, foreach, fused"):
        ALGORITHMS[name]([torch.ones(1)], implementation="quick")


def test_an_unknown_attribute_is_refused_with_what_there_is() -> None:
    with pytest.raises(AttributeError, match="Sgd.*" + ", ".join(sorted(ALGORITHMS))):
        optim.Sgd  # noqa: B018


@names
def test_a_parameter_group_may_name_its_implementation(name: str) -> None:
    first, second = parameters([torch.ones(2), torch.ones(3)])
    groups = [{"params": [first], "implementation": "for_loop"}, {"params": [second]}]
    ours = ALGORITHMS[name](groups, implementation="foreach")
    give([first, second], [torch.ones(2), torch.ones(3)])
    ours.step()
    assert ran(ours) == {"for_loop": 1, "foreach": 1}
    assert all("implementation" not in group for group in ours.state_dict()["param_groups"])
    with pytest.raises(ValueError, match="Invalid implementation"):
        ours.add_param_group({"params": parameters([torch.ones(1)]), "implementation": "fast"})


@pytest.mark.filterwarnings("ignore:Dynamo detected")
@names
def test_a_compiled_function_may_step(name: str) -> None:
    mine, theirs = (parameters([torch.ones(2), torch.full((3,), 2.0)]) for _ in range(2))
    compiled, eager = ALGORITHMS[name](mine), ALGORITHMS[name](theirs)
    step = torch.compile(lambda: compiled.step(), backend="eager")
    for _ in range(2):
        give(mine, [torch.ones(2), torch.ones(3)])
        give(theirs, [torch.ones(2), torch.ones(3)])
        step()
        eager.step()
    assert all(map(torch.equal, mine, theirs))


def test_a_star_import_brings_the_algorithms() -> None:
    namespace: dict[str, Any] = {}
    exec("from optim_cli.optim import *", namespace)
    assert ALGORITHMS.items() <= namespace.items()
