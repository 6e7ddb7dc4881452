"""From a config to parts: what each gets from the others, and whose fault a refusal is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optim_cli.assemble import assemble, resolve
from optim_cli.config.check import mistakes
from optim_cli.config.resolve import plain
from optim_cli.errors import ConfigError
from optim_cli.optim.algorithms.adamw import AdamW
from optim_cli.optim.algorithms.sgd import SGD
from optim_cli.optim.lr_scheduler.onecycle import OneCycleLR
from optim_cli.optim.lr_scheduler.parts import SequentialLR
from optim_cli.training.averaging import EMA, SWA
from optim_cli.training.loop import Training
from tests.experiments import config_of

CPU = torch.device("cpu")


def parts_of(tmp_path: Path, *overrides: str) -> Training:
    return assemble(resolve(config_of(*overrides)), CPU)


def test_default_parts(tmp_path: Path) -> None:
    training = parts_of(tmp_path, "averaging=ema", "averaging.decay=0.9")
    assert isinstance(training.optimizer, AdamW)
    assert isinstance(training.scheduler, OneCycleLR)
    assert isinstance(training.averages["averaged"], EMA)
    assert training.scheduler.optimizer is training.optimizer
    parameters = dict(training.model.named_parameters())
    group = training.optimizer.param_groups[0]
    assert [id(x) for x in group["params"]] == [id(x) for x in parameters.values()]
    assert group["param_names"] == list(parameters)
    averaged = dict(training.averages["averaged"].module.named_parameters())
    assert averaged.keys() == parameters.keys()
    assert all(averaged[x] is not parameters[x] for x in parameters)
    assert [tuple(x.shape) for x in parameters.values()] == [
        (256, 64),
        (256,),
        (128, 256),
        (128,),
        (10, 128),
        (10,),
    ]


def test_values_reach_the_constructors(tmp_path: Path) -> None:
    options = ("optimizer.lr=0.5", "optimizer.momentum=0.8", "optimizer.implementation=foreach")
    training = parts_of(tmp_path, "optimizer=sgd", "scheduler=none", *options)
    assert isinstance(training.optimizer, SGD)
    group = training.optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"], group["foreach"]) == (0.5, 0.8, True, True)
    assert training.scheduler is None
    assert not training.averages


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (("trainer.epochs=3",), 63),
        (("trainer.epochs=3", "trainer.max_steps=50"), 50),
        (("trainer.epochs=3", "trainer.max_steps=500"), 63),
        (("trainer.epochs=3", "dataset.batch_size=100000"), 3),
        (("trainer.epochs=3", "dataset.val_fraction=0"), 69),
    ],
)
def test_schedule_is_as_long_as_the_run(tmp_path: Path, overrides: tuple[str, ...], steps: int) -> None:
    values = {
        "onecycle": parts_of(tmp_path, *overrides).scheduler,
        "cosine": parts_of(tmp_path, "scheduler=cosine", *overrides).scheduler,
    }
    assert getattr(values["onecycle"], "total_steps", None) == steps
    assert getattr(values["cosine"], "T_max", None) == steps
    given = parts_of(tmp_path, "scheduler.total_steps=1234", *overrides).scheduler
    assert getattr(given, "total_steps", None) == 1234


def test_averages_by_name(tmp_path: Path) -> None:
    """One is called averaged, of several each by its own name; durations are steps of 21 an epoch."""
    training = parts_of(tmp_path, "averaging=ema_swa", "trainer.epochs=4", "averaging.swa.start=2 epochs")
    ema, swa = training.averages.values()
    assert [*training.averages] == ["averaged_ema", "averaged_swa"]
    assert isinstance(ema, EMA)
    assert isinstance(swa, SWA)
    assert (ema.start, ema.every, swa.start, swa.every) == (0, 1, 42, 21)
    single = parts_of(tmp_path, "averaging=swa", "trainer.epochs=4").averages
    assert [*single] == ["averaged"]
    assert (single["averaged"].start, single["averaged"].every) == (63, 21)


def test_the_rate_of_swa_goes_at_the_pace_of_the_schedule(tmp_path: Path) -> None:
    """Whether that counts steps or epochs."""
    swa = ("averaging=swa", "averaging.swa_lr=0.5", "averaging.start=2 epochs", "averaging.anneal=1 epochs")
    for interval, steps in (("step", 21), ("epoch", 1)):
        changes = ("scheduler=cosine", f"scheduler.interval={interval}", "trainer.epochs=4")
        scheduler = parts_of(tmp_path, *swa, *changes).scheduler
        assert isinstance(scheduler, SequentialLR)
        rates = scheduler.table(4 * steps)["lr"][:, 0].tolist()
        lr = 0.003
        assert rates[0] == lr
        assert rates[2 * steps] == rates[2 * steps - 1] < lr
        assert rates[3 * steps :] == pytest.approx([0.5] * steps)


def newest_half(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    return (average + current) / 2


def test_a_custom_average(tmp_path: Path) -> None:
    custom = ("averaging=custom", "averaging.avg_fn=tests.test_assemble.newest_half", "averaging.every=3")
    with pytest.raises(ConfigError, match=r"averaging.avg_fn: .* may not be called"):
        parts_of(tmp_path, *custom)
    average = parts_of(tmp_path, *custom, "plugins=[tests]").averages["averaged"]
    assert (average.avg_fn, average.every) == (newest_half, 3)


def test_state_holds_plain_types(tmp_path: Path) -> None:
    """No list or mapping of OmegaConf's gets into what is saved."""
    training = parts_of(tmp_path, "averaging=ema", "scheduler.max_lr=[0.01]")
    seen: set[type] = set()

    def walk(value: Any) -> None:
        seen.add(type(value))
        for inner in (
            value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        ):
            walk(inner)

    walk(training.state_dict())
    assert {"builtins", "torch", "collections"} >= {x.__module__ for x in seen}, seen
    torch.save(training.state_dict(), tmp_path / "state.pt")
    torch.load(tmp_path / "state.pt", weights_only=True)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("optimizer=sgd", "optimizer.momentum=0"), r"^optimizer: Nesterov momentum requires"),
        (("optimizer=muon",), r"^optimizer: Muon only supports 2D .*body.1.bias \[256\].*bias=False"),
        (("optimizer=muon", "model.bias=false", "optimizer.implementation=fused"), r"no fused execution"),
        (("scheduler.max_lr=[0.1,0.2]",), r"^scheduler: max_lr must have the same length"),
        (("dataset.test_fraction=0.9999",), r"dataset.test_fraction"),
        (("averaging=ema", "averaging.half_life=3"), r"^averaging: decay 0.99 and half_life 3 are given"),
        (("dataset=cifar10", "dataset.root=nowhere"), r"nowhere"),
        (("dataset=image_folder", "dataset.root=nowhere"), r"nowhere"),
    ],
)
def test_refused_by_a_constructor(tmp_path: Path, overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parts_of(tmp_path, *overrides)
    assert "Error instantiating" not in str(caught.value)
    assert "full_key" not in str(caught.value)


def test_a_defect_is_no_mistake_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, *arguments: object, **options: object) -> None:
        raise ZeroDivisionError("a defect")

    values = resolve(config_of())
    monkeypatch.setattr(OneCycleLR, "coefficients", broken)
    with pytest.raises(ZeroDivisionError, match="a defect"):
        assemble(values, CPU)


