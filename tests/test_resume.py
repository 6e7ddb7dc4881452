"""Runs that are killed, stopped and damaged, as real processes with real signals and real disks."""

from __future__ import annotations

import logging
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torchvision.io import write_png

from optim_cli.config.compose import parse
from optim_cli.errors import ConfigError
from tests.experiments import ENVIRONMENT, ROOT, train, without_trace
from tests.results import checkpoint_of, json_of, lines_of, newest_of, unlike
from tests.run_process import AT_ONCE, PATIENCE, ended, output_of, started, wait_until

SMALL = (
    *("dataset=synthetic", "dataset.num_samples=260", "dataset.batch_size=16"),  # 12 steps an epoch
    *("model.hidden=[8]", "model.dropout=0.3", "averaging=ema", "trainer.measure_every=1"),
)
ENDLESS = (*SMALL, "trainer.epochs=1000000")


@pytest.fixture(autouse=True)
def _leave_no_trace() -> Iterator[None]:
    """A run changes the process that it has for itself elsewhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    logging.captureWarnings(False)
    logging.raiseExceptions = True
    torch.set_num_threads(threads)


def step_of(directory: Path) -> int:
    """Of the newest checkpoint."""
    return int(newest_of(directory).removeprefix("step-").removesuffix(".pt"))


def reaches(directory: Path, step: int) -> bool:
    """Whether there is a checkpoint of that step or a later one."""
    return bool(checkpoints(directory)) and step_of(directory) >= step


def checkpoints(directory: Path) -> list[Path]:
    return sorted((directory / "checkpoints").glob("step-*.pt"))


def lines_there(directory: Path, count: int) -> Callable[[], bool]:
    """Whether the metrics file has so many lines."""
    path = directory / "metrics.jsonl"
    return lambda: path.exists() and path.read_bytes().count(b"\n") >= count


def files_of(directory: Path) -> dict[Path, bytes]:
    return {x: x.read_bytes() for x in directory.rglob("*") if x.is_file()}


def test_killed_at_any_instant(tmp_path: Path, seed: int) -> None:
    """Three times, at random after the first checkpoint and before the last; then to the end."""
    generator = random.Random(seed)
    overrides = (*SMALL, "trainer.epochs=60", f"seed={seed}")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    reference = started(whole, *overrides)
    reached = 0
    for number in range(3):
        process = started(parts, *overrides, resume=number > 0)
        goal = reached + generator.randint(1, 12) * 12
        wait_until(partial(reaches, parts, goal), process)
        process.kill()
        assert ended(process) == -signal.SIGKILL
        reached = step_of(parts)
        assert 0 < reached < 720
        assert lines_of(parts)[-1]["step"] < 720
        assert not (parts / "summary.json").exists()
    assert ended(started(parts, *overrides, resume=True)) == 0
    assert ended(reference) == 0
    assert unlike(whole, parts) == []
    assert f"resumed from step {reached}\n" in output_of(parts).read_text()
    assert {x.name for x in parts.glob("environment*")} == {
        *("environment.json", "environment-2.json", "environment-3.json", "environment-4.json"),
    }


def test_killed_before_the_first_checkpoint(tmp_path: Path) -> None:
    overrides = (*SMALL, "trainer.epochs=40", "trainer.evaluate_every=40")
    process = started(tmp_path / "parts", *overrides)
    wait_until(lines_there(tmp_path / "parts", 5), process)
    process.kill()
    assert ended(process) == -signal.SIGKILL
    assert not checkpoints(tmp_path / "parts")
    done = train(tmp_path / "parts", *overrides, resume=True)
    assert "no checkpoint yet: starting from the beginning\n" in done.output
    train(tmp_path / "whole", *overrides)
    assert unlike(tmp_path / "whole", tmp_path / "parts") == []


def test_killed_inside_saving(tmp_path: Path) -> None:
    """The half-written file is gone after the next start, and the one before it is loaded."""
    directory = tmp_path / "run"
    overrides = (
        *(*SMALL, "model.hidden=[1200,1200]", "scheduler=none"),
        *("dataset.num_samples=60", "dataset.num_classes=2"),
    )
    process = started(directory, *overrides, "trainer.epochs=100000")
    wait_until(lambda: checkpoints(directory), process)
    wait_until(lambda: list((directory / "checkpoints").glob(".step-*")), process)
    process.kill()
    assert ended(process) == -signal.SIGKILL
    assert list((directory / "checkpoints").glob(".step-*")), "it was killed too late"
    reached = step_of(directory)
    done = train(directory, *overrides, f"trainer.max_steps={reached + 4}", resume=True)
    assert f"resumed from step {reached}\n" in done.output
    assert not list(directory.rglob(".*"))
    assert step_of(directory) == reached + 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_mid_epoch(tmp_path: Path, number: signal.Signals) -> None:
    """It saves, and says which command goes on."""
    directory = tmp_path / "a run"
    overrides = (*ENDLESS, "trainer.evaluate_every=1000")
    process = started(directory, *overrides)
    wait_until(lines_there(directory, 30), process)
    os.kill(process.pid or 0, number)
    assert ended(process) == 128 + number
    step = step_of(directory)
    assert lines_of(directory)[-1]["step"] == step >= 30
    shown = output_of(directory).read_text().splitlines()
    assert f"{number.name}: stopping after this step; a second one stops at once" in shown
    assert shown[-2] == f"{number.name}: stopped at step {step} of 12000000; go on with"
    command, argument = shlex.split(shown[-1])
    assert command == "optim-run"
    [override], mistakes = parse([argument])
    assert not mistakes
    assert (override.key_or_group, Path(str(override.value())).resolve()) == ("resume", directory)
    log = (tmp_path / "a run.log").read_text()
    assert f"{number.name}: stopping" in log
    assert f"stopped at step {step}" in log
    assert without_trace(log)
    shorter = (*SMALL, "trainer.evaluate_every=1000", f"trainer.max_steps={step + 5}")
    with pytest.raises(ConfigError, match=r"scheduler.total_steps: it was planned for 12000000"):
        train(directory, *shorter, resume=True)
    done = train(directory, *shorter, "scheduler.total_steps=12000000", resume=True)
    assert done.results.steps == step + 5


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    """In the middle of a step that takes seconds."""
    directory = tmp_path / "run"
    process = started(
        *(directory, *ENDLESS, "model.hidden=[1500,1500]", "dataset.num_samples=6000"),
        *("dataset.batch_size=3000", "trainer.evaluate_every=1000"),
    )
    wait_until(lines_there(directory, 1), process)
    os.kill(process.pid or 0, signal.SIGINT)
    wait_until(lambda: "stopping after this step" in output_of(directory).read_text(), process)
    os.kill(process.pid or 0, signal.SIGINT)
    assert ended(process) == AT_ONCE
    assert not list((directory / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides for 160 image files that two workers read, more slowly than a step takes."""
    root = tmp_path_factory.mktemp("pictures")
    for part, count in (("train", 60), ("test", 20)):
        for label in ("cat", "dog"):
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                image = torch.full((3, 12, 12), number, dtype=torch.uint8)
                write_png(image, str(root / part / label / f"{number}.png"))
    return (
        *("dataset=image_folder", f"dataset.root={root}", "dataset.image_size=128", "dataset.batch_size=16"),
        *("dataset.workers=2", "model.hidden=[4]", "trainer.measure_every=1"),
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_get_the_signal_too(
    tmp_path: Path, pictures: tuple[str, ...], number: signal.Signals
) -> None:
    """As from a terminal, or a batch system that ends a job."""
    directory = tmp_path / "run"
    process = started(directory, *pictures, "trainer.epochs=100000")
    wait_until(lines_there(directory, 20), process)
    os.killpg(process.pid or 0, number)
    assert ended(process) == 128 + number
    assert lines_of(directory)[-1]["step"] == step_of(directory)
    shown = output_of(directory).read_text()
    assert without_trace(shown)
    assert shown.count("stopping after this step") == 1


def test_one_process_at_a_time(tmp_path: Path, pictures: tuple[str, ...]) -> None:
    """Until it is killed; that its workers live on for seconds is no obstacle."""
    directory = tmp_path / "run"
    overrides = (*pictures, "scheduler=none")
    process = started(directory, *overrides, "trainer.epochs=100000")
    wait_until(lambda: checkpoints(directory), process)
    for resume, says in ((True, "is in use: another process runs in it"), (False, "holds another run's")):
        with pytest.raises(ConfigError, match=says) as error:
            train(directory, *overrides, resume=resume)
        assert repr(str(directory)) in str(error.value)
    process.kill()
    assert ended(process) == -signal.SIGKILL
    limit = step_of(directory) + 1
    assert train(directory, *overrides, f"trainer.max_steps={limit}", resume=True).results.steps == limit


def damage(path: Path, kind: str, generator: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if kind == "truncated":
        del data[generator.randrange(len(data)) :]
    elif kind == "zeroed":
        data[:] = bytes(len(data))
    elif kind == "flipped":  # one bit of the weights themselves
        tensor = next(iter(torch.load(path, weights_only=True)["model"].values())).numpy().tobytes()
        place = data.index(tensor) + generator.randrange(len(tensor))
        data[place] ^= 1 << generator.randrange(8)
    elif kind == "text":
        data = bytearray(b"no checkpoint\n")
    else:
        state = torch.load(path, weights_only=True)
        torch.save({x: y for x, y in state.items() if x != "random"}, path)
        return
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["truncated", "zeroed", "flipped", "text", "lacking"])
def test_a_damaged_newest_one(tmp_path: Path, kind: str, seed: int) -> None:
    """The one before is taken, which is said; the next ones are written as if it were not there."""
    overrides = (*SMALL, "trainer.epochs=4", f"seed={seed}")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole, *overrides)
    shutil.copytree(whole, parts)
    (parts / "summary.json").unlink()
    newest = checkpoints(parts)[-1]
    damage(newest, kind, random.Random(seed))
    done = train(parts, *overrides, resume=True)
    [warning] = [x for x in done.output.splitlines() if x.startswith("warning: ")]
    assert f"{newest} cannot be used: " in warning
    assert without_trace(done.output)
    if kind == "lacking":
        assert warning.endswith("it lacks random")
    if kind == "flipped":
        assert warning.endswith("its content is not what was written")
    assert "resumed from step 36\n" in done.output
    assert unlike(whole, parts) == []
    for path in checkpoints(parts):
        damage(path, kind, random.Random(seed))
    (parts / "summary.json").unlink()
    before = files_of(parts)
    with pytest.raises(ConfigError, match=r"holds no checkpoint that can be used.*rerun="):
        train(parts, *overrides, resume=True)
    assert files_of(parts) == before


