"""Where things stand in the table that a fused launch works from: 8-byte words, on the device.

    header | scalars: a row each | rows that the host writes | cells: hyperparameters of each kind of tensor

A row has a word for each tensor. The host writes the same layout into a slot of pinned memory, and the
prologue takes it over from there; scalars are the prologue's own.
"""

from __future__ import annotations

# Words of the header.
SLOT = 0  # address where the slot's reading is confirmed
SEQUENCE = 1  # what is written there
CONFIRMED = 2  # of a slot: that place
FOUND_INF = 3  # address of GradScaler's verdict, float32
SCALE = 4  # address of its scale, float32; 0: there is none
FACTOR = 5  # address of the factor of all gradients, float64, where the reduction's memory begins
WEIGHT = 6  # of the newest parameters in their average, but for the first time
AVERAGED = 7  # address of the count of averaged steps, int64
ADVANCED = 8  # the same where this table's update advances it, else 0
MAX_NORM = 9
PROGRAMS = 10  # how many programs the norm has, in all launches of a step
BLOCKS = 11  # of this table's tensors
CELL_WORDS = 12  # words of all cells
WARMUP = 13  # two numbers of the average's warmup
HOST_WORDS = 15  # the prologue takes over those before, and writes those after
WEIGHT_NOW = 15
HEADER = 16

# Words of the reduction's memory, all float64.
REDUCED_FACTOR = 0
NORM = 1
PARTIALS = 2  # and on: sums of squares, one of each program of the norm

# What a prologue is to do; both is the rule.
TAKE_OVER, ADVANCE = 1, 2

# Rows that come before those of the tensors' addresses.
FIRST_BLOCK, NUMEL, CELL = "first_block", "numel", "cell"

LANES = 128  # tensors to a program of the prologue
SEARCHED = 256  # tensors whose first blocks a program of the update compares at once
