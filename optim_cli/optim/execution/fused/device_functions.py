"""What generated kernels call: torch's operations as Triton says them, and the reading of the table.

The arithmetic is torch's: division and square root are exact (Triton's own are approximations in float32),
`lerp` has two branches, and what chooses between values (clamps, maximum) hands a NaN on.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def divide(x, y):
    """IEEE division."""
    if x.dtype == tl.float64:
        return x / y
    else:
        return tl.div_rn(x, y)


@triton.jit
def square_root(x):
    """IEEE square root."""
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def sign(x):
    """-1, 0 or 1, and 0 of a NaN, as torch has it."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0)).to(x.dtype)


@triton.jit
def clamp_min(x, bound):
    """`x`, at least `bound`."""
    return tl.where((x > bound) | (x != x), x, bound)


@triton.jit
def clamp_max(x, bound):
    """`x`, at most `bound`."""
    return tl.where((x < bound) | (x != x), x, bound)


@triton.jit
def maximum(x, y):
    """The larger one."""
    return tl.where((x > y) | (x != x), x, y)


@triton.jit
def lerp(start, end, weight):
    """From `start` to `end`; exact at both."""
    way = end - start
    return tl.where(weight < 0.5, start + weight * way, end - way * (1 - weight))


@triton.jit
def decayed(x, p, weight_decay):
    """A gradient or parameter with weight decay; without any, `p` has no influence, be it infinite."""
    return tl.where(weight_decay != 0, x + weight_decay * p, x)


@triton.jit
def power(base, exponent):
    """`base ** exponent` in float64, of bases that are not negative."""
    base = tl.zeros_like(exponent) + base
    return tl.exp2(exponent * tl.log2(base))


@triton.jit
def number(at, there):
    """The float64 whose bits are in a word of the table."""
    return tl.load(at, mask=there, other=0).to(tl.float64, bitcast=True)


@triton.jit
def held_number(at, bytes_at, there):
    """A number, or what lies at an address; the second word says how many bytes there, or 0."""
    word = tl.load(at, mask=there, other=0)
    bytes = tl.load(bytes_at, mask=there, other=0)
    single = tl.load(word.to(tl.pointer_type(tl.float32)), mask=there & (bytes == 4), other=0)
    double = tl.load(word.to(tl.pointer_type(tl.float64)), mask=there & (bytes == 8), other=0)
    value = tl.where(bytes == 4, single.to(tl.float64), word.to(tl.float64, bitcast=True))
    return tl.where(bytes == 8, double, value)


@triton.jit
def put_number(at, value, there):
    """Store the bits of a float64."""
    ones = tl.full(at.shape, 1.0, tl.float64)
    tl.store(at, (ones * value).to(tl.int64, bitcast=True), mask=there)


@triton.jit
def header_number(table, word: tl.constexpr):
    """A float64 of the header."""
    return tl.load(table + word).to(tl.float64, bitcast=True)


@triton.jit
def header_address(table, word: tl.constexpr, dtype: tl.constexpr):
    """An address of the header."""
    return tl.load(table + word).to(tl.pointer_type(dtype))


@triton.jit
def put_factor(
    factor_at,
    table,
    SCALE: tl.constexpr,
    programs,
    max_norm,
    NORM: tl.constexpr,
    PARTIALS: tl.constexpr,
    normed: tl.constexpr,
):
    """Store the one number that unscales gradients and limits their norm, and the norm."""
    factor = tl.full((), 1.0, tl.float64)
    if tl.load(table + SCALE) != 0:
        factor = 1.0 / tl.load(header_address(table, SCALE, tl.float32)).to(tl.float64)
    if normed:
        total = tl.zeros([1024], tl.float64)
        for start in range(0, programs, 1024):
            which = start + tl.arange(0, 1024)
            total += tl.load(factor_at + PARTIALS + which, mask=which < programs, other=0)
        norm = tl.sqrt(tl.sum(total)) * factor
        tl.store(factor_at + NORM, norm)
        factor *= clamp_max(max_norm / (norm + 1e-6), 1.0)
    tl.store(factor_at, factor)


@triton.jit
def take_over(
    source,
    table,
    n,
    lane,
    there,
    HEADER: tl.constexpr,
    words: tl.constexpr,
    first: tl.constexpr,
    rows: tl.constexpr,
    cell_words,
):
    """Copy what the host has written: words of the header, rows, and the cells after them."""
    for row in tl.static_range(first, first + rows):
        at = HEADER + row * n + lane
        tl.store(table + at, tl.load(source + at, mask=there), mask=there)
    if tl.program_id(0) == 0:
        tl.store(table + lane, tl.load(source + lane, mask=lane < words), mask=lane < words)
        cells = HEADER + (first + rows) * n
        for start in range(0, cell_words, lane.shape[0]):
            cell = start + lane
            word = tl.load(source + cells + cell, mask=cell < cell_words)
            tl.store(table + cells + cell, word, mask=cell < cell_words)


@triton.jit
def tensor_of(first_blocks, n, block, LANES: tl.constexpr):
    """The tensor that a block belongs to: the last one whose first block is not after it."""
    low = 0
    high = n
    while high - low > LANES:
        middle = (low + high) // 2
        if tl.load(first_blocks + middle) <= block:
            low = middle
        else:
            high = middle
    # One load of many words takes no longer than one step of the search.
    lane = low + tl.arange(0, LANES)
    before = (lane < high) & (tl.load(first_blocks + lane, mask=lane < high, other=0) <= block)
    return low + tl.sum(before.to(tl.int32)) - 1


@triton.jit
def tell_host(table, SLOT: tl.constexpr, SEQUENCE: tl.constexpr):
    """Say that the slot which the table came from has been read."""
    tl.store(header_address(table, SLOT, tl.int64), tl.load(table + SEQUENCE))
