"""Weight gradient by Winograd's algorithm: r x r taps from tiles of m x m numbers of dy.

    for a share of the tiles, a block of FB filters, a block of CB channels:      one piece of work
        for a block of tiles:                             so that what follows stays in L2
            transform the tiles of x, V[position][channel block][tile]
            transform the tiles of dy, D[position][tile][filter]
            for each of the n x n positions: product      sums M[position][channel block][filter] over the tiles
        transform the sums to r x r taps                  partial sums of the share, or dw itself if there is one only

Pieces own their partial sums. How many shares there are depends on the shape alone, and they are added in order by
:func:`..weight_grad_shares.add_shares`, whose layout the partial sums have: the same bits for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ...geometry import Geometry
from .. import tiling
from ..jit import helper, named
from ..launch import Address, Launch, NestKernel
from ..product import ADD, FRESH, product, rows_read
from ..rows import clear
from ..simd import lanes_of, moved, pointer, unpacked
from ..weight_grad_shares import adding, write_taps
from ..work import claim
from .maps import Maps, join
from .transforms import FILTER, INPUT, OUTPUT, line, make_tile_transform

MR = tiling.MR


@dataclass(frozen=True)
class Blocking:
    """Sizes of the nest: r x r taps of m x m numbers of dy, shares, FB filters, CB channels of all maps, tiles."""

    m: int
    r: int
    maps: Maps
    shares: int
    FB: int
    CB: int
    images: int
    rows: int
    columns: int
    #: Whether the sums of the only share are dw itself, whose taps lie as they do in a C-contiguous weight.
    whole: bool
    #: Elements of a filter's channels and taps of a row in the partial sums.
    line: int
    #: FB rounded up to whole vectors and register tiles, tiles of a block likewise.
    filters: int
    capacity: int
    v_plane: int
    d_plane: int
    m_plane: int
    strip: int
    lines: int

    @property
    def scratch(self) -> int:
        """Elements of scratch of a worker."""
        return (self.m + self.r - 1) ** 2 * (self.v_plane + self.d_plane + self.m_plane) + self.strip + self.lines


WINOGRAD_GRAD = (
    "record", "x", "x_n", "x_c", "x_h", "x_w", "H", "W", "dy", "y_n", "y_f", "y_h", "y_w", "partial",
    "dw", "w_f", "w_c", "whole", "N", "OH", "OW", "groups", "C", "F", "offset_h", "offset_w",
    "stride_h", "stride_w", "maps", "maps_w", "dilation_h", "dilation_w", "shares", "FB", "CB",
    "images", "rows", "columns", "line", "filters", "capacity", "v_plane", "d_plane", "m_plane", "strip_size",
    "scratch_size",
)  # fmt: skip
WINOGRAD_GRAD_COUNT = len(WINOGRAD_GRAD)


def partial_elements(g: Geometry, b: Blocking) -> int:
    """Elements of the partial sums of all shares."""
    if b.whole:
        return 0
    C, F = g.C // g.groups * b.maps.all, g.F // g.groups
    return b.shares * g.groups * -(-F // MR) * MR * -(-C // b.CB) * b.r * b.line


def launches(g: Geometry, values: dict[str, int | Address], b: Blocking) -> list[Launch]:
    """Sum by shares, add the shares, join the parts; `values` are those of :func:`..weight_grad.arguments_of`."""
    C, F = g.C // g.groups, g.F // g.groups
    values = values | b.maps.arguments() | {"shares": b.shares, "FB": b.FB, "CB": b.CB, "images": b.images}
    values |= {"rows": b.rows, "columns": b.columns, "whole": b.whole}
    values |= {"line": b.line, "filters": b.filters, "capacity": b.capacity, "strip_size": b.strip}
    values |= {"v_plane": b.v_plane, "d_plane": b.d_plane, "m_plane": b.m_plane, "gathered": 0, "apart": 1}
    joining = []
    if not b.maps.plain:
        joining = [join(g, values, b.maps)]
        w_f, w_c, w_kh, w_kw = b.maps.strides(C)
        values |= {"dw": Address("parts"), "w_f": w_f, "w_c": w_c, "w_kh": w_kh, "w_kw": w_kw, "accumulate": False}
    pieces = b.shares * g.groups * -(-F // b.FB) * -(-(C * b.maps.all) // b.CB)
    summing = Launch(kernel(b.m, b.r), WINOGRAD_GRAD, values, pieces)
    values = values | {"C": C * b.maps.all, "KH": b.r, "KW": b.r}
    return [summing, *([] if b.whole else [adding(g, values)]), *joining]


@cache
def kernel(m, r):
    """The kernel for tiles of m x m numbers of dy and r x r taps, made when it is first asked for."""
    n = m + r - 1
    transform_x = make_tile_transform(INPUT, n, m, n)
    transform_dy = make_tile_transform(FILTER, n, m, m)

    @helper
    @named(m, r)
    def transform_taps(sums, plane, block_pitch, lines, f, c, out, step):
        """out[(kh * step_h + kw * step_w) + i] = the taps that the sums of filter f and channel c + i give.

        `step` is (step_h, step_w); whole vectors are written.
        """
        lanes = lanes_of(lines)
        source = moved(sums, c // lanes * block_pitch + f * lanes)
        for j in range(n):
            line(OUTPUT, n, r, moved(source, j * plane), n * plane, moved(lines, j * lanes), n * lanes)
        for kh in range(r):
            line(OUTPUT, n, r, moved(lines, kh * n * lanes), lanes, moved(out, kh * step[0]), step[1])

    @NestKernel
    @named(m, r)
    def winograd_weight_grad(scratch, arguments, worker):
        """C and F are those of one group; a block is `images` x `rows` x `columns` tiles."""
        (
            _, x_address, x_n, x_c, x_h, x_w, H, W, dy_address, y_n, y_f, y_h, y_w, partial_address,
            dw_address, w_f, w_c, whole, N, OH, OW, groups, C, F, offset_h, offset_w,
            stride_h, stride_w, maps, maps_w, dilation_h, dilation_w, shares, FB, CB,
            images, rows, columns, line_size, filter_pitch, capacity, v_plane, d_plane, m_plane, strip_size,
            scratch_size,
        ) = unpacked(arguments, WINOGRAD_GRAD_COUNT)  # fmt: skip
        x, dy = pointer(x_address, scratch), pointer(dy_address, scratch)
        partial, dw = pointer(partial_address, scratch), pointer(dw_address, scratch)
        lanes = lanes_of(scratch)
        V = moved(scratch, worker * scratch_size)
        D = moved(V, n * n * v_plane)
        M = moved(D, n * n * d_plane)
        strip = moved(M, n * n * m_plane)
        lines = moved(strip, strip_size)
        depth = C * maps  # channels of all maps
        down, right = m * dilation_h, m * dilation_w
        tile_rows, tile_columns = (OH + down - 1) // down, (OW + right - 1) // right
        h_blocks, w_blocks = (tile_rows + rows - 1) // rows, (tile_columns + columns - 1) // columns
        blocks = (N + images - 1) // images * h_blocks * w_blocks
        f_blocks, c_blocks = (F + FB - 1) // FB, (depth + CB - 1) // CB
        f_pitch = c_blocks * r * line_size
        padded_F = (F + MR - 1) // MR * MR
        # Register tiles may read filters behind the last vector of them: 0, and not what was in old memory.
        for filters in (FB, F - (f_blocks - 1) * FB):
            if rows_read(filters) > (filters + lanes - 1) // lanes * lanes:
                clear(D, n * n * d_plane)
        while True:
            piece = claim(arguments, worker)
            if piece >= shares * groups * f_blocks * c_blocks:
                return 0
            rest, c_block = divmod(piece, c_blocks)
            rest, f_block = divmod(rest, f_blocks)
            share, group = divmod(rest, groups)
            f, c = f_block * FB, c_block * CB
            filters, channels = min(FB, F - f), min(CB, depth - c)
            first, last = share * blocks // shares, (share + 1) * blocks // shares
            for block in range(first, max(last, 1)):  # one of no images makes the zeros of an empty batch
                rest, w_block = divmod(block, w_blocks)
                image_block, h_block = divmod(rest, h_blocks)
                image, top, left = image_block * images, h_block * rows, w_block * columns
                here = min(images, N - image)
                height, width = min(rows, tile_rows - top), min(columns, tile_columns - left)
                transform_x(
                    V, v_plane, lanes, capacity * lanes, strip, lines, moved(x, image * x_n + group * C * x_c),
                    x_n, x_c, x_h, x_w, H, W, here, height, width, c, channels, top * down * stride_h + offset_h,
                    left * right * stride_w + offset_w, dilation_h, dilation_w, (C, maps_w, stride_h, stride_w),
                )  # fmt: skip
                transform_dy(
                    D, d_plane, filter_pitch, lanes, strip, lines, moved(dy, image * y_n + (group * F + f) * y_f),
                    y_n, y_f, y_h, y_w, OH, OW, here, height, width, 0, filters, top * down, left * right,
                    dilation_h, dilation_w, (filters, 1, 1, 1),
                )  # fmt: skip
                tiles = here * height * width * dilation_h * dilation_w
                for position in range(n * n):
                    product(
                        filters, (channels + lanes - 1) // lanes, tiles, capacity,
                        moved(D, position * d_plane), 1, 0, filter_pitch,
                        moved(V, position * v_plane), capacity * lanes,
                        moved(M, position * m_plane), lanes, filter_pitch * lanes, FRESH if block == first else ADD, M,
                    )  # fmt: skip
            sums = moved(partial, (share * groups + group) * padded_F * f_pitch + f * f_pitch)
            sums = moved(sums, c_block * r * line_size)
            taps = moved(dw, (group * F + f) * w_f + c * w_c)
            # From the last channels to the first: what whole vectors write too much is written over by the next ones.
            for inner in range((channels - 1) // lanes * lanes, -1, -lanes):
                for i in range(filters):
                    out, step = moved(sums, i * f_pitch + inner), (line_size, channels)
                    if whole:
                        out, step = strip, (r * lanes, lanes)
                    transform_taps(M, m_plane, filter_pitch * lanes, lines, i, inner, out, step)
                    if whole:
                        here = min(lanes, channels - inner)
                        write_taps(moved(taps, i * w_f + inner * w_c), w_c, strip, r * r, here)

    return winograd_weight_grad
