"""Reading IDX, the file format of MNIST.

Two zero bytes, the element type (8: unsigned byte), the number of dimensions, each dimension as a
big-endian 32-bit number, then the elements. Source: http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import struct
import zlib
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from optim_cli.errors import ConfigError

UNSIGNED_BYTE = 8


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The file's elements as uint8 with so many dimensions; `.gz` files are unpacked.

    Raises:
        ConfigError: the file cannot be read, or is no such file, or is cut short or too long.
    """
    content = _content(path)
    header_size = 4 + 4 * dimensions
    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if content[:4] != magic:
        raise _damaged(path, f"it begins with {content[:4].hex(' ')}, not with {magic.hex(' ')}")
    if len(content) < header_size:
        raise _damaged(path, f"it ends within its header of {header_size} bytes")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    found, expected = len(content) - header_size, prod(shape)
    if found != expected:
        sides = " x ".join(map(str, shape))
        raise _damaged(path, f"it announces {sides} = {expected} elements and holds {found}")
    if expected == 0:
        raise _damaged(path, "it holds no elements")
    return torch.frombuffer(content, dtype=torch.uint8, offset=header_size).view(shape)


def _content(path: Path) -> bytearray:  # writable, as torch wants the memory of a tensor to be
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return bytearray(file.read())
        return bytearray(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _damaged(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{path} cannot be used: {what}. Replace the file, or delete it and set dataset.download=true."
    )
