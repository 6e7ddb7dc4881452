"""What a run leaves behind, how long it gets, whether it repeats, and what it refuses."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import instantiate
from matplotlib.figure import Figure
from matplotlib.image import imread
from omegaconf import DictConfig

from optim_cli.assemble import resolve
from optim_cli.errors import ConfigError
from optim_cli.run import run
from tests.experiments import CHOICES, SMALL, Done, config_of, train
from tests.results import checkpoint_of, json_of, lines_of, same_bits

METRICS = {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "test/loss", "test/accuracy"}
TINY = ("model.hidden=[16]", "trainer.epochs=1", "trainer.max_steps=3")


@pytest.fixture(autouse=True, scope="module")
def _leave_no_trace() -> Iterator[None]:
    """A run changes the process that it has for itself elsewhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    logging.captureWarnings(False)
    logging.raiseExceptions = True
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run with an average and a scheduler, looked at by many tests."""
    return train(tmp_path_factory.mktemp("run") / "results", *SMALL, "averaging=ema", "seed=3")


def test_files(done: Done) -> None:
    names = {x.relative_to(done.directory).as_posix() for x in done.directory.rglob("*") if x.is_file()}
    assert names == {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "summary.json",
        "curves.png",
        *(f"checkpoints/{x}.pt" for x in ("step-00000021", "step-00000042", "best", "averaged")),
    }


def test_config_is_resolved_and_loads(done: Done) -> None:
    text = (done.directory / "config.yaml").read_text(encoding="utf-8")
    assert "${" not in text
    values = yaml.safe_load(text)
    assert values["dataset"]["seed"] == values["seed"] == 3
    # It is the run: composed values and what the file holds are the same, also to the check.
    assert resolve(DictConfig(values)) == resolve(config_of(*SMALL, "averaging=ema", "seed=3"))


def test_environment(done: Done) -> None:
    values = json_of(done.directory / "environment.json")
    assert set(values) == {
        *(
            "command",
            "choices",
            "directory",
            "python",
            "platform",
            "packages",
            "cuda",
            "device",
            "threads",
            "git",
        ),
    }
    assert values["packages"]["torch"] == version("torch")
    assert values["packages"]["hydra-core"].startswith("1.3")
    assert values["directory"] == str(Path.cwd())
    assert values["device"].startswith("cpu")
    assert isinstance(values["command"], list)
    assert values["choices"] == CHOICES


def test_metrics_file(done: Done) -> None:
    lines = lines_of(done.directory)
    measured = [x for x in lines if x["event"] == "measured"]
    evaluated = [x for x in lines if x["event"] == "evaluated"]
    assert len(measured) + len(evaluated) == len(lines)
    assert [x["step"] for x in measured] == [7, 14, 21, 28, 35, 42]
    assert [x["step"] for x in evaluated] == [21, 42]
    steps = [x["step"] for x in lines]
    assert all(a <= b for a, b in pairwise(steps))
    for line in measured:
        assert set(line) == {"event", "step", "epoch", "train/loss", "train/accuracy", "lr"}
        assert line["epoch"] == (line["step"] - 1) // 21 + 1
    for line in evaluated:
        assert METRICS - {"test/loss", "test/accuracy"} <= set(line)
        # The training metrics of an epoch are the mean over its 1294 samples, 7 * 64 a measurement.
        inside = [x for x in measured if x["epoch"] == line["epoch"]]
        weights = [448, 448, 1294 - 2 * 448]
        mean = sum(w * x["train/loss"] for w, x in zip(weights, inside, strict=True)) / sum(weights)
        assert line["train/loss"] == pytest.approx(mean, rel=1e-12)


def test_summary(done: Done) -> None:
    values = json_of(done.directory / "summary.json")
    averaged = {f"{x}_averaged/{y}" for x in ("val", "test") for y in ("loss", "accuracy")}
    assert set(values["final"]) == set(values["best"]) == METRICS | averaged
    assert (values["steps"], values["epochs"], values["synthetic_data"]) == (42, 2, False)
    assert values["seconds"] > 0
    evaluated = {x["step"]: x for x in lines_of(done.directory) if x["event"] == "evaluated"}
    last, best = evaluated[42], evaluated[values["best_step"]]
    assert all(last[x] == y for x, y in values["final"].items() if x in last)
    assert all(best[x] == y for x, y in values["best"].items() if x in best)
    accuracies = [(x[f"{y}/accuracy"], y) for x in evaluated.values() for y in ("val", "val_averaged")]
    chosen = {"model": "val", "averaged": "val_averaged"}[values["best_weights"]]
    assert (best[f"{chosen}/accuracy"], chosen) in accuracies
    assert best[f"{chosen}/accuracy"] == max(accuracies)[0]
    assert all(0 <= y <= 1 for x, y in values["final"].items() if x.endswith("accuracy"))
    assert values["final"] == done.results.final
    assert values["best"] == done.results.best


def test_checkpoints(done: Done) -> None:
    last = checkpoint_of(done.directory, "step-00000042.pt")
    assert (last["step"], last["epoch"]) == (42, 2)
    assert last["averages"]["averaged"]["n_averaged"] == 42
    assert last["optimizer"]["state"].keys() == set(range(4))
    assert last["scheduler"]["last_epoch"] == 42
    best = checkpoint_of(done.directory)
    assert best["step"] == done.results.best_step
    assert best["best"]["val/accuracy"] == done.results.best["val/accuracy"]
    alone = torch.load(done.directory / "checkpoints" / "averaged.pt", weights_only=True)
    assert all(same_bits(x, last["averages"]["averaged"][f"module.{name}"]) for name, x in alone.items())


def test_curves_are_a_picture(done: Done) -> None:
    path = done.directory / "curves.png"
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == (1440, 432)
    pixels = imread(path)[:, :, :3]
    assert pixels.shape == (432, 1440, 3)
    for panel in (pixels[:, :480], pixels[:, 480:960], pixels[:, 960:]):
        coloured = (panel.max(2) - panel.min(2) > 0.3).mean()
        assert coloured > 1e-3, "a panel without curves"


def test_what_is_shown(done: Done) -> None:
    lines = done.output.splitlines()
    header = dict(x.split(": ", 1) for x in lines[:6])
    assert list(header) == ["device", "dataset", "model", "optimizer", "schedule", "length"]
    assert header["dataset"] == "digits"
    assert header["model"] == "mlp, 1,210 parameters"
    assert header["optimizer"] == "AdamW, lr 0.003"
    assert header["schedule"] == "OneCycleLR, averaging EMA"
    assert header["length"] == "2 epochs, 42 steps of 64 samples"
    assert sum(x.startswith("epoch ") for x in lines) == 2
    assert [x.split(":")[0] for x in lines[-3:-1]] == ["final", "best"]
    assert lines[-1].startswith("results in ")
    assert "\x1b" not in done.output
    assert "synthetic" not in done.output


def test_folder_is_claimed(done: Done) -> None:
    before = {x: x.read_bytes() for x in done.directory.rglob("*") if x.is_file()}
    with pytest.raises(ConfigError, match="holds another run's results"):
        train(done.directory, *TINY)
    assert before == {x: x.read_bytes() for x in done.directory.rglob("*") if x.is_file()}


def test_same_seed_same_bits(done: Done, tmp_path: Path) -> None:
    """Whatever random numbers were drawn in the process before."""
    torch.rand(5)
    again = train(tmp_path / "again", *SMALL, "averaging=ema", "seed=3", "trainer.deterministic=true")
    assert lines_of(again.directory) == lines_of(done.directory)
    name = "step-00000042.pt"
    assert same_bits(checkpoint_of(again.directory, name), checkpoint_of(done.directory, name))
    other = train(tmp_path / "other", *SMALL, "averaging=ema", "seed=4")
    assert lines_of(other.directory) != lines_of(done.directory)
    assert not same_bits(
        checkpoint_of(other.directory, name)["model"], checkpoint_of(done.directory, name)["model"]
    )


def test_without_validation(tmp_path: Path) -> None:
    done = train(tmp_path / "run", *SMALL, "dataset.val_fraction=0", "scheduler=none")
    summary = json_of(done.directory / "summary.json")
    assert set(summary["final"]) == {x for x in METRICS if not x.startswith("val/")}
    # Nothing chooses: the last weights count as the best.
    assert summary["best"] == summary["final"]
    assert summary["best_step"] == summary["steps"] == 2 * 23  # 1437 samples
    assert all("val/loss" not in x for x in lines_of(done.directory))
    assert "schedule: constant learning rate\n" in done.output


@pytest.mark.parametrize(
    ("overrides", "steps", "epochs", "evaluated"),
    [
        (("trainer.max_steps=30",), 30, 2, [21, 30]),  # in the middle of an epoch
        (("trainer.max_steps=21",), 21, 1, [21]),  # at its end
        (("trainer.max_steps=1000",), 42, 2, [21, 42]),  # beyond the end
        (("trainer.epochs=3", "trainer.evaluate_every=2"), 63, 3, [42, 63]),
        (("trainer.evaluate_every=9",), 42, 2, [42]),
        (("dataset.batch_size=5000",), 2, 2, [1, 2]),  # larger than the training set
        (("trainer.measure_every=1", "trainer.max_steps=5"), 5, 1, [5]),
    ],
)
def test_lengths(
    tmp_path: Path, overrides: tuple[str, ...], steps: int, epochs: int, evaluated: list[int]
) -> None:
    done = train(tmp_path / "run", *SMALL, *overrides)
    summary = json_of(done.directory / "summary.json")
    assert (summary["steps"], summary["epochs"]) == (steps, epochs)
    lines = lines_of(done.directory)
    assert [x["step"] for x in lines if x["event"] == "evaluated"] == evaluated
    every = next((int(x.split("=")[1]) for x in overrides if "measure_every" in x), 7)
    assert [x["step"] for x in lines if x["event"] == "measured"] == list(range(every, steps + 1, every))
    newest = max((done.directory / "checkpoints").glob("step-*"))
    assert newest.name == f"step-{steps:08d}.pt"
    # The schedule is as long as the run.
    scheduler = checkpoint_of(done.directory, newest.name)["scheduler"]
    assert (scheduler["total_steps"], scheduler["last_epoch"]) == (steps, steps)


def test_best_weights_are_tested(tmp_path: Path) -> None:
    """Where the last weights are not the best, the summary's test result belongs to the best ones."""
    # At so high a rate, the accuracy goes up and down.
    options = ("model.hidden=[]", "trainer.epochs=4", "scheduler=none", "optimizer=sgd", "optimizer.lr=20")
    done = train(tmp_path / "run", *options)
    accuracies = {x["step"]: x["val/accuracy"] for x in lines_of(done.directory) if x["event"] == "evaluated"}
    best = done.results.best_step
    assert best != 84, "choose another rate: the last weights were the best"
    assert accuracies[best] == max(accuracies.values()) == done.results.best["val/accuracy"]
    state = checkpoint_of(done.directory)
    assert state["step"] == best
    data = instantiate(config_of().dataset, _convert_="all")
    (images, labels), *rest = data.test.batches(len(data.test), torch.device("cpu"))
    assert not rest
    logits = images.flatten(1) @ state["model"]["head.weight"].T + state["model"]["head.bias"]
    correct = (logits.argmax(1) == labels).double().mean().item()
    assert done.results.best["test/accuracy"] == pytest.approx(correct, abs=1e-9)
    assert done.results.best["test/accuracy"] != done.results.final["test/accuracy"]