def test_the_file_of_the_best(tmp_path: Path) -> None:
    """Repaired where the checkpoint has it; otherwise the run ends without its test metrics, and says so."""
    overrides = (
        *("model.hidden=[]", "trainer.epochs=5", "scheduler=none"),
        *("optimizer=sgd", "optimizer.lr=20", "seed=4"),
    )
    whole = tmp_path / "whole"
    best = train(whole, *overrides).results.best_step
    assert 21 < best < 105, "choose another seed: the best are the first or the last"
    for at, repaired in ((best, True), (best + 21, False)):
        parts = tmp_path / str(at)
        # Killed between the two files: the checkpoint is there, the file of the best is the one before.
        train(parts, *overrides, f"trainer.max_steps={best - 21}")
        stale = (parts / "checkpoints" / "best.pt").read_bytes()
        train(parts, *overrides, f"trainer.max_steps={at}", resume=True)
        (parts / "summary.json").unlink()
        (parts / "checkpoints" / "best.pt").write_bytes(stale)
        done = train(parts, *overrides, resume=True)
        assert done.results.best_step == best
        assert ("warning" not in done.output) is repaired
        assert ("test/accuracy" in done.results.best) is repaired
        if repaired:
            assert checkpoint_of(parts)["step"] == best
        else:
            says = rf"^warning: .*best.pt is of step \d+, not of {best}; the best weights are not tested$"
            assert re.search(says, done.output, re.MULTILINE)


