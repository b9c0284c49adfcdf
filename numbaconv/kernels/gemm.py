"""The product that every pass is made of: a register tile per micro-kernel, a row of tiles per panel.

    c[r, i] += sum over d < depth, t < taps of a[r, d, t] * b[d * b_depth + table[t] + i]

A row of b begins wherever the table says, at a tap of a channel in the forward pass, at a pixel in the weight
gradient; a single tap begins at 0. A panel is up to MR rows of a: a[r, d, t] is at r * a_row + (d * taps + t) * a_step,
packed (1 and MR), or where the user's array has it. c[r, i] is at r * c_pitch + i.

The sum of one element runs over d and t in order, in one accumulator, whatever tile it falls into, and is then added
to c: rounding errors of sums of sums grow more slowly with the number of terms. A row or column that a tail tile
computes and c has no use for never meets another one.
"""

from . import tiling
from .jit import helper, inner, named
from .simd import lanes_of, load_integer, moved
from .tiles import (
    AROUND,
    ASKED,
    multiples,
    tile_add,
    tile_add_column,
    tile_ask,
    tile_multiply_add,
    tile_store,
    tile_store_around,
    tile_zero,
    walked,
)

MR = tiling.MR
VECTORS = tiling.VECTORS
# What becomes of a tile: c += tile, c = tile, c[r, i] = tile[r, i] + bias[r * bias_step]; the last two also AROUND or
# ASKED.
ADD, FRESH, BIASED = range(3)


def make_micro_kernel(rows, vectors):
    """Micro-kernel of a tile of `rows` x (`vectors` * lanes); the tile stays in registers."""

    @inner
    @named(rows, vectors)
    def micro_kernel(depth, taps, table, a, a_row, a_step, b, b_depth, c, c_pitch, mode, bias, bias_step):
        lanes = lanes_of(c)
        tile = tile_zero(c, rows, vectors)
        if mode >= ASKED:
            tile_ask(c, c_pitch, lanes, tile)
        rows_of_a = multiples(a_row, rows)
        if taps == 1:  # rows at one distance: looking up each would take 10% longer
            for _ in range(depth):
                tile = tile_multiply_add(tile, a, rows_of_a, b, lanes)
                a, b = walked(a, a_step), moved(b, b_depth)
        else:
            for _ in range(depth):
                for t in range(taps):
                    tile = tile_multiply_add(tile, a, rows_of_a, moved(b, load_integer(table, t)), lanes)
                    a = walked(a, a_step)
                b = moved(b, b_depth)
        if mode == ADD:
            tile_add(c, c_pitch, lanes, tile)
        else:
            if mode % AROUND == BIASED:
                tile = tile_add_column(tile, bias, bias_step)
            if mode % ASKED >= AROUND:
                tile_store_around(c, c_pitch, lanes, tile)
            else:
                tile_store(c, c_pitch, lanes, tile)

    return micro_kernel


# Tails in r: 3 rows on a tile of 4, whose accumulators still cover the latency; 1 or 2 rows alone. Tails in i: a tile
# of 2 vectors, where VECTORS is 3, and of 1.
micro_full_wide, micro_full_1 = make_micro_kernel(MR, VECTORS), make_micro_kernel(MR, 1)
micro_full_2 = make_micro_kernel(MR, 2) if VECTORS > 2 else micro_full_wide
micro_4_wide, micro_4_1 = make_micro_kernel(4, VECTORS), make_micro_kernel(4, 1)
micro_2_wide, micro_2_1 = make_micro_kernel(2, VECTORS), make_micro_kernel(2, 1)
micro_1_wide, micro_1_1 = make_micro_kernel(1, VECTORS), make_micro_kernel(1, 1)
# One or two rows of VECTORS have too few accumulators to cover the latency, and like 3 or 4, where registers hold twice
# as many vectors of them, visit each row of b for too short a stretch of it.
LONG = 2 * VECTORS
LONG_ROWS = 4 if VECTORS > 2 else 2
micro_2_long, micro_1_long = make_micro_kernel(2, LONG), make_micro_kernel(1, LONG)
micro_4_long = make_micro_kernel(4, LONG) if LONG_ROWS == 4 else micro_4_wide
# Rows of a tail that its tile does not go beyond.
EXACT_ROWS = (0, 1, 2, 4)


@helper
def variable(value):
    """A constant like any other value: Numba would compile :func:`multiply_panel` once more for each that it knows."""
    return value


@inner
def multiply_panel(rows, columns, depth, taps, table, a, a_row, a_step, b, b_depth, c, c_pitch, mode, bias, bias_step):
    """c[:rows, :columns] (= if FRESH, + bias if BIASED, += if ADD) the product of one panel of a, rows <= MR.

    If not BIASED, `bias` and `bias_step` are anything, but no literal.
    Writes whole tiles: c has room for MR rows, unless there are as many or EXACT_ROWS, and for `columns` rounded up to
    lanes. a and the bias may be read as far as c is written, and b as wide.
    """
    lanes = lanes_of(c)
    i = 0
    while i < columns:  # b streams by from L2, a panel of a stays in L1
        width = vectors_of_tile((columns - i + lanes - 1) // lanes, rows)
        two = VECTORS == 3 and width == 2
        right, out = moved(b, i), moved(c, i)
        tile = (depth, taps, table, a, a_row, a_step, right, b_depth, out, c_pitch, mode, bias, bias_step)
        if rows > 4:
            if two:
                micro_full_2(*tile)
            elif width == VECTORS:
                micro_full_wide(*tile)
            else:
                micro_full_1(*tile)
        elif rows > 2:
            if width == LONG:
                micro_4_long(*tile)
            elif width == VECTORS:
                micro_4_wide(*tile)
            else:
                micro_4_1(*tile)
        elif rows > 1:
            if width == LONG:
                micro_2_long(*tile)
            elif width == VECTORS:
                micro_2_wide(*tile)
            else:
                micro_2_1(*tile)
        elif width == LONG:
            micro_1_long(*tile)
        elif width == VECTORS:
            micro_1_wide(*tile)
        else:
            micro_1_1(*tile)
        i += width * lanes


@helper
def vectors_of_tile(vectors, rows):
    """Vectors of the next tile where so many are left. 4 are two tiles of 2: one of 1 has 9 loads for 8 products."""
    if VECTORS == 3 and rows > 4 and (vectors == 2 or vectors == 4):
        return 2
    if rows <= LONG_ROWS and vectors >= LONG:
        return LONG
    return VECTORS if vectors >= VECTORS else 1


@helper
def multiply_panels(
    rows, columns, depth, taps, table, a, a_panel, a_row, a_step, b, b_depth, c, c_pitch, mode, bias, bias_step
):
    """The same for any number of rows, of which those from r on begin at a[r // MR * a_panel], r a multiple of MR.

    The panels stream by from L2, while b of a tile stays in L1, where its rows do not meet in one set of it.
    """
    lanes = lanes_of(c)
    i = 0
    while i < columns:
        width = vectors_of_tile((columns - i + lanes - 1) // lanes, min(rows, MR)) * lanes
        for r in range(0, rows, MR):
            multiply_panel(
                min(MR, rows - r), min(width, columns - i), depth, taps, table, moved(a, r // MR * a_panel), a_row,
                a_step, moved(b, i), b_depth, moved(c, r * c_pitch + i), c_pitch, mode, moved(bias, r * bias_step),
                bias_step,
            )  # fmt: skip
        i += width
