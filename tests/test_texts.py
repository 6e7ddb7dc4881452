"""Runs on texts, whose models give sparse gradients."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from optim_cli.assemble import assemble, resolve
from optim_cli.optim import SparseAdam
from tests.command_lines import told
from tests.experiments import config_of, train
from tests.results import lines_of, unlike

TEXTS = ("dataset=python_reference", "model=bag_of_words")
RECIPE = ("recipe=python_reference/sparse_adam", "averaging=ema", "averaging.decay=0.9")


@pytest.fixture(autouse=True)
def _leave_no_trace() -> Iterator[None]:
    """A run changes the process that it has for itself elsewhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    logging.captureWarnings(False)
    logging.raiseExceptions = True
    torch.set_num_threads(threads)


def test_the_recipe_learns_topics_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    done = train(tmp_path / "run", *RECIPE)
    assert done.results.epochs == 20
    # Far from the largest topic's share of paragraphs, whatever the version of Python.
    assert done.results.final["test/accuracy"] > 0.6
    assert done.results.final["test_averaged/accuracy"] > 0.6
    assert (done.directory / "curves.png").is_file()

    schedule = f"scheduler.total_steps={done.results.steps}"
    train(tmp_path / "stopped", *RECIPE, schedule, "trainer.epochs=11")
    resumed = train(tmp_path / "stopped", *RECIPE, schedule, resume=True)
    assert resumed.results.steps == done.results.steps
    assert not unlike(done.directory, resumed.directory)


def test_gradients_are_sparse_and_few_words_move() -> None:
    training = assemble(resolve(config_of(*RECIPE, "scheduler=none")), torch.device("cpu"))
    weight = training.model.get_parameter("head.weight")
    training.trainer = replace(training.trainer, max_steps=1)
    training.epoch = 1
    training.train_epoch(total=1)
    assert weight.grad is not None
    assert weight.grad.is_sparse
    moved = weight.detach().any(1).sum().item()
    assert 0 < moved < 0.1 * len(weight)
    assert isinstance(training.optimizer, SparseAdam)
    assert training.optimizer.executions == {"foreach": 1, "sparse": 1}


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_other_optimizers_take_sparse_gradients_without_weight_decay(optimizer: str, tmp_path: Path) -> None:
    rate, plain = ("optimizer.lr=1.0", "optimizer.weight_decay=0.0"), f"optimizer={optimizer}"
    done = train(tmp_path / "run", *TEXTS, plain, *rate, "trainer.epochs=2")
    assert done.results.final["train/accuracy"] > 0.2


def test_images_and_texts_are_told_apart() -> None:
    (images,) = told("model=bag_of_words")
    assert images.startswith("model: BagOfWords takes texts, not images; use dataset=python_reference")
    (texts,) = told("dataset=python_reference")
    assert texts.startswith("model: MLP takes images, not texts; use model=bag_of_words or other data")


def test_optimizers_that_do_not_fit_the_gradients_are_told_apart() -> None:
    (refused,) = told(*TEXTS, "optimizer=adam")
    assert refused.startswith("optimizer: Adam takes no sparse gradients, and those of BagOfWords are sparse")
    assert "model.sparse=false" in refused
    (required,) = told("optimizer=sparse_adam")
    assert required.startswith(
        "optimizer: SparseAdam takes sparse gradients only, and those of MLP are dense"
    )
    assert "recipe=python_reference/sparse_adam" in required
    assert not told(*TEXTS, "optimizer=adam", "model.sparse=false")
    assert not told(*TEXTS, "optimizer=sgd")


def test_sparse_gradients_are_clipped_within_the_step_or_not_at_all(tmp_path: Path) -> None:
    done = train(tmp_path / "run", *RECIPE, "trainer.clip_norm=0.01", "trainer.epochs=1")
    norms = [x["train/grad_norm"] for x in lines_of(done.directory) if x["event"] == "measured"]
    assert norms
    assert min(norms) > 0.01
    assert not told(*TEXTS, "optimizer=lbfgs")
    (refused,) = told(*TEXTS, "optimizer=lbfgs", "trainer.clip_value=1")
    assert refused.startswith(
        "optimizer: gradients of LBFGS are clipped by torch, which clips no sparse ones"
    )
    assert "trainer.clip_value at null" in refused
