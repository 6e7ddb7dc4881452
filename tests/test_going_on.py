"""resume= and rerun= as commands: killed, gone on with, run again, and the same bits each time."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.experiments import without_trace
from tests.results import unlike
from tests.test_cli import end_of, start, wait_for

EPOCHS, STEPS = 24, 504
# Everything that draws or remembers: shuffling, augmentation, dropout, moments, schedule, average.
OPTIONS = (
    *("model.hidden=[32]", "model.dropout=0.3", "averaging=ema", f"trainer.epochs={EPOCHS}", "seed=11"),
    *("trainer.clip_norm=0.5", "trainer.clip_value=0.1"),
    "+dataset.augmentation={_target_: optim_cli.datasets.augmentation.CropFlip, padding: 1, flip: true}",
    "+optimizer.param_groups.head={kind: head, scheduler: {_target_: "
    "optim_cli.optim.lr_scheduler.CosineAnnealingLR}}",
)


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole` ran to its end, `part` was killed by SIGKILL between its first and its last checkpoint."""
    where = tmp_path_factory.mktemp("going_on")
    whole = start(where, "hydra.run.dir=whole", *OPTIONS)
    part = start(where, "hydra.run.dir=part", *OPTIONS)
    wait_for(where / "part" / "checkpoints" / "step-00000021.pt")
    part.kill()
    assert end_of(part).code == -9
    assert end_of(whole).code == 0
    return where


def test_killed_and_gone_on_with(where: Path) -> None:
    saved = sorted(x.name for x in (where / "part" / "checkpoints").glob("step-*.pt"))
    assert saved
    assert 0 < int(saved[-1][5:-3]) < STEPS
    assert not (where / "part" / "summary.json").exists()
    resumed = end_of(start(where, "resume=part"))
    assert (resumed.code, resumed.errors) == (0, "")
    assert f"resumed from step {int(saved[-1][5:-3])}" in resumed.output
    assert not unlike(where / "whole", where / "part")
    # Nothing is left to do, and nothing is done.
    again = end_of(start(where, "resume=part"))
    assert again.code == 2
    assert f"complete ({STEPS} of {STEPS} steps)" in again.errors
    assert without_trace(again.errors)


def test_run_again(where: Path) -> None:
    ended = end_of(start(where, "rerun=whole"))
    assert (ended.code, ended.errors) == (0, "")
    [folder] = (where / "outputs" / "mlp-digits-adamw").iterdir()
    assert not unlike(where / "whole", folder)
    several = end_of(start(where, "-m", "rerun=whole", "seed=11,12", "trainer.max_steps=3"))
    assert (several.code, several.errors) == (0, "")
    [sweep] = (where / "outputs" / "sweeps").iterdir()
    results = json.loads((sweep / "results.json").read_text(encoding="utf-8"))
    assert [x["status"] for x in results["jobs"]] == ["done", "done"]
    assert re.search(r"± 0\.\d+", several.output)


def test_what_cannot_change(where: Path) -> None:
    before = {x: x.read_bytes() for x in (where / "whole").rglob("*") if x.is_file()}
    ended = end_of(start(where, "resume=whole", "optimizer.lr=1", "model.hidden=[64]", "trainer.epochs=99"))
    assert ended.code == 2
    assert "optimizer.lr: was 0.003, is now 1;" in ended.errors
    assert "model.hidden: was [32], is now [64];" in ended.errors
    assert "trainer.epochs" not in ended.errors
    assert ended.errors.count("[command line: ") == 2
    assert {x: x.read_bytes() for x in (where / "whole").rglob("*") if x.is_file()} == before


def test_all_plans_that_hold_no_longer_are_told(where: Path) -> None:
    ended = end_of(start(where, "resume=whole", "trainer.epochs=99"))
    assert ended.code == 2
    assert [x.split(": ")[:2] for x in ended.errors.splitlines()] == [
        ["optim-run", "scheduler.total_steps"],
        ["optim-run", "optimizer.param_groups.head.scheduler.T_max"],
    ]
