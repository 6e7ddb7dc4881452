"""Checkpoints: which are kept, and that no moment leaves half of one."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from optim_cli.training.checkpoint import Checkpoints, Damaged, read_checkpoint, write_whole


def names(folder: Path) -> list[str]:
    return sorted(x.name for x in folder.iterdir())


class Unsavable:
    """Fails when it is written, after what comes before it was."""

    def __reduce__(self) -> Any:
        raise TypeError("not to be saved")


def test_the_two_newest_and_the_best(tmp_path: Path) -> None:
    writer = Checkpoints(tmp_path / "deep" / "folder")
    bests = {3, 40}
    seen = []
    for step in (3, 9, 40, 100, 7000, 123456789):
        path = writer.save({"step": step, "w": torch.full((3,), step)}, step, step in bests)
        assert path == writer.folder / f"step-{step:08d}.pt"
        seen.append(path.name)
        best = max(x for x in bests if x <= step)
        assert names(writer.folder) == sorted(["best.pt", *seen[-2:]])
        assert read_checkpoint(writer.best)["step"] == best
        assert read_checkpoint(path)["w"].tolist() == [step] * 3


def test_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_text("mine")
    writer = Checkpoints(tmp_path)
    for step in range(5):
        writer.save({}, step, False)
    assert "mine.pt" in names(tmp_path)
    assert "best.pt" not in names(tmp_path)


def test_failing_in_the_middle_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_whole({"step": 1}, path)
    before = path.read_bytes()
    with pytest.raises(TypeError, match="not to be saved"):
        write_whole({"tensor": torch.zeros(100_000), "bad": Unsavable()}, path)
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.pt"]
    writer = Checkpoints(tmp_path)
    with pytest.raises(TypeError, match="not to be saved"):
        writer.save({"bad": Unsavable()}, 2, True)
    assert names(tmp_path) == ["a.pt"]


def test_old_ones_go_only_after_the_new_one_is_there(tmp_path: Path) -> None:
    writer = Checkpoints(tmp_path)
    for step in (1, 2):
        writer.save({"step": step}, step, True)
    with pytest.raises(TypeError, match="not to be saved"):
        writer.save({"bad": Unsavable()}, 3, True)
    assert names(tmp_path) == ["best.pt", "step-00000001.pt", "step-00000002.pt"]
    assert read_checkpoint(writer.best) == {"step": 2}


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A real limit: for a moment this process may write files of 1 MiB at most."""
    writer = Checkpoints(tmp_path)
    writer.save({"w": torch.zeros(10)}, 1, True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(OSError, match=r"step-00000002.pt could not be written; is the disk full\?"):
            writer.save({"w": torch.zeros(2**20)}, 2, True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["best.pt", "step-00000001.pt"]
    assert read_checkpoint(writer.best)["w"].tolist() == [0.0] * 10


# An interrupt right after open() leaves a file to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_while_writing(tmp_path: Path, seed: int) -> None:
    """Comes through as itself at whatever moment, and leaves the old file or the new one."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    generator = random.Random(seed)
    path = tmp_path / "a.pt"
    write_whole({"step": -1}, path)
    newest, interrupted = -1, 0
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        for step in range(60):
            state = {"step": step} | {str(i): torch.zeros(500) for i in range(150)}
            try:
                signal.setitimer(signal.ITIMER_REAL, generator.uniform(1e-4, 1.5e-2))
                write_whole(state, path)
                signal.setitimer(signal.ITIMER_REAL, 0)
                newest = step
            except KeyboardInterrupt:
                interrupted += 1
            found = read_checkpoint(path)["step"]
            # It may have come after the new file had taken the old one's place.
            assert found in (newest, step)
            newest = found
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert interrupted > 5


@pytest.mark.parametrize("obstacle", ["file", "missing"])
def test_a_folder_that_cannot_be_written(tmp_path: Path, obstacle: str) -> None:
    if obstacle == "file":
        (tmp_path / "checkpoints").write_text("no folder")
        with pytest.raises(FileExistsError):
            Checkpoints(tmp_path / "checkpoints")
        return
    writer = Checkpoints(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").rmdir()
    with pytest.raises(FileNotFoundError):
        writer.save({}, 1, True)
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    writer = Checkpoints(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            writer.save({}, 1, True)
        assert names(tmp_path) == []
    finally:
        tmp_path.chmod(0o700)


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "trapped"),)

    torch.save({"trap": Trap()}, tmp_path / "bad.pt")
    with pytest.raises(Damaged, match=r"bad.pt cannot be used: Weights only load failed"):
        read_checkpoint(tmp_path / "bad.pt")
    assert names(tmp_path) == ["bad.pt"]


def test_every_bit_counts(tmp_path: Path, seed: int) -> None:
    """A changed bit is found, or changes nothing that is loaded."""
    state = {"weights": torch.arange(40.0), "step": 3, "nested": [1.5, {"name": "x"}]}
    path = tmp_path / "a.pt"
    write_whole(state, path)
    whole = path.read_bytes()
    places = random.Random(seed).sample(range(8 * len(whole)), 500)
    found = list[str]()
    for place in places:
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            loaded = read_checkpoint(path)
        except Damaged as error:
            found.append(str(error))
        else:
            assert loaded.pop("weights").tolist() == list(range(40))
            assert loaded == {"step": 3, "nested": [1.5, {"name": "x"}]}
    assert len(found) > 100
    assert all(re.fullmatch(rf"{re.escape(str(path))} cannot be used: .+", x) for x in found)


def test_an_entry_that_is_marked_as_a_folder(tmp_path: Path) -> None:
    """torch would leave its tensor as the memory happens to be."""
    path = tmp_path / "a.pt"
    write_whole({"weights": torch.arange(40.0)}, path)
    whole = path.read_bytes()
    entries = [x.start() for x in re.finditer(b"PK\x01\x02", whole)]
    assert len(entries) > 2
    for entry in entries:
        data = bytearray(whole)
        data[entry + 38] |= 0x10
        path.write_bytes(data)
        with pytest.raises(Damaged, match="its content is not what was written"):
            read_checkpoint(path)


def test_the_newest_that_can_be_used(tmp_path: Path) -> None:
    writer, warnings = Checkpoints(tmp_path), list[str]()
    assert writer.newest(["w"], warnings.append) is None
    for step in (5, 6):
        writer.save({"step": step}, step, True)
    assert writer.newest(["step"], warnings.append) == {"step": 6}
    assert warnings == []
    (tmp_path / "step-00000006.pt").write_bytes(b"")
    assert writer.newest(["step"], warnings.append) == {"step": 5}
    assert warnings == [f"{tmp_path / 'step-00000006.pt'} cannot be used: File is not a zip file"]
    with pytest.raises(Damaged, match=r"holds no checkpoint that can be used: step-0+6.pt, step-0+5.pt"):
        writer.newest(["step", "w"], warnings.append)
    assert warnings[-1] == f"{tmp_path / 'step-00000005.pt'} cannot be used: it lacks w"
    # A run that went on from step 5 drops what lies beyond, but not what it went on from.
    writer.save({"step": 5.5}, 6, False)
    assert names(tmp_path) == ["best.pt", "step-00000005.pt", "step-00000006.pt"]
    (tmp_path / "step-00000009.pt").write_bytes(b"")
    writer.save({"step": 7}, 7, False)
    assert names(tmp_path) == ["best.pt", "step-00000006.pt", "step-00000007.pt"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save({}, 1, True)
    (tmp_path / ".step-00000002.pt.4711.partial").write_bytes(b"half")
    Checkpoints(tmp_path)
    assert names(tmp_path) == ["best.pt", "step-00000001.pt"]
