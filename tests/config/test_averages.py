"""Averages in configs: what is refused of them in a run of some length."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from optim_cli.assemble import refusals, resolve
from optim_cli.config.check import mistakes
from tests.experiments import config_of

EMA: dict[str, Any] = {"_target_": "optim_cli.training.averaging.EMA", "decay": 0.9}
SWA: dict[str, Any] = {"_target_": "optim_cli.training.averaging.SWA", "start": "50%", "every": 1}


@pytest.fixture(scope="module")
def default() -> dict[str, Any]:
    """A run of 63 steps, 3 epochs."""
    return resolve(config_of("optimizer=sgd", "scheduler=none", "trainer.epochs=3", "model.hidden=[]"))


def averaged(values: dict[str, Any], averaging: dict[str, Any], **groups: Any) -> dict[str, Any]:
    return deepcopy(values) | {"averaging": deepcopy(averaging)} | groups


@pytest.mark.parametrize(
    ("averaging", "expected"),
    [
        (
            {"ema": EMA, "swa": None},
            {".swa": "null is no average; allowed: a mapping with _target_; ~averaging"},
        ),
        ({"ema": EMA, "typo": {"decay": 1}}, {".typo": "{'decay': 1} is no average"}),
        ({"decay": 0.9}, {".decay": "there is no average that it could be of; choose one with averaging="}),
        ({"a": EMA, "b": {"_target_": None}}, {".b._target_": "None may not be called"}),
        (EMA | {"typo": {"decay": 1}}, {".typo": "unknown key"}),
        (
            SWA | {"swa_lr": [0.1, -1.0]},
            {".swa_lr[1]": "-1.0 is not allowed; allowed: a number greater than 0"},
        ),
        (
            SWA | {"swa_lr": "x"},
            {".swa_lr": "'x' is not allowed; allowed: a number greater than 0 or a list"},
        ),
    ],
    ids=str,
)
def test_misformed(default: dict[str, Any], averaging: dict[str, Any], expected: dict[str, str]) -> None:
    found = {x.key: x.what for x in mistakes(averaged(default, averaging))}
    assert found.keys() == {f"averaging{key}" for key in expected}
    for key, says in expected.items():
        assert says in found[f"averaging{key}"]


# averaging -> key below it: what is said of it
CONTRADICTORY: list[tuple[dict[str, Any], dict[str, str]]] = [
    (
        SWA | {"start": "1000%"},
        {".start": "first weights would be averaged at step 630, and the run has 63 steps"},
    ),
    (EMA | {"every": "4 epochs"}, {".every": "first weights would be averaged at step 84"}),
    (SWA | {"start": "100%"}, {".start": "only the weights of step 63 would be averaged"}),
    (
        SWA | {"swa_lr": 0.01, "anneal": "1000%"},
        {".anneal": "the rate would come to swa_lr at step 661, and the run has 63 steps"},
    ),
    (
        {"ema": EMA | {"start": 64}, "swa": SWA | {"start": 60, "swa_lr": 0.01, "anneal": 4}},
        {".ema.start": "at step 64", ".swa.anneal": "lower it or averaging.swa.start"},
    ),
    (
        {"a": SWA | {"swa_lr": 0.01}, "b": SWA, "c": SWA | {"swa_lr": 0.02}},
        {".c.swa_lr": "0.02 is another rate than the 0.01 of averaging.a"},
    ),
]


@pytest.mark.parametrize(("averaging", "expected"), CONTRADICTORY, ids=lambda x: str(x)[:60])
def test_contradictory(default: dict[str, Any], averaging: dict[str, Any], expected: dict[str, str]) -> None:
    values = averaged(default, averaging)
    assert not mistakes(values)
    found = {x.key: x.what for x in refusals(values)}
    assert found.keys() == {f"averaging{key}" for key in expected}
    for key, says in expected.items():
        assert says in found[f"averaging{key}"]
    assert not refusals(values | {"resume": "a run"})


def test_what_is_no_contradiction(default: dict[str, Any]) -> None:
    """At the latest, and in a run of one step."""
    for averaging in (
        SWA | {"start": 62},
        SWA | {"start": 60, "swa_lr": 0.01, "anneal": 3},
        SWA | {"anneal": "1000%"},
        {"a": SWA | {"swa_lr": 0.01}, "b": SWA | {"swa_lr": 0.01}},
        {},
    ):
        assert not refusals(averaged(default, averaging))
    short = default["trainer"] | {"max_steps": 1}
    assert not refusals(averaged(default, SWA, trainer=short))


def test_rates_of_groups_with_several(default: dict[str, Any]) -> None:
    """One would level them; so a list has one for each, whatever a schedule does to them first."""
    values = averaged(default, {"a": SWA | {"swa_lr": 0.01}, "b": SWA | {"swa_lr": [0.01, 0.02]}})
    values["optimizer"]["param_groups"] = {"few": {"kind": "bias", "lr_scale": 0.5}}
    assert not mistakes(values)
    found = [(x.key, x.what.partition("; ")[0]) for x in refusals(values)]
    assert found == [
        (
            "averaging.a.swa_lr",
            "0.01 would be the lr of all groups, which have their own (few 0.05, rest 0.1)",
        ),
        ("averaging.b.swa_lr", "[0.01, 0.02] is another rate than the 0.01 of averaging.a"),
    ]
    del values["averaging"]["a"]
    assert not refusals(values)
    values["averaging"]["b"]["swa_lr"] = [0.01]
    [told] = refusals(values)
    assert told.key == "averaging.b.swa_lr"
    assert "swa_lr has 1 values, param_groups has 2" in told.what
    values["averaging"]["b"]["swa_lr"] = 0.01
    values["optimizer"]["param_groups"]["few"] = {
        "kind": "bias",
        "scheduler": {"_target_": "optim_cli.optim.lr_scheduler.LinearLR"},
    }
    assert not refusals(values)


def test_functions_take_what_they_are_called_with(default: dict[str, Any]) -> None:
    def told(function: str) -> list[str]:
        custom = {"_target_": "optim_cli.training.averaging.Custom", "avg_fn": function}
        return [str(x) for x in mistakes(averaged(default, custom, plugins=["tests"]))]

    assert not told("tests.experiments.half_way")
    [report] = told("optim_cli.optim.swa_utils.get_ema_avg_fn")
    assert report.startswith("averaging.avg_fn: 'optim_cli.optim.swa_utils.get_ema_avg_fn' is called with 3 ")
    assert "arguments here, and takes (decay, warmup); allowed: the dotted name" in report
    [report] = told("tests.experiments.inverse_root")
    assert "is called with 3 arguments here, and takes (step)" in report
    [report] = told("optim_cli.optim.AdamW")
    assert "'optim_cli.optim.AdamW' is no function that may be called here" in report
    schedule = {"_target_": "optim_cli.optim.lr_scheduler.LambdaLR"}
    for named in ("tests.experiments.half_way", ["tests.experiments.half_way"]):
        values = default | {"plugins": ["tests"], "scheduler": schedule | {"lr_lambda": named}}
        [report] = map(str, mistakes(values))
        assert report.startswith(
            "scheduler.lr_lambda: 'tests.experiments.half_way' is called with 1 argument"
        )