def test_the_values_given_stay_as_they_are(tmp_path: Path) -> None:
    values = resolve(config_of())
    before = repr(values)
    assemble(values, CPU)
    assert repr(values) == before
    assert values["scheduler"]["total_steps"] is None


def test_a_model_without_parameters_is_no_missing_model(tmp_path: Path) -> None:
    """An empty Sequential counts as false."""
    config = config_of("scheduler=none")
    config.model = {"_target_": "torch.nn.Sequential"}
    with pytest.raises(ConfigError, match=r"^optimizer: optimizer got an empty parameter list"):
        assemble(resolve(config), CPU)


def test_libraries_get_what_their_constructors_name(tmp_path: Path) -> None:
    config = config_of("dataset=synthetic", "scheduler=none")
    config.model = {"_target_": "torchvision.models.squeezenet1_1", "num_classes": 10}
    config.optimizer = {"_target_": "torch.optim.Adagrad", "lr": 0.5, "foreach": True}
    assert "optimizer.foreach: unknown key" in "\n".join(map(str, mistakes(plain(config)[0])))
    del config.optimizer.foreach
    training = assemble(resolve(config), CPU)
    assert type(training.optimizer) is torch.optim.Adagrad
    assert training.model(torch.zeros(1, 3, 64, 64)).shape == (1, 10)
