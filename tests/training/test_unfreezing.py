"""Parameters that are trained only from some step on: still until then, and nobody else is disturbed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optim_cli.assemble import assemble, resolve
from optim_cli.optim.param_groups import Unfreezing
from optim_cli.training.loop import Training
from tests.experiments import config_of, train
from tests.results import unlike
from tests.training.interruptions import broken_off

HEAD_FIRST = (
    *("model.hidden=[16]", "trainer.epochs=3", "optimizer/param_groups=backbone_head"),
    "optimizer.param_groups.backbone.lr_scale=1",
)
LATE = "optimizer.param_groups.backbone.unfreeze_at=30"


def trained(training: Training, steps: int) -> None:
    """Let a training take its first steps, within an epoch."""
    torch.manual_seed(0)
    training.epoch = 1
    training.train_epoch(steps)


def test_until_then_it_is_still_and_has_no_gradient() -> None:
    training = assemble(
        resolve(config_of(*HEAD_FIRST, LATE.replace("30", "10"), "scheduler=none")), torch.device("cpu")
    )
    backbone = [training.model.get_parameter(x) for x in ("body.1.weight", "body.1.bias")]
    head = training.model.get_parameter("head.weight")
    before = [x.detach().clone() for x in (*backbone, head)]
    trained(training, 10)
    assert all(x.grad is None and torch.equal(x, y) for x, y in zip(backbone, before, strict=False))
    assert not torch.equal(head, before[-1])
    assert not any(x in training.optimizer.state for x in backbone)
    moments = training.optimizer.state[head]["exp_avg"].clone()
    steps = training.optimizer.state[head]["step"].clone()
    trained(training, 11)
    assert all(x.grad is not None and not torch.equal(x, y) for x, y in zip(backbone, before, strict=False))
    # The moments of the head go on from where they were, those of the backbone begin.
    state = training.optimizer.state
    assert state[head]["step"] == steps + 1 == 11
    assert state[backbone[0]]["step"] == 1
    beta = training.optimizer.param_groups[1]["betas"][0]
    assert head.grad is not None
    torch.testing.assert_close(
        state[head]["exp_avg"], beta * moments + (1 - beta) * head.grad, rtol=1e-3, atol=1e-6
    )


def test_it_is_a_function_of_the_step() -> None:
    """In any order of steps."""
    training = assemble(resolve(config_of(*HEAD_FIRST, LATE)), torch.device("cpu"))
    unfreezing = Unfreezing(training.groups)
    weights = [training.model.get_parameter(x) for x in ("body.1.weight", "head.weight")]
    for step, expected in ((1, False), (31, True), (30, False), (60, True)):
        unfreezing.before_step(step)
        assert [x.requires_grad for x in weights] == [expected, True]


def test_what_is_frozen_for_good_is_no_matter_of_the_optimizer() -> None:
    words = (*HEAD_FIRST, "optimizer.param_groups.backbone.freeze=true")
    training = assemble(resolve(config_of(*words)), torch.device("cpu"))
    assert [x["name"] for x in training.optimizer.param_groups] == ["head"]
    before = training.model.get_parameter("body.1.weight").detach().clone()
    trained(training, 3)
    assert torch.equal(training.model.get_parameter("body.1.weight"), before)
    assert training.model.get_parameter("body.1.weight").grad is None


# Another schedule, a rate that an average takes over, several algorithms: whatever else changes over a run.
BESIDE = {
    "alone": ("scheduler=none",),
    "schedules": (
        "scheduler=cosine",
        "optimizer.param_groups.backbone.scheduler={_target_: optim_cli.optim.lr_scheduler.LinearLR}",
        "optimizer.param_groups.head.scheduler={}",
        *("averaging=swa", "averaging.start=40", "averaging.swa_lr=1e-3", "averaging.anneal=5"),
    ),
    "algorithms": (
        "+optimizer@optimizer.param_groups.backbone.optimizer=sgd",
        *("trainer.clip_norm=1", "averaging=ema"),
    ),
}


@pytest.mark.parametrize("beside", BESIDE)
def test_resumed_before_and_after(beside: str, tmp_path: Path) -> None:
    """Broken off while it is frozen, at the last frozen step, and later."""
    overrides = (*HEAD_FIRST, LATE, "trainer.measure_every=1", *BESIDE[beside])
    train(tmp_path / "whole", *overrides)
    resume = False
    for at in (12, 30, 45):
        assert broken_off(tmp_path / "parts", *overrides, how="stop", at=at, resume=resume)
        resume = True
    train(tmp_path / "parts", *overrides, resume=True)
    assert unlike(tmp_path / "whole", tmp_path / "parts") == []
