"""Every optimizer in configs/ trains the default experiment with the values that stand in its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiments import BESIDE, ROOT, train

CHOICES = sorted(path.stem for path in (ROOT / "configs" / "optimizer").glob("*.yaml"))


@pytest.mark.parametrize("choice", CHOICES)
def test_trains_the_default_experiment(choice: str, tmp_path: Path) -> None:
    done = train(tmp_path / "run", f"optimizer={choice}", *BESIDE.get(choice, ()), "trainer.epochs=5")
    assert done.results.final["val/accuracy"] > 0.8


def test_there_are_choices() -> None:
    assert {"adamw", "sgd"} < {*CHOICES}