def test_what_cannot_go_on(tmp_path: Path) -> None:
    """Refused before anything is changed."""
    run = tmp_path / "run"
    overrides = (*SMALL, "trainer.epochs=2")
    train(run, *overrides)
    before = files_of(run)
    for changes, says in (
        (
            (),
            r"is complete \(24 of 24 steps\); raise trainer.epochs to go on, or .* with optim-run rerun=",
        ),
        (("trainer.epochs=3",), r"scheduler.total_steps: .* planned for 24 .* scheduler.total_steps=24"),
        (("trainer.epochs=1",), r"trainer.epochs, trainer.max_steps: they make 12 steps, but 24 are done"),
        (
            ("model.hidden=[9]", "trainer.epochs=3", "scheduler.total_steps=24"),
            r"checkpoint is of another model or optimizer: .*size mismatch",
        ),
    ):
        with pytest.raises(ConfigError, match=says):
            train(run, *overrides, *changes, resume=True)
        assert files_of(run) == before
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ConfigError, match="is complete and its checkpoints are gone"):
        train(run, *overrides, resume=True)
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"is no run's folder: it holds no config.yaml"):
            train(folder, *overrides, resume=True)
    assert not (tmp_path / "nowhere").exists()


def test_a_schedule_that_follows_the_length_of_the_run(tmp_path: Path) -> None:
    """What came of shares of the run stays, or is refused by its number; lengths in epochs go on."""
    follows = (*SMALL, "trainer.epochs=2", "scheduler=warmup_cosine", "scheduler.sequence.warmup.length=25%")
    train(tmp_path / "share", *follows)
    longer = (*follows, "trainer.epochs=3")
    with pytest.raises(ConfigError) as caught:
        train(tmp_path / "share", *longer, resume=True)
    lines = str(caught.value).splitlines()
    kept = [re.fullmatch(r"(.*): it was planned for .*; .* or the plan with (.*=\d+)", x) for x in lines]
    assert [x and x[2] for x in kept] == [
        "scheduler.sequence.warmup.length=6",
        "scheduler.sequence.warmup.total_iters=6",
        "scheduler.sequence.cosine.T_max=18",
    ]
    done = train(tmp_path / "share", *longer, *(x[2] for x in kept if x), resume=True)
    assert done.results.steps == 36
    fixed = (*SMALL, "trainer.epochs=2", "scheduler=multistep", "scheduler.milestones=[1 epochs,18 steps]")
    train(tmp_path / "epochs", *fixed)
    done = train(tmp_path / "epochs", *fixed, "trainer.epochs=3", resume=True)
    rates = {x["step"]: x["lr"] for x in lines_of(done.directory) if "lr" in x}
    changes = [step for step in rates if step > 1 and rates[step] != rates[step - 1]]
    assert changes == [13, 19]