def test_synthetic_data_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = []
    original = Figure.suptitle

    def suptitle(self: Figure, text: str, *args: Any, **options: Any) -> Any:
        titles.append(text)
        return original(self, text, *args, **options)

    monkeypatch.setattr(Figure, "suptitle", suptitle)
    done = train(
        tmp_path / "run",
        *("dataset=synthetic", "dataset.num_samples=300", *TINY),
        choices=CHOICES | {"dataset": "synthetic"},
    )
    assert "dataset: synthetic (synthetic data)\n" in done.output
    assert json_of(done.directory / "summary.json")["synthetic_data"] is True
    assert len(titles) == 1
    assert "synthetic (synthetic data)" in titles[0]


def test_what_diverges_is_still_recorded(tmp_path: Path) -> None:
    done = train(
        tmp_path / "run", *SMALL, "optimizer=sgd", "optimizer.lr=1e30", "scheduler=none", "averaging=ema"
    )
    assert not isfinite(done.results.final["train/loss"])
    lines = lines_of(done.directory)
    assert lines[-1]["train/loss"] is None
    summary = json_of(done.directory / "summary.json")
    assert summary["final"]["val/loss"] is None
    assert 0 <= summary["best"]["test/accuracy"] <= 1
    assert (done.directory / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("optimizer=sgd", "optimizer.momentum=0"), "Nesterov momentum requires"),
        (("dataset=mnist", "dataset.root=nowhere"), "nowhere"),
        (("dataset.val_fraction=0.9999",), "dataset.val_fraction"),
        (("scheduler.max_lr=[0.1,0.2]",), "max_lr"),
    ],
)
def test_what_a_constructor_refuses(tmp_path: Path, overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        train(tmp_path / "run", *TINY, *overrides)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_cuda_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="torch sees no CUDA device; use cpu or auto"):
        train(tmp_path / "run", *TINY, "device=cuda")
    assert not (tmp_path / "run").exists()


def test_a_wrong_config_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        train(tmp_path / "run", "optimizer.lr=-1")
    assert not (tmp_path / "run").exists()


def test_a_log_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a full disk; it is missed by nobody in the middle of what is shown."""
    handler = logging.FileHandler("/dev/full")
    logger = logging.getLogger("optim_cli")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        train(tmp_path / "run", *TINY)
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)
        with suppress(OSError):  # what could not be written before
            handler.close()
    assert capsys.readouterr() == ("", "")


def test_standard_output_is_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = run(resolve(config_of(*TINY)), tmp_path / "run", CHOICES)
    assert f"step 3/3 train/loss {results.final['train/loss']:.4g}" in capsys.readouterr().out
