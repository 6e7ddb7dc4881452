"""A multirun as a process: jobs that fail do not end it, and its end tells of all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean, stdev

import pytest
import torch
import yaml

from tests.experiments import without_trace
from tests.results import lines_of
from tests.test_cli import FOLDER, Ended, end_of, start, summary_of

# A model that breaks in its first step, if it is told to.
FRAGILE = """
from torch import nn

class Fragile(nn.Module):
    def __init__(self, *, fails: bool, input_shape, num_classes):
        super().__init__()
        self.fails = fails
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
        self.layers(__import__("torch").zeros(1, *input_shape))

    def forward(self, images):
        return self.broken(images) if self.fails else self.layers(images)

    def broken(self, images):
        raise ZeroDivisionError("broken on purpose")
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Path]:
    """Two optimizers and two seeds; every job of one of two models fails."""
    where = tmp_path_factory.mktemp("sweep")
    (where / "fragile.py").write_text(FRAGILE, encoding="utf-8")
    (where / "more" / "model").mkdir(parents=True)
    (where / "more" / "model" / "fragile.yaml").write_text("_target_: fragile.Fragile\nfails: false\n")
    options = ["--config-dir", "more", "-m", "plugins=[fragile]", "model=fragile", "trainer.epochs=1"]
    ended = end_of(start(where, *options, "model.fails=true,false", "seed=range(2)", "optimizer=adamw,sgd"))
    return ended, where


def test_failures_do_not_end_it(sweep: tuple[Ended, Path]) -> None:
    ended, where = sweep
    assert ended.code == 1, ended
    [folder] = (where / "outputs" / "sweeps").iterdir()
    assert re.fullmatch(FOLDER, folder.name)
    told = [json.loads((folder / str(i) / "status.json").read_text(encoding="utf-8")) for i in range(8)]
    assert [x["status"] for x in told] == ["failed"] * 4 + ["done"] * 4
    assert {x["error"] for x in told[:4]} == {"ZeroDivisionError: broken on purpose"}
    assert [x["overrides"][-3:] for x in told] == [
        [f"model.fails={fails}", f"seed={seed}", f"optimizer={optimizer}"]
        for fails in ("True", "False")
        for seed in (0, 1)
        for optimizer in ("adamw", "sgd")
    ]
    for i in range(8):
        config = yaml.safe_load((folder / str(i) / "config.yaml").read_text(encoding="utf-8"))
        assert config["optimizer"]["_target_"].endswith(("AdamW", "SGD")[i % 2])
        assert ("ZeroDivisionError" in (folder / str(i) / "run.log").read_text(encoding="utf-8")) == (i < 4)
        assert (folder / str(i) / "summary.json").exists() == (i >= 4)


def test_the_users_frames_are_shown(sweep: tuple[Ended, Path]) -> None:
    ended, where = sweep
    assert ended.errors.count("optim-run: the run failed: ZeroDivisionError: broken on purpose\n") == 4
    assert ended.errors.count(f'File "{where / "fragile.py"}", line ') == 8
    assert "in broken" in ended.errors
    assert "Traceback" not in ended.errors
    assert "site-packages" not in ended.errors
    assert "loop.py" not in ended.errors


def test_the_end_tells_of_all(sweep: tuple[Ended, Path]) -> None:
    ended, where = sweep
    [folder] = (where / "outputs" / "sweeps").iterdir()
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    ranked = [x["job"] for x in results["jobs"]]
    reached = {i: summary_of(folder / str(i))["best"] for i in range(4, 8)}
    by_hand = sorted(reached, key=lambda i: (-reached[i]["val/accuracy"], reached[i]["val/loss"], i))
    assert ranked == [*by_hand, 0, 1, 2, 3]
    groups = {tuple(x["overrides"][-2:]): x for x in results["seeds"]}
    for place, name in ((4, "adamw"), (5, "sgd")):
        group = groups["model.fails=False", f"optimizer={name}"]
        values = [reached[i]["test/accuracy"] for i in (place, place + 2)]
        assert group["accuracies"]["test/accuracy"] == {
            "mean": pytest.approx(mean(values)),
            "std": pytest.approx(stdev(values)),
        }
        assert groups["model.fails=True", f"optimizer={name}"]["done"] == 0
    assert "8 jobs: 4 failed, 4 done" in ended.output
    assert re.search(r"rank +job +model.fails +seed +optimizer +val/accuracy", ended.output)
    assert "±" in ended.output


def test_wrong_jobs_keep_all_from_starting(tmp_path: Path) -> None:
    options = ["-m", "optimizer=sgd,adamw", "optimizer.lr=0.1,-1,x", "seed=0", "model=mlp,mlpp"]
    ended = end_of(start(tmp_path, *options))
    assert ended.code == 2
    assert without_trace(ended.errors + ended.output)
    lines = ended.errors.splitlines()
    assert lines[0] == "optim-run: 3 mistakes, so nothing was started"
    assert {x.split("; ")[0] for x in lines[1:]} == {
        "optim-run: model: 'mlpp' is no choice",
        "optim-run: optimizer.lr: -1 is not allowed",
        "optim-run: optimizer.lr: 'x' is not allowed",
    }
    assert not list(tmp_path.iterdir())


def test_over_the_rate_of_one_group(tmp_path: Path) -> None:
    groups = ["optimizer/param_groups=backbone_head", "optimizer.param_groups.head.lr=0.01,0.02"]
    options = ["-m", *groups, "scheduler=none", "model.hidden=[16]", "trainer.epochs=1"]
    ended = end_of(start(tmp_path, *options, "hydra.sweep.dir=sweep"))
    assert ended.code == 0, ended
    for job, rate in enumerate((0.01, 0.02)):
        measured = [x for x in lines_of(tmp_path / "sweep" / str(job)) if "lr/head" in x]
        assert measured
        assert {(x["lr/head"], x["lr/backbone"]) for x in measured} == {(rate, 0.1 * 3e-3)}
    weights = [
        torch.load(tmp_path / "sweep" / job / "checkpoints" / "best.pt", weights_only=True)["model"]
        for job in "01"
    ]
    assert not torch.equal(weights[0]["head.weight"], weights[1]["head.weight"])
