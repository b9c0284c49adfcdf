"""The product that every pass is made of: a register tile per micro-kernel, a block per macro-kernel.

    c[r, i] += sum over d < depth, h < height, w < width of a[d, h, w, r] * b[d, h, w, i]

a is packed in panels of MR rows: panel r // MR holds a[d, h, w, r] at ((d * height + h) * width + w) * MR + r % MR.
b[d, h, w, i] lies at d * b_depth + h * b_height + w * b_width + i, and c[r, i] at r * c_pitch + i.
`shape` is (depth, height, width) and `pitches` (b_depth, b_height, b_width).

The sum of one element runs over d, h and w in order, in one accumulator, whatever tile it falls into. A
row or column that a tail tile computes and c has no use for never meets another one.
"""

from numba import njit

from . import tiling
from .simd import lanes_of, moved, tile_load, tile_multiply_add, tile_store, tile_zero

MR = tiling.MR
VECTORS = tiling.VECTORS


def make_micro_kernel(rows, vectors):
    """Micro-kernel of a tile of `rows` x (`vectors` * lanes); the tile stays in registers."""

    @njit(error_model="numpy")
    def micro_kernel(shape, pitches, a, b, c, c_pitch, fresh):
        lanes = lanes_of(c)
        tile = tile_zero(c, rows, vectors) if fresh else tile_load(c, c_pitch, lanes, rows, vectors)
        depth, height, width = shape
        b_depth, b_height, b_width = pitches
        for d in range(depth):
            for h in range(height):
                row = moved(b, d * b_depth + h * b_height)
                for _ in range(width):
                    tile = tile_multiply_add(tile, a, 1, row, lanes)
                    a = moved(a, MR)
                    row = moved(row, b_width)
        tile_store(c, c_pitch, lanes, tile)

    return micro_kernel


# Tails in r: 2 to 4 rows on a tile of 4, whose accumulators still cover the latency; 1 row alone. Tails in i: a tile of
# 2 vectors, where VECTORS is 3, and of 1.
micro_full_wide, micro_full_2, micro_full_1 = (make_micro_kernel(MR, width) for width in (VECTORS, 2, 1))
micro_4_wide, micro_4_1 = (make_micro_kernel(4, width) for width in (VECTORS, 1))
micro_1_wide, micro_1_1 = (make_micro_kernel(1, width) for width in (VECTORS, 1))


@njit(error_model="numpy")
def macro_kernel(rows, columns, shape, pitches, a, a_pitch, b, c, c_pitch, fresh):
    """c[:rows, :columns] (= if fresh, else +=) the product.

    Panels of a lie a_pitch apart. Writes whole tiles: c has room for `rows` rounded up to MR and `columns` rounded up
    to lanes, and b may be read as far.
    """
    lanes = lanes_of(c)
    for r in range(0, rows, MR):  # a panel of a: stays in L1
        left = rows - r
        i = 0
        while i < columns:  # b streams by from L2
            vectors = (columns - i + lanes - 1) // lanes
            right = moved(b, i)
            out = moved(c, r * c_pitch + i)
            # 4 vectors are two tiles of 2: a tile of 1 loads 9 vectors for 8 multiply-adds.
            two = VECTORS == 3 and left > 4 and (vectors == 2 or vectors == 4)
            width = 2 if two else VECTORS if vectors >= VECTORS else 1
            if left > 4:
                if two:
                    micro_full_2(shape, pitches, a, right, out, c_pitch, fresh)
                elif width == VECTORS:
                    micro_full_wide(shape, pitches, a, right, out, c_pitch, fresh)
                else:
                    micro_full_1(shape, pitches, a, right, out, c_pitch, fresh)
            elif left > 1:
                if width == VECTORS:
                    micro_4_wide(shape, pitches, a, right, out, c_pitch, fresh)
                else:
                    micro_4_1(shape, pitches, a, right, out, c_pitch, fresh)
            elif width == VECTORS:
                micro_1_wide(shape, pitches, a, right, out, c_pitch, fresh)
            else:
                micro_1_1(shape, pitches, a, right, out, c_pitch, fresh)
            i += width * lanes
        a = moved(a, a_pitch)
