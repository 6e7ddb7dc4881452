"""Runs on texts, whose models give sparse gradients."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.command_lines import told
from tests.experiments import ENVIRONMENT, ROOT, train, without_trace
from tests.results import unlike

TEXTS = ("dataset=python_reference", "model=bag_of_words")
DENSE = ("model.sparse=false", "optimizer=adam", "optimizer.lr=0.3", "trainer.epochs=4")


@pytest.fixture(autouse=True)
def _leave_no_trace() -> Iterator[None]:
    """A run changes the process that it has for itself elsewhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    logging.captureWarnings(False)
    logging.raiseExceptions = True
    torch.set_num_threads(threads)


def test_topics_are_learned(tmp_path: Path) -> None:
    done = train(tmp_path / "run", *TEXTS, *DENSE, "averaging=ema", "averaging.decay=0.9")
    final = done.results.final
    assert final["test/accuracy"] > 0.6
    assert final["test_averaged/accuracy"] > 0.6
    assert (done.directory / "curves.png").is_file()
    again = train(tmp_path / "again", *TEXTS, *DENSE, "averaging=ema", "averaging.decay=0.9")
    assert not unlike(done.directory, again.directory)


def test_images_and_texts_are_told_apart() -> None:
    (images,) = told("model=bag_of_words")
    assert images.startswith("model: BagOfWords takes texts, not images; use dataset=python_reference")
    (texts,) = told("dataset=python_reference")
    assert texts.startswith("model: MLP takes images, not texts; use model=bag_of_words or other data")


def test_an_optimizer_without_sparse_gradients_says_what_to_use(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "optim_cli", *TEXTS, "optimizer=adam"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("optim-run: the run failed: RuntimeError: Adam does not support sparse gradients")
    assert "SparseAdam" in first
    assert second.startswith("optim-run: the full trace is in ")
    assert without_trace(done.stderr)
