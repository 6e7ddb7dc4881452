"""Every optimizer in configs/ trains the default experiment with the values that stand in its file.

One that takes sparse gradients alone trains on texts: most weights are of words that no batch has.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiments import BESIDE, ROOT, train

CHOICES = sorted(path.stem for path in (ROOT / "configs" / "optimizer").glob("*.yaml"))


# Rates are for images. Without training, accuracy is 0.06 on the texts and 0.1 on the digits.
@pytest.mark.parametrize("choice", CHOICES)
def test_trains(choice: str, tmp_path: Path) -> None:
    beside = BESIDE.get(choice, ())
    done = train(tmp_path / "run", *beside, f"optimizer={choice}", "trainer.epochs=5")
    assert done.results.final["val/accuracy"] > (0.3 if "model=bag_of_words" in beside else 0.8)


def test_there_are_choices() -> None:
    assert {"adamw", "sgd"} < {*CHOICES}
