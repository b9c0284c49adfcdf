"""Forward pass by Winograd's algorithm, which is the input gradient too (on dy, with the turned kernel).

    for a block of filters, and a block of tiles:             one piece of work
        for a block of channels:                              so that what follows stays in L2
            transform the tiles of x, V[position][channel block][tile]
            for some filters:
                transform them, U[position][filter block][channel], unless they are still there
                for each of the n x n positions: product      sums M[position][filter block][tile]
        transform the sums, add the bias, write y

Transforming filters again for each block of tiles costs less than keeping them: U is 4 times as large as the weight,
and would come from memory. Pieces write different filters or tiles, and the order of each sum is that of the
channels, whoever claims the piece: the same bits for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod

from ..jit import named
from ..launch import Launch, NestKernel
from ..problem import Product
from ..product import ADD, FRESH, product, rows_read
from ..simd import lanes_of, moved, pointer, unpacked, vector_store, vector_zero
from ..work import claim
from .maps import Maps
from .transforms import INPUT, make_filter_transform, make_output_transform, make_tile_transform


@dataclass(frozen=True)
class Blocking:
    """Sizes of the nest: m x m outputs of r x r taps, KC channels of a sum over all maps, FB filters, a block of tiles.

    The block is images x rows x columns.
    """

    m: int
    r: int
    maps: Maps
    KC: int
    FB: int
    images: int
    rows: int
    columns: int
    #: Tiles of a block, rounded up to whole register tiles. Where taps lie apart, there are as many at each row and
    #: column of a block as pixels from one tap to the next: their pixels are those between.
    capacity: int
    #: Filters that are transformed at a time.
    UB: int
    #: Elements of U, V, M and the strip; odd multiples of `lanes` for a position keep positions in different sets.
    u_plane: int
    v_plane: int
    m_plane: int
    strip: int
    lines: int

    @property
    def scratch(self) -> int:
        """Elements of scratch of a worker."""
        return (self.m + self.r - 1) ** 2 * (self.u_plane + self.v_plane + self.m_plane) + self.strip + self.lines


WINOGRAD = (
    "record", "x", "x_n", "x_c", "x_h", "x_w", "H", "W", "weight", "w_group", "w_row", "w_channel", "w_kh", "w_kw",
    "bias", "bias_f", "y", "y_n", "y_f", "y_h", "y_w", "N", "OH", "OW", "groups", "C", "F", "offset_h", "offset_w",
    "stride_h", "stride_w", "maps", "maps_w", "dilation_h", "dilation_w", "KC", "FB", "UB", "images", "rows", "columns",
    "capacity", "u_plane", "v_plane", "m_plane", "strip_size", "packed", "accumulate", "scratch_size",
)  # fmt: skip
WINOGRAD_COUNT = len(WINOGRAD)


def launch(p: Product, b: Blocking) -> Launch:
    """The one launch of a pass."""
    values = p.arguments() | b.maps.arguments() | {"KC": b.KC, "FB": b.FB, "UB": b.UB}
    values |= {"images": b.images, "rows": b.rows, "columns": b.columns}
    values |= {"capacity": b.capacity, "u_plane": b.u_plane, "v_plane": b.v_plane, "m_plane": b.m_plane}
    values |= {"strip_size": b.strip, "packed": p.weight.name == "panels"}
    down, right = (b.m * step for step in p.dilation)
    steps = (p.N, b.images), (p.OH, b.rows * down), (p.OW, b.columns * right), (p.F, b.FB)
    pieces = p.groups * prod(-(-extent // step) for extent, step in steps)
    return Launch(kernel(b.m, b.r), WINOGRAD, values, pieces)


@cache
def kernel(m, r):
    """The kernel for tiles of m x m outputs and r x r taps, made when it is first asked for: all take a while."""
    n = m + r - 1
    transform_tiles = make_tile_transform(INPUT, n, m, n)
    transform_filters = make_filter_transform(n, r)
    transform_output = make_output_transform(n, m)

    @NestKernel
    @named(m, r)
    def winograd_forward(scratch, arguments, worker):
        """C and F are those of one group; KC and FB are multiples of lanes."""
        (
            _, x_address, x_n, x_c, x_h, x_w, H, W, weight_address, w_group, w_row, w_channel, w_kh, w_kw,
            bias_address, bias_f, y_address, y_n, y_f, y_h, y_w, N, OH, OW, groups, C, F, offset_h, offset_w,
            stride_h, stride_w, maps, maps_w, dilation_h, dilation_w, KC, FB, UB, images, rows, columns, capacity,
            u_plane, v_plane, m_plane, strip_size, in_vectors, accumulate, scratch_size,
        ) = unpacked(arguments, WINOGRAD_COUNT)  # fmt: skip
        x, weight = pointer(x_address, scratch), pointer(weight_address, scratch)
        y, bias = pointer(y_address, scratch), pointer(bias_address, scratch)
        lanes = lanes_of(scratch)
        U = moved(scratch, worker * scratch_size)
        V = moved(U, n * n * u_plane)
        M = moved(V, n * n * v_plane)
        strip = moved(M, n * n * m_plane)
        lines = moved(strip, strip_size)
        # From the outputs of a tile to those of the next one that no others lie between.
        down, right = m * dilation_h, m * dilation_w
        tile_rows, tile_columns = (OH + down - 1) // down, (OW + right - 1) // right
        h_blocks, w_blocks = (tile_rows + rows - 1) // rows, (tile_columns + columns - 1) // columns
        blocks = (N + images - 1) // images * h_blocks * w_blocks
        f_blocks = (F + FB - 1) // FB
        depth = C * maps  # channels of a sum
        packed = -1  # what U holds: group and block of filters
        while True:
            piece = claim(arguments, worker)
            if piece >= groups * f_blocks * blocks:
                return 0
            filter_block, block = divmod(piece, blocks)
            group, f_block = divmod(filter_block, f_blocks)
            rest, w_block = divmod(block, w_blocks)
            image_block, h_block = divmod(rest, h_blocks)
            f, image = f_block * FB, image_block * images
            filters, here = min(FB, F - f), min(images, N - image)
            top, left = h_block * rows, w_block * columns
            height, width = min(rows, tile_rows - top), min(columns, tile_columns - left)
            f += group * F
            tiles = here * height * width * dilation_h * dilation_w
            for c in range(0, max(depth, 1), KC):
                channels = min(KC, depth - c)
                transform_tiles(
                    V, v_plane, lanes, capacity * lanes, strip, lines,
                    moved(x, image * x_n + group * C * x_c), x_n, x_c, x_h, x_w, H, W,
                    here, height, width, c, channels, top * down * stride_h + offset_h,
                    left * right * stride_w + offset_w, dilation_h, dilation_w, (C, maps_w, stride_h, stride_w),
                )  # fmt: skip
                for position in range(n * n):
                    # Register tiles read a few tiles behind the last one: 0, and not what was in old memory.
                    for behind in range(tiles, rows_read(tiles)):
                        for vector in range((channels + lanes - 1) // lanes):
                            place = position * v_plane + (vector * capacity + behind) * lanes
                            vector_store(V, place, vector_zero(V))
                for u in range(0, filters, UB):
                    some = min(UB, filters - u)
                    if depth > KC or FB > UB or packed != filter_block:
                        taps = moved(weight, group * w_group + (f_block * FB + u) * w_row + c * w_channel)
                        # The strip, which has been read, is the stage.
                        transform_filters(
                            U, u_plane, KC * lanes, strip, taps, w_row, w_channel, w_kh, w_kw, in_vectors, some,
                            channels,
                        )  # fmt: skip
                        packed = filter_block
                    for position in range(n * n):
                        product(
                            tiles, (some + lanes - 1) // lanes, channels, lanes,
                            moved(V, position * v_plane), lanes, capacity * lanes, 1,
                            moved(U, position * u_plane), KC * lanes,
                            moved(M, position * m_plane + u * capacity), lanes, capacity * lanes,
                            FRESH if c == 0 else ADD, M,
                        )  # fmt: skip
            transform_output(
                M, m_plane, capacity * lanes, strip, lines, (moved(bias, f * bias_f), bias_f, bias_address != 0),
                moved(y, image * y_n + f * y_f), y_n, y_f, y_h, y_w, OH, OW, here, height, width, filters,
                top * down, left * right, dilation_h, dilation_w, accumulate,
            )  # fmt: skip

    return winograd_forward