def test_a_config_that_changes(tmp_path: Path) -> None:
    """The new length is kept in the folder; what differs around the run is said."""
    overrides = (*SMALL, "scheduler=none")
    train(tmp_path, *overrides, "trainer.epochs=1")
    environment = tmp_path / "environment.json"
    environment.write_text(environment.read_text().replace(torch.__version__.split("+")[0], "1.0.0"))
    done = train(tmp_path, *overrides, "trainer.epochs=2", resume=True)
    assert "epochs: 2\n" in (tmp_path / "config.yaml").read_text()
    assert json_of(tmp_path / "summary.json")["steps"] == 24
    [warning] = [x for x in done.output.splitlines() if x.startswith("warning: ")]
    assert warning.startswith("warning: torch ")
    assert warning.endswith(" instead of 1.0.0: the result may differ in the last bits")


def command(where: Path, *arguments: str) -> subprocess.Popen[str]:
    """`optim-run` in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "optim_cli", *arguments],
        cwd=where,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_pipe_that_nobody_reads(tmp_path: Path) -> None:
    """As in `optim-run | head -n 2`."""
    with command(tmp_path, *SMALL, "trainer.epochs=30", "hydra.run.dir=run") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE) == 0
    assert json_of(tmp_path / "run" / "summary.json")["steps"] == 360
    assert step_of(tmp_path / "run") == 360


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if _mount("-t", "tmpfs", "-o", "size=2m", "none", str(folder)):
        pytest.skip("only the administrator may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _mount(*arguments: str) -> int:
    return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode


# A checkpoint of 0.6 MiB.
MEDIUM = ("trainer.epochs=9", "scheduler=cosine", "trainer.measure_every=1")


def test_a_full_disk(tmp_path: Path, disk: Path) -> None:
    """The run fails with the cause in a line; after room was made, it goes on."""
    with command(tmp_path, *MEDIUM, f"hydra.run.dir={disk / 'run'}") as process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors
    assert errors.startswith("optim-run: the run failed: OSError: ")
    assert without_trace(output + errors)
    assert not (disk / "run" / "summary.json").exists()
    assert not list(disk.rglob("*.partial"))
    assert checkpoints(disk / "run")
    for path in (disk / "run" / "checkpoints").iterdir():
        checkpoint_of(disk / "run", path.name)
    assert _mount("-o", "remount,size=30m", str(disk)) == 0
    train(disk / "run", *MEDIUM, resume=True)
    train(tmp_path / "whole", *MEDIUM)
    assert unlike(tmp_path / "whole", disk / "run") == []


def test_a_read_only_disk(disk: Path) -> None:
    train(disk / "run", *SMALL, "trainer.epochs=1")
    (disk / "run" / "summary.json").unlink()
    (disk / "empty").mkdir()
    before = files_of(disk)
    assert _mount("-o", "remount,ro", str(disk)) == 0
    with pytest.raises(OSError, match="Read-only"):
        train(disk / "run", *SMALL, "trainer.epochs=1", resume=True)
    with pytest.raises(OSError, match="Read-only"):
        train(disk / "empty", *SMALL)
    with pytest.raises(ConfigError, match=r"hydra.run.dir: no folder can be made: .*Read-only"):
        train(disk / "new", *SMALL)
    assert files_of(disk) == before
