"""Files take their place at once, or leave no trace."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from optim_cli.whole_file import remove_partials, replacing


def names(folder: Path) -> list[str]:
    return sorted(x.name for x in folder.iterdir())


@pytest.mark.parametrize("before", [None, "old"])
def test_replacing(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "a.json"
    if before is not None:
        path.write_text(before)
    with replacing(path) as partial:
        partial.write_text("new")
        assert not path.exists() if before is None else path.read_text() == before
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failing(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with suppress(error), replacing(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "none" / "a.json"):
        pass


def test_what_a_killed_process_left(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.json") as partial:
        left = partial.name
    (tmp_path / "a.json").unlink()
    for name in (left, ".hidden", "mine.partial", "b.json"):
        (tmp_path / name).write_text("half")
    remove_partials(tmp_path)
    assert names(tmp_path) == [".hidden", "b.json", "mine.partial"]
