"""Slots of pinned memory, through which the host hands tables to the device without waiting for it."""

from __future__ import annotations

import ctypes
from collections import deque
from dataclasses import dataclass
from functools import cache
from threading import Lock

import torch

from optim_cli.optim.execution.fused import layout
from optim_cli.optim.execution.fused.kernels import INTERPRETED, Words

# Bytes that are allocated at once, or as many slots as captures may take before there are more: what is
# allocated while a graph is captured would be gone with the graph.
AT_ONCE = 1 << 20
RESERVE = 8
LOOKED_AT = 3


@dataclass(eq=False)
class Slot:
    """A place for one table.

    Attributes:
        words: the memory.
        confirmed: where the device writes the number of the last table that it has read.
        sequence: the number of the table that was written last.
        before: the slot that brought the same table up to date earlier in the step, and is not confirmed.
    """

    words: Words
    confirmed: ctypes.c_int64
    sequence: int = 0
    before: Slot | None = None


class Slots:
    """Slots of one size that take turns, for all tables of the process.

    A slot is free again when the device has confirmed that it has read it. To ask costs no call to CUDA,
    as an event would; where none is free, the device is far behind, and there will be more slots. They are
    never given back: a table may be gone before the device has read it.

    Args:
        words: the size of a slot.
    """

    def __init__(self, words: int) -> None:
        self.words = words
        self._waiting: deque[Slot] = deque()
        self._unused: list[Slot] = []
        self._sequence = 0
        self._lock = Lock()

    def write(
        self, image: ctypes.Array[ctypes.c_int64], apart: bool = False, before: Slot | None = None
    ) -> Slot:
        """Hand over a table.

        Args:
            image: the table, whose header is completed.
            apart: the slot is never written again: a CUDA graph reads it at every replay.
            before: the table's slot of the same step, which has been read when the new one has.
        """
        with self._lock:
            slot = self._free(apart)
            self._sequence += 1
            slot.sequence = self._sequence
            image[layout.SLOT] = slot.words.address + 8 * layout.CONFIRMED
            image[layout.SEQUENCE] = self._sequence
            image[layout.CONFIRMED] = 0
            ctypes.memmove(slot.words.address, image, ctypes.sizeof(image))
            slot.before = None if apart else before
            if slot.before is not None:
                self._waiting.remove(slot.before)
            if not apart:
                self._waiting.append(slot)
        return slot

    def _free(self, apart: bool) -> Slot:
        waiting = self._waiting
        if apart:
            if not self._unused:
                raise RuntimeError(
                    "too many steps have been captured in CUDA graphs since the last one that was not: "
                    "take a step without a capture in between"
                )
            return self._unused.pop()
        if len(self._unused) < RESERVE:
            self._allocate()
        # One whose launch has failed is never confirmed, and must not block the others.
        for _ in range(min(len(waiting), LOOKED_AT)):
            if waiting[0].confirmed.value == waiting[0].sequence:
                free = waiting.popleft()
                earlier = free.before
                while earlier is not None:
                    self._unused.append(earlier)
                    earlier = earlier.before
                return free
            waiting.rotate(-1)
        return self._unused.pop()

    def _allocate(self) -> None:
        count = max(2 * RESERVE, AT_ONCE // (8 * self.words))
        memory = torch.zeros(count * self.words, dtype=torch.int64, pin_memory=not INTERPRETED)
        for part in memory.split(self.words):
            words = Words.of(part)
            at = words.address + 8 * layout.CONFIRMED
            self._unused.append(Slot(words, ctypes.c_int64.from_address(at)))


@cache
def slots_of(words: int) -> Slots:
    """The slots of a size."""
    return Slots(words)
