"""A run that is stopped and resumed is the run that was never stopped, bit for bit."""

from __future__ import annotations

import json
import logging
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torchvision.io import write_png

from tests.experiments import ENVIRONMENT, ROOT, train
from tests.results import json_of, unlike
from tests.training.interruptions import broken_off

CROP_FLIP = "{_target_: optim_cli.datasets.augmentation.CropFlip, padding: 1, flip: true}"
OPTIMIZERS = (
    *("sgd", "adam", "adamw", "adagrad", "adadelta", "adafactor", "adamax"),
    *("asgd", "nadam", "radam", "rmsprop", "rprop"),
)
OURS = "_target_: optim_cli.optim.lr_scheduler"
# A chain of a sequence, a plateau, and another hyperparameter.
NESTED = (
    "{metric: train/loss, chain: {"
    f"steps: {{sequence: {{up: {{{OURS}.LinearLR, length: 30%}}, down: {{{OURS}.CosineAnnealingLR}}}}}}, "
    f"worse: {{{OURS}.ReduceLROnPlateau, patience: 0, factor: 0.5}}, "
    f"other: {{{OURS}.ExponentialLR, gamma: 0.9, hyperparameter: OTHER}}"
    "}}"
)
# What it is of algorithms that have no weight decay.
OTHER = {"rprop": "etas.0"}
# Goes on with the runs of its argument, folder -> overrides.
RESUME = """
import json, sys
from pathlib import Path
from tests.experiments import train
for folder, overrides in json.loads(sys.argv[1]).items():
    train(Path(folder), *overrides, resume=True)
"""
SYNTHETIC = ("dataset=synthetic", "dataset.num_samples=260", "dataset.batch_size=16")  # 12 steps an epoch


@pytest.fixture(autouse=True)
def _leave_no_trace() -> Iterator[None]:
    """A run changes the process that it has for itself elsewhere."""
    yield
    logging.captureWarnings(False)
    logging.raiseExceptions = True


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image files: 2 classes, 40 to train with and 8 to test."""
    root = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 20), ("test", 4)):
        for label in ("cat", "dog"):
            folder = root / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                image = torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8, generator=generator)
                write_png(image, str(folder / f"{number}.png"))
    return root


def averaged(generator: random.Random) -> tuple[str, ...]:
    """Overrides for no average, one or two, which begin at some step."""
    ema, swa = generator.randrange(8), f"{generator.randrange(20, 90)}%"
    every, rate = generator.choice([1, 1, 2, 5]), generator.choice(["null", 0.02])
    return generator.choice(
        [
            ("averaging=none",),
            ("averaging=ema", f"averaging.every={min(every, 2)}", f"averaging.start={ema}"),
            ("averaging=ema_warmup",),
            ("averaging=swa", f"averaging.start={swa}", f"averaging.swa_lr={rate}", "averaging.anneal=3"),
            (
                *("averaging=ema_swa", f"averaging.ema.start={ema}", f"averaging.swa.start={swa}"),
                *(f"averaging.swa.every={every}", f"averaging.swa.swa_lr={rate}"),
            ),
        ]
    )


def scheduled(generator: random.Random, optimizer: str) -> list[str]:
    """Overrides for any schedule that needs no function of a user's."""
    choices = sorted(x.stem for x in (ROOT / "configs" / "scheduler").glob("*.yaml"))
    name = generator.choice([x for x in choices if x not in ("lambda", "multiplicative")] + ["nested"])
    if name == "plateau":
        return ["scheduler=plateau", "scheduler.metric=train/loss", "scheduler.patience=0"]
    if name == "nested":
        other = OTHER.get(optimizer, "weight_decay")
        return ["scheduler=none", f"+scheduler={NESTED.replace('OTHER', other)}"]
    by_epoch = name not in ("none", "onecycle") and generator.random() < 0.2
    return [f"scheduler={name}"] + ["scheduler.interval=epoch"] * by_epoch


