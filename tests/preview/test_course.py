"""What a preview says against what a run does, for every way to give a schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optim_cli import optim
from optim_cli.assemble import assemble, resolve
from optim_cli.optim.lr_scheduler.groupwise import GroupwiseLR, SomeGroups
from optim_cli.optim.lr_scheduler.onecycle import OneCycleLR
from optim_cli.preview.course import Course, courses, follows_metric
from optim_cli.training.loop import Training
from tests.experiments import SMALL, config_of

CPU = torch.device("cpu")
# What the run of SMALL has in steps; asserted below.
STEPS, PER_EPOCH = 42, 21
TORCH_S = "{_target_: torch.optim.lr_scheduler.StepLR, step_size: 5}"
SCHEDULES: dict[str, tuple[str, ...]] = {
    "simple": ("scheduler=cosine",),
    "with momentum": ("scheduler=onecycle",),
    "momentum of SGD": ("scheduler=cyclic", "optimizer=sgd"),
    "by epoch": ("scheduler=exponential", "scheduler.interval=epoch"),
    "sequence": ("scheduler=warmup_step",),
    "of another hyperparameter": ("scheduler=linear", "scheduler.hyperparameter=weight_decay"),
    "torch's": ("scheduler=none", f"+scheduler={TORCH_S}"),
    "torch's among others": (
        "scheduler=none",
        f"+scheduler={{chain: [{{_target_: optim_cli.optim.lr_scheduler.ConstantLR}}, {TORCH_S}]}}",
    ),
}


def training_of(*overrides: str) -> Training:
    return assemble(resolve(config_of(*SMALL, *overrides)), CPU)


def value(training: Training, name: str) -> float:
    held: Any = training.optimizer.param_groups[0]
    for key in name.split("."):
        held = held[int(key) if key.isdecimal() else key]
    return float(held)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_goes_the_same_way(name: str) -> None:
    overrides = SCHEDULES[name]
    told = courses(training_of(*overrides))
    run = training_of(*overrides)
    assert (run.total_steps, run.steps_per_epoch) == (STEPS, PER_EPOCH)
    assert told
    assert {x.groups for x in told} == {(0,)}
    assert [len(x.values) for x in told] == [STEPS] * len(told)
    assert run.scheduler is not None
    for step in range(STEPS):
        for course in told:
            assert course.values[step] == pytest.approx(value(run, course.hyperparameter), rel=1e-9)
        run.optimizer.step()
        run.pace.after_step(run.scheduler, step + 1, PER_EPOCH)


def test_groups_of_equal_values_are_one_course() -> None:
    training = training_of("scheduler=cosine")
    assert training.scheduler is not None
    params = [torch.nn.Parameter(torch.ones(1)) for _ in range(3)]
    groups = [{"params": [x], "lr": lr} for x, lr in zip(params, (0.1, 0.2, 0.1), strict=True)]
    optimizer = torch.optim.SGD(groups)
    training.scheduler = type(training.scheduler)(optimizer, T_max=STEPS)  # type: ignore[call-arg]
    told = courses(training)
    assert [(x.hyperparameter, x.groups, x.name) for x in told] == [
        ("lr", (0, 2), "groups 0, 2"),
        ("lr", (1,), "group 1"),
    ]
    assert told[1].values == tuple(2 * x for x in told[0].values)


def test_groups_are_called_by_their_names() -> None:
    """Each has its own schedule; those that lack a hyperparameter are left out."""
    training = training_of("scheduler=cosine")
    kinds = (optim.AdamW, optim.SGD, optim.SGD, optim.Adagrad)
    names = ("body", "head", "neck", "rest")
    whole = optim.MultiOptimizer(
        [
            kind([{"params": [torch.nn.Parameter(torch.ones(1))], "name": x}])
            for kind, x in zip(kinds, names, strict=True)
        ]
    )
    cycle = OneCycleLR(SomeGroups(whole, [0, 1, 2]), 0.1, STEPS)
    training.scheduler = GroupwiseLR(whole, [cycle])
    told = courses(training)
    assert [(x.hyperparameter, x.name) for x in told] == [
        ("lr", "body, head, neck"),
        ("lr", "rest"),
        ("betas.0", "body"),
        ("momentum", "head, neck"),
    ]
    assert told[1].values == (0.01,) * STEPS
    # Of other packages' schedules only steps show the values.
    training.scheduler = GroupwiseLR(whole, [torch.optim.lr_scheduler.StepLR(SomeGroups(whole, [3]), 5)])
    told = courses(training)
    assert [(x.hyperparameter, x.name) for x in told] == [("lr", "body, head, neck"), ("lr", "rest")]
    assert told[1].values[4:6] == pytest.approx((0.01, 0.001))


def test_what_follows_a_metric_stays() -> None:
    training = training_of("scheduler=plateau")
    assert training.scheduler is not None
    assert follows_metric(training.scheduler)
    assert courses(training) == [Course("lr", (0,), (0.003,) * STEPS)]
    plain = training_of("scheduler=warmup_cosine").scheduler
    assert plain is not None
    assert not follows_metric(plain)
