"""Every optimizer in configs/ trains the default experiment with the values that stand in its file.

One that takes sparse gradients alone trains on texts: most weights are of words that no batch has.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from optim_cli.optim import ALGORITHMS
from tests.experiments import ROOT, config_of, train

CHOICES = sorted(path.stem for path in (ROOT / "configs" / "optimizer").glob("*.yaml"))


# Rates are for images there. Without training, accuracy is 0.06 on the texts and 0.1 on the digits.
TEXTS = ("dataset=python_reference", "model=bag_of_words")
ENOUGH = {TEXTS: 0.3, (): 0.8}


def experiment_for(choice: str) -> tuple[str, ...]:
    name = config_of(f"optimizer={choice}").optimizer._target_.rpartition(".")[2]
    required = getattr(ALGORITHMS[name], "sparse_gradients", None) == "required"
    return TEXTS if required else ()


@pytest.mark.parametrize("choice", CHOICES)
def test_trains(choice: str, tmp_path: Path) -> None:
    experiment = experiment_for(choice)
    done = train(tmp_path / "run", *experiment, f"optimizer={choice}", "trainer.epochs=5")
    assert done.results.final["val/accuracy"] > ENOUGH[experiment]


def test_there_are_choices() -> None:
    assert {"adamw", "sgd"} < {*CHOICES}
    assert {experiment_for(choice) for choice in CHOICES} == ENOUGH.keys()