def grouped(generator: random.Random) -> tuple[str, ...]:
    """Overrides for parameter groups, with what changes over a run: frozen at first, or another schedule."""
    backbone, head = (f"optimizer.param_groups.{x}" for x in ("backbone", "head"))
    return generator.choice(
        [
            (),
            (),
            ("optimizer/param_groups=[muon,backbone_head]",),
            ("optimizer/param_groups=layer_decay",),
            (
                *(
                    "optimizer/param_groups=backbone_head",
                    f"{backbone}.unfreeze_at={generator.randrange(1, 8)}",
                ),
                f"{head}.scheduler={{{OURS}.CosineAnnealingLR}}",
            ),
            ("optimizer/param_groups=backbone_head", f"{backbone}.freeze=true"),
            (
                *("optimizer/param_groups=muon", "optimizer.param_groups.matrices.unfreeze_at=50%"),
                "optimizer.param_groups.matrices.scheduler={}",
            ),
        ]
    )


def drawn(generator: random.Random, pictures: Path) -> list[str]:
    """Overrides for a run of 8 to 48 steps."""
    pick = generator.choice
    files = (
        *("dataset=image_folder", f"dataset.root={pictures}", "dataset.image_size=8"),
        *("dataset.batch_size=5", f"dataset.workers={pick([0, 0, 2])}"),
    )
    optimizer = pick(OPTIMIZERS)
    overrides = [
        *pick([SYNTHETIC, (*SYNTHETIC, f"dataset.augmentation={CROP_FLIP}"), files]),
        *pick([("model.hidden=[8]", "model.dropout=0.4"), ("model=cnn", "model.widths=[4,4]")]),
        f"optimizer={optimizer}",
        f"optimizer.implementation={pick(['auto', 'for_loop', 'foreach'])}",
        *scheduled(generator, optimizer),
        *grouped(generator),
        *averaged(generator),
        f"trainer.clip_norm={pick(['null', 0.5])}",
        f"trainer.clip_value={pick(['null', 0.05])}",
        f"dataset.val_fraction={pick([0, 0.15, 0.15])}",
        f"trainer.epochs={pick([2, 3, 4])}",
        f"trainer.evaluate_every={pick([1, 1, 2, 3])}",
        f"trainer.measure_every={pick([1, 3, 5])}",
        f"seed={generator.randrange(2**40)}",
    ]
    if generator.random() < 0.4:
        # A schedule by epoch needs two of them, of at most 13 steps, for its warmup and its decay.
        fewest = 14 if "scheduler.interval=epoch" in overrides else 8
        overrides.append(f"trainer.max_steps={generator.randint(fewest, 25)}")
    return overrides


@pytest.mark.parametrize("number", range(10))
def test_stopped_and_resumed(number: int, tmp_path: Path, pictures: Path, seed: int) -> None:
    """At random steps, by a signal in a step or an evaluation or by something worse, several times."""
    generator = random.Random(f"{seed} {number}")
    overrides = drawn(generator, pictures)
    print(*overrides)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    steps = train(whole, *overrides).results.steps
    resume, at = False, 0
    for _ in range(generator.randint(1, 3)):
        at = generator.randint(at + 1, steps) if at < steps else steps
        how = generator.choice(["stop", "stop", "evaluation", "kill"])
        print(how, at)
        if not broken_off(parts, *overrides, how=how, at=at, resume=resume):
            break
        random.seed(0)  # what happens elsewhere is of no concern
        torch.manual_seed(0)
        resume = True
    if not (parts / "summary.json").exists():
        train(parts, *overrides, resume=True)
    assert unlike(whole, parts) == []
    assert not list(parts.rglob("*.partial"))


