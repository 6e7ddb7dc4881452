"""The ring of slots, with a device whose confirmations are written by hand."""

from __future__ import annotations

import ctypes

import pytest
import torch

from optim_cli.optim.execution.fused import layout
from optim_cli.optim.execution.fused.kernels import Words
from optim_cli.optim.execution.fused.slots import RESERVE, Slots
from tests.optim.execution.fused.interpreted.side_by_side import both, values_of
from tests.optim.oracle import give

WORDS = 32


def image_of(number: int, words: int = WORDS) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * words)(*[number] * words)


def confirm(slot: Words) -> None:
    """What a kernel does that has read the slot."""
    at, sequence = int(slot.tensor[layout.SLOT]), int(slot.tensor[layout.SEQUENCE])
    ctypes.c_int64.from_address(at).value = sequence


def test_a_table_is_copied_behind_a_header_of_its_own() -> None:
    slots = Slots(WORDS)
    image = image_of(7)
    one, other = slots.write(image).words, slots.write(image).words
    image[20] = 8
    for number, slot in enumerate((one, other), 1):
        assert slot.address == slot.tensor.data_ptr()
        assert slot.tensor[layout.SLOT] == slot.address + 8 * layout.CONFIRMED
        assert slot.tensor[layout.SEQUENCE] == number
        assert slot.tensor[layout.CONFIRMED] == 0
        assert slot.tensor[layout.CONFIRMED + 1 :].tolist() == [7] * (WORDS - layout.CONFIRMED - 1)
    assert abs(one.address - other.address) >= 8 * WORDS


def test_a_short_table_in_a_long_slot() -> None:
    slots = Slots(WORDS)
    slot = slots.write(image_of(7, 20)).words
    assert slot.tensor.tolist()[3:] == [7] * 17 + [0] * 12


def test_no_slot_is_written_before_it_was_read() -> None:
    slots = Slots(WORDS)
    written = [slots.write(image_of(i)).words for i in range(3 * RESERVE)]
    assert len({slot.address for slot in written}) == len(written)
    assert [int(slot.tensor[-1]) for slot in written] == list(range(len(written)))


def test_slots_take_turns_once_they_were_read() -> None:
    slots = Slots(WORDS)
    seen = []
    for number in range(5 * RESERVE):
        slot = slots.write(image_of(number)).words
        seen.append(slot.address)
        confirm(slot)
    assert set(seen) == {seen[0]}, "a device that keeps up needs one"


def test_a_slot_that_was_read_too_early_waits_for_those_before(generator: torch.Generator) -> None:
    """The device reads in order; what it has not confirmed stays, whatever else is confirmed."""
    slots = Slots(WORDS)
    waiting: dict[int, Words] = {}
    for number in range(200):
        slot = slots.write(image_of(number)).words
        assert slot.address not in waiting
        waiting[slot.address] = slot
        if torch.rand((), generator=generator) < 0.6:
            which = list(waiting)[int(torch.randint(len(waiting), (), generator=generator))]
            confirm(waiting.pop(which))
        for held in waiting.values():
            assert held.tensor[layout.CONFIRMED] == 0


def test_an_old_confirmation_frees_nothing() -> None:
    """Of the table before, which has stood in the same slot."""
    slots = Slots(WORDS)
    first = slots.write(image_of(1)).words
    confirm(first)
    assert slots.write(image_of(2)).words.address == first.address
    ctypes.c_int64.from_address(first.address + 8 * layout.CONFIRMED).value = 1
    assert slots.write(image_of(3)).words.address != first.address


def test_a_slot_of_a_graph_is_never_written_again() -> None:
    slots = Slots(WORDS)
    confirm(slots.write(image_of(0)).words)
    of_graph = slots.write(image_of(1), apart=True).words
    for number in range(3 * RESERVE):
        confirm(of_graph)  # at every replay
        slot = slots.write(image_of(number)).words
        assert slot.address != of_graph.address
        confirm(slot)
    assert of_graph.tensor[-1] == 1


def test_graphs_take_from_a_reserve() -> None:
    """Pinned memory cannot be allocated in a capture: it is there from the steps before."""
    slots = Slots(WORDS)
    with pytest.raises(RuntimeError, match="take a step without a capture in between"):
        slots.write(image_of(0), apart=True)
    slots.write(image_of(0))
    of_graphs = [slots.write(image_of(i), apart=True).words for i in range(RESERVE)]
    assert len({slot.address for slot in of_graphs}) == RESERVE


def test_only_the_last_table_of_a_step_is_confirmed() -> None:
    slots = Slots(WORDS)
    for number in range(3 * RESERVE):
        first = slots.write(image_of(number))
        confirm(slots.write(image_of(number), before=first).words)
        assert len(slots._waiting) == 1


def test_one_that_is_never_confirmed_blocks_no_others() -> None:
    slots = Slots(WORDS)
    lost = slots.write(image_of(0))
    for number in range(3 * RESERVE):
        slot = slots.write(image_of(number))
        assert slot is not lost
        confirm(slot.words)
    assert len(slots._waiting) <= 3


def test_changing_numbers_and_a_norm_take_no_more_slots(generator: torch.Generator) -> None:
    """The norm needs the gradients' addresses before the other numbers are known."""
    values = values_of(generator)
    fused, _ = both("AdamW", values)
    fused.clip_gradients(max_norm=1)
    for count in range(12):
        give([p for group in fused.param_groups for p in group["params"]], [x.clone() for x in values])
        fused.param_groups[0]["lr"] = 0.1 / (count + 1)
        fused.step()
    (batch,) = fused._plans[0].batches
    assert len(batch.slots._waiting) <= 3


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_table_is_handed_over_only_when_something_changed(name: str, generator: torch.Generator) -> None:
    """Gradients that stay where they are need no new table, and without counts no prologue."""
    values = values_of(generator)
    fused, _ = both(name, values)
    give([p for group in fused.param_groups for p in group["params"]], values)
    for _ in range(4):
        fused.step()
    expected = 4 if name == "AdamW" else 1
    assert fused.launches == {"prologue": expected, "update": 4}
    fused.param_groups[0]["lr"] = 0.5
    fused.step()
    assert fused.launches["prologue"] == expected + 1
