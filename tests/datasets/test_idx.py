import gzip
import struct
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optim_cli.datasets.idx import read_idx
from optim_cli.errors import ConfigError

SHAPE = (5, 4, 3)
ELEMENTS = bytes(range(60))
CONTENT = struct.pack(">4B3I", 0, 0, 8, 3, *SHAPE) + ELEMENTS

# The file is written anew for each example, so that sharing the folder is no matter.
fuzz = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("packed", [False, True])
def test_elements_are_read(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / ("images.gz" if packed else "images")
    path.write_bytes(gzip.compress(CONTENT) if packed else CONTENT)
    found = read_idx(path, 3)
    assert found.dtype == torch.uint8
    assert torch.equal(found, torch.arange(60, dtype=torch.uint8).view(SHAPE))


@fuzz
@given(st.integers(0, len(CONTENT) - 1))
def test_a_plain_file_cut_anywhere_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "images"
    path.write_bytes(CONTENT[:length])
    with pytest.raises(ConfigError, match=f"{path} cannot be used: it "):
        read_idx(path, 3)


@fuzz
@given(st.integers(0, len(gzip.compress(CONTENT)) - 1))
def test_a_packed_file_cut_anywhere_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(CONTENT)[:length])
    with pytest.raises(ConfigError, match=f"{path} cannot be used: "):
        read_idx(path, 3)


@fuzz
@given(st.integers(12, len(gzip.compress(CONTENT)) - 1), st.integers(1, 255))
def test_a_changed_byte_of_a_packed_file_changes_no_image(tmp_path: Path, position: int, change: int) -> None:
    packed = bytearray(gzip.compress(CONTENT))
    packed[position] ^= change
    path = tmp_path / "images.gz"
    path.write_bytes(packed)
    found = None
    with suppress(ConfigError):
        found = read_idx(path, 3)
    # Bits that only fill up the last byte of the packed data carry nothing: that file is whole.
    assert found is None or bytes(found.flatten().tolist()) == CONTENT[16:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT + b"x", "announces 5 x 4 x 3 = 60 elements and holds 61"),
        (b"\0\0\x0d\3" + CONTENT[4:], "begins with 00 00 0d 03, not with 00 00 08 03"),
        (b"\0\0\x08\1" + CONTENT[4:], "begins with 00 00 08 01"),
        (b"<!DOCTYPE html>", "begins with 3c 21 44 4f"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 2**31), f"= {2**93} elements and holds 0"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 0, 4, 3), "holds no elements"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_idx(path, 3)


def test_a_plain_file_named_gz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(CONTENT)
    with pytest.raises(ConfigError, match="BadGzipFile"):
        read_idx(path, 3)
