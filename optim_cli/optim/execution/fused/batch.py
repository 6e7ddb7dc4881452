"""Tensors that one launch updates: their kernels, and the table on the device."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from optim_cli.optim.execution.fused import layout
from optim_cli.optim.execution.fused.kernels import Kernels, Words
from optim_cli.optim.execution.fused.layout import CELL, FIRST_BLOCK, HEADER, LANES, NUMEL
from optim_cli.optim.execution.fused.slots import Slot, slots_of
from optim_cli.optim.execution.pointers import ALIGNMENT

Cell = Sequence[float | Tensor]
"""Hyperparameters in the order of the texts: numbers, or tensors on the device."""


class Batch:
    """Tensors of one device, dtypes, flags and alignment, in the order of their table.

    Args:
        kernels: of the algorithm variant in the form that the tensors have.
        columns: parameters, gradients, each state, and the averages where the form has them.
        zero_dim: 0-d states in the texts' order.
        cells: which entry of the distinct hyperparameters each tensor has.
        distinct: how many there are; `set_cell` writes them.
        apart: a CUDA graph will read what is handed over, at every replay.

    Attributes:
        blocks: programs of the update.
    """

    def __init__(
        self,
        kernels: Kernels,
        columns: Sequence[Sequence[Tensor]],
        zero_dim: Sequence[Sequence[Tensor]],
        cells: Sequence[int],
        distinct: int,
        apart: bool,
    ) -> None:
        self.apart = apart
        self.kernels, self.texts = kernels, kernels.texts
        texts, parameters = self.texts, columns[0]
        self.device = parameters[0].device
        self.n = len(parameters)
        sizes = [(2 if x.is_complex() else 1) * x.numel() for x in parameters]
        firsts, total = [], 0
        for size in sizes:
            firsts.append(total)
            total += -(-size // texts.form.block)
        self.blocks = max(total, 1)
        words = HEADER + texts.words * self.n + texts.cell_words * distinct
        self.image = (ctypes.c_int64 * words)()
        self.slots = slots_of(1 << (words - 1).bit_length())
        self.table = Words.of(torch.empty(words, dtype=torch.int64, device=self.device))
        self.changed = True
        self._earlier: Slot | None = None
        self._pack = struct.Struct(f"{self.n}q").pack_into
        self._gradients_at = self._offset_of("g")
        # Bits of a row of addresses that must be 0.
        free = ALIGNMENT - 1 if texts.form.aligned else 0
        self._unaligned = int.from_bytes(free.to_bytes(8, "little") * self.n, "little")
        self.put(FIRST_BLOCK, firsts)
        self.put(NUMEL, sizes)
        self.put(CELL, [texts.cell_words * i for i in cells])
        for name, column in zip((*texts.columns, *texts.zero_dim), (*columns, *zero_dim), strict=True):
            self.put(name, [x.data_ptr() for x in column])
        self.set_header(layout.BLOCKS, total)
        self.set_header(layout.CELL_WORDS, texts.cell_words * distinct)

    def put(self, row: str, values: Sequence[int]) -> None:
        """Write a row."""
        self._pack(self.image, self._offset_of(row), *values)
        self.changed = True

    def put_gradients(self, addresses: bytes) -> bool:
        """Write the gradients' row; whether all are as aligned as the kernels were made for."""
        ctypes.memmove(ctypes.addressof(self.image) + self._gradients_at, addresses, 8 * self.n)
        self.changed = True
        return int.from_bytes(addresses, "little") & self._unaligned == 0

    def _offset_of(self, row: str) -> int:
        return 8 * (HEADER + (len(self.texts.scalars) + self.texts.rows.index(row)) * self.n)

    def set_header(self, word: int, value: int) -> None:
        """Write a word of the header."""
        struct.pack_into("q", self.image, 8 * word, value)
        self.changed = True

    def set_header_number(self, word: int, value: float) -> None:
        """Write the bits of a float64 into a word of the header."""
        struct.pack_into("d", self.image, 8 * word, value)
        self.changed = True

    def set_cell(self, index: int, cell: Cell) -> None:
        """Write the hyperparameters of one kind of tensor."""
        at = 8 * (HEADER + self.texts.words * self.n + index * self.texts.cell_words)
        image = self.image
        for i, value in enumerate(cell):
            size_at = at + 8 * (len(cell) + i)
            if isinstance(value, Tensor):
                struct.pack_into("q", image, at + 8 * i, value.data_ptr())
                struct.pack_into("q", image, size_at, value.element_size())
            else:
                struct.pack_into("d", image, at + 8 * i, value)
                if self.texts.form.held:
                    struct.pack_into("q", image, size_at, 0)
        self.changed = True

    def take_over(self, stream: int) -> int:
        """Bring the table up to date, before a step; the number of launches."""
        if not self.changed:
            return 0
        self._earlier = self.slots.write(self.image, self.apart, self._earlier)
        self._prologue(stream, self._earlier.words, layout.TAKE_OVER)
        return 1

    def prepare(self, stream: int) -> int:
        """Launch the prologue, where anything is new or advances at every step; the number of launches."""
        earlier, self._earlier = self._earlier, None
        if self.changed:
            slot = self.slots.write(self.image, self.apart, earlier)
            self._prologue(stream, slot.words, layout.TAKE_OVER + layout.ADVANCE)
        elif self.texts.advances:
            self._prologue(stream, self.table, layout.ADVANCE)
        else:
            return 0
        return 1

    def _prologue(self, stream: int, source: Words, what: int) -> None:
        self.kernels.prologue(-(-self.n // LANES), stream, source, self.table, self.n, what)
        self.changed = False

    def reduce(self, stream: int, programs: int, before: int, reduction: Words) -> int:
        """Launch the norm; see `printer.print_norm`."""
        self.kernels.norm(programs, stream, reduction, self.table, self.n, before)
        return 1

    def run(self, stream: int) -> int:
        """Launch the update."""
        self.kernels.update(self.blocks, stream, self.table, self.table, self.n, 0)
        return 1