def test_resumed_in_a_new_process(tmp_path: Path, pictures: Path, seed: int) -> None:
    """As above, but what goes on knows only the files: one process for all, broken off at random steps."""
    generator = random.Random(seed)
    runs = {}
    for number in range(6):
        overrides = drawn(generator, pictures)
        whole, part = (tmp_path / f"{x}{number}" for x in ("whole", "part"))
        steps = train(whole, *overrides).results.steps
        at = generator.randint(1, steps)
        print(at, *overrides)
        if broken_off(part, *overrides, how=generator.choice(["stop", "kill"]), at=at):
            runs[str(part)] = overrides
    assert runs
    command = [sys.executable, "-W", "error", "-c", RESUME, json.dumps(runs)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for folder in runs:
        assert unlike(Path(folder.replace("part", "whole")), Path(folder)) == [], folder


def test_an_optimizer_that_evaluates_batches_several_times(tmp_path: Path) -> None:
    """Broken off while its history fills, and when it has gone round."""
    overrides = (
        *(*SYNTHETIC, "model.hidden=[7]", "model.dropout=0.4", "trainer.epochs=3"),
        *("optimizer=lbfgs", "optimizer.history_size=5", "optimizer.max_iter=3"),
        *("trainer.clip_norm=2", "averaging=ema"),
    )
    train(tmp_path / "whole", *overrides)
    assert broken_off(tmp_path / "parts", *overrides, how="stop", at=1)
    assert broken_off(tmp_path / "parts", *overrides, how="stop", at=14, resume=True)
    assert broken_off(tmp_path / "parts", *overrides, how="kill", at=30, resume=True)
    torch.manual_seed(0)  # what happens elsewhere is of no concern
    train(tmp_path / "parts", *overrides, resume=True)
    assert unlike(tmp_path / "whole", tmp_path / "parts") == []


@pytest.mark.parametrize("chosen", ["before", "after"])
def test_the_best_before_and_after(tmp_path: Path, chosen: str) -> None:
    """Its weights are chosen before the interruption, and after it."""
    # At so high a rate, the accuracy goes up and down.
    overrides = (
        "model.hidden=[]",
        "trainer.epochs=5",
        "scheduler=none",
        "optimizer=sgd",
        "optimizer.lr=20",
        "seed=4",
    )
    best = train(tmp_path / "whole", *overrides).results.best_step
    assert 21 < best < 105, "choose another rate: the best are the first or the last"
    at = best + 3 if chosen == "before" else best - 3
    assert broken_off(tmp_path / "parts", *overrides, how="stop", at=at)
    train(tmp_path / "parts", *overrides, resume=True)
    assert unlike(tmp_path / "whole", tmp_path / "parts") == []


def test_longer_than_planned(tmp_path: Path) -> None:
    """Raised where the schedule permits, in the middle of an epoch too, it is the longer run."""
    overrides = (*SYNTHETIC, "model.hidden=[8]", "model.dropout=0.2", "scheduler=none", "trainer.epochs=3")
    train(tmp_path / "whole", *overrides)
    train(tmp_path / "parts", *overrides, "trainer.max_steps=17")
    train(tmp_path / "parts", *overrides, "trainer.max_steps=30", resume=True)
    done = train(tmp_path / "parts", *overrides, resume=True)
    assert "resumed from step 30\n" in done.output
    # Each end was evaluated; beyond that there is no difference, the mean of the epoch included.
    ends = [x for x in unlike(tmp_path / "whole", tmp_path / "parts") if "best" not in x]
    assert ends == ["metrics.jsonl"] or ends == []
    left, right = ((tmp_path / x / "metrics.jsonl").read_text().splitlines() for x in ("whole", "parts"))
    added = [x for x in right if x not in left]
    assert [x for x in right if x in left] == left
    assert [int(re.findall(r'"step": (\d+)', x)[0]) for x in added] == [17, 30]


def test_seconds_add_up(tmp_path: Path) -> None:
    overrides = (*SYNTHETIC, "model.hidden=[8]", "trainer.epochs=2")
    assert broken_off(tmp_path, *overrides, how="stop", at=7)
    path = tmp_path / "checkpoints" / "step-00000007.pt"
    state = torch.load(path, weights_only=True)
    torch.save(state | {"seconds": state["seconds"] + 1000}, path)
    done = train(tmp_path, *overrides, resume=True)
    assert 1000 < done.results.seconds < 1100
    assert json_of(tmp_path / "summary.json")["seconds"] == pytest.approx(done.results.seconds, abs=1e-3)
