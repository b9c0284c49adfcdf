"""The product with filters in the vector: c[r, i] += sum over k < depth of a[r, k] * b[k, i], on the register tile.

The vectors of b and c lie apart: b[k, i] at i // lanes * b_block + k * lanes + i % lanes, and c[r, i] at i // lanes *
c_block + i % lanes of row r. a[r, k] is broadcast, from k // width * a_block + k % width * a_step of row r, width >= 1.
Rows of a and of c are at one distance, `a_rows` and `c_rows`, or begin where these list them. The sum of an element
runs over k in order, in one accumulator, whatever tile it falls into.

It starts from 0 (FRESH), or from bias[i] (BIASED, which alone reads it), or from what c holds (CONTINUE), or from 0 and
is added to c at the end (ADD): rounding errors of sums of sums grow more slowly with the number of terms. The
first two also AROUND or ASKED.
"""

from . import tiling
from .jit import helper, inner, named
from .simd import lanes_of, moved
from .tiles import (
    AROUND,
    ASKED,
    first_rows,
    from_row,
    multiples,
    tile_add,
    tile_ask,
    tile_load,
    tile_multiply_add,
    tile_store,
    tile_store_around,
    tile_zero,
)

FRESH, BIASED, CONTINUE, ADD = range(4)

MR = tiling.FILTERS_MR
VECTORS = tiling.FILTERS_VECTORS


def make_micro_kernel(rows, vectors):
    """Micro-kernel of a tile of `rows` x `vectors` vectors; the tile stays in registers."""

    @inner
    @named(rows, vectors)
    def micro_kernel(depth, width, a, a_rows, a_block, a_step, b, b_block, c, c_rows, c_block, mode, bias):
        lanes = lanes_of(c)
        tile = tile_zero(c, rows, vectors)
        if mode == CONTINUE:
            tile = tile_load(c, c_rows, c_block, rows, vectors)
        elif mode % AROUND == BIASED:
            tile = tile_load(bias, 0, lanes, rows, vectors)
        if mode >= ASKED:
            tile_ask(c, c_rows, c_block, tile)
        rows_of_a, columns_of_b = first_rows(a_rows, rows), multiples(b_block, vectors)
        for start in range(0, depth, width):
            column = a
            for _ in range(min(width, depth - start)):
                tile = tile_multiply_add(tile, column, rows_of_a, b, columns_of_b)
                column = moved(column, a_step)
                b = moved(b, lanes)
            a = moved(a, a_block)
        if mode == ADD:
            tile_add(c, c_rows, c_block, tile)
        elif mode % ASKED >= AROUND:
            tile_store_around(c, c_rows, c_block, tile)
        else:
            tile_store(c, c_rows, c_block, tile)

    return micro_kernel


micro_wide, micro_1 = make_micro_kernel(MR, VECTORS), make_micro_kernel(MR, 1)
micro_2 = make_micro_kernel(MR, 2) if VECTORS > 2 else micro_wide
# One vector of MR rows has too few accumulators to cover the latency of a multiply-add: twice as many, or as the last
# rows are.
micro_tall, micro_last = make_micro_kernel(2 * MR, 1), make_micro_kernel(MR + 4, 1)
# The last rows: a tile of 4, so that 16 tiles of a small map cost 16 rows on 6 as on 8.
tail_wide, tail_1 = make_micro_kernel(4, VECTORS), make_micro_kernel(4, 1)
tail_2 = make_micro_kernel(4, 2) if VECTORS > 2 else tail_wide


@inner
def product(rows, vectors, depth, width, a, a_rows, a_block, a_step, b, b_block, c, c_rows, c_block, mode, bias):
    """c[:rows, :vectors * lanes] the product, as `mode` has it; c and a have :func:`rows_read`.

    From the last vectors to the first, and in each from the first row to the last: the last vector of a row may reach
    into the next row, whose first one is written after it.
    """
    lanes = lanes_of(c)
    i = vectors
    while i > 0:  # b of a tile stays in L1
        left = i % VECTORS
        step = VECTORS if left == 0 else 2 - left % 2
        i -= step
        right, start = moved(b, i * b_block), moved(bias, i * lanes)
        r = 0
        while r < rows:
            top, top_rows = from_row(a, a_rows, r)
            out, out_rows = from_row(moved(c, i * c_block), c_rows, r)
            tile = (depth, width, top, top_rows, a_block, a_step, right, b_block, out, out_rows, c_block, mode, start)
            if step == 1 and rows - r >= 2 * MR:
                micro_tall(*tile)
                r += MR
            elif step == 1 and MR < rows - r <= MR + 4:
                micro_last(*tile)
                r += MR
            elif rows - r > 4:
                if step == VECTORS:
                    micro_wide(*tile)
                elif step == 2:
                    micro_2(*tile)
                else:
                    micro_1(*tile)
            elif step == VECTORS:
                tail_wide(*tile)
            elif step == 2:
                tail_2(*tile)
            else:
                tail_1(*tile)
            r += MR


@helper
def rows_read(rows):
    """Rows of a that :func:`product` reads, those of whole register tiles."""
    whole, left = rows // MR * MR, rows % MR
    return whole + (0 if left == 0 else 4 if left <= 4 else MR)
