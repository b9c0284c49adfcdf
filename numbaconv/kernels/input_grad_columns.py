"""Input gradient by columns: the products of each output, then their sums, as "col2im" does.

    columns[c, kh, kw][oh, ow] = sum over f of weight[f, c, kh, kw] * dy[f, oh, ow]
    dx[c, h, w] = sum of columns[c, kh, kw][oh, ow] with oh * stride - top + kh * dilation = h, and likewise w

:mod:`.input_grad` computes a row of `a` for each channel, and every tap of every pixel. Here channels and taps are rows
of `a` together: a few channels fill a register tile, and dy is packed once for all taps, at any stride. Nor are there
products for pixels in the border that no output has, which for a 5 x 5 kernel on 5 x 5 pixels are most.

    for some channels of dx, some images, and a segment of their rows:   one piece of work
        for a block of rows of outputs:
            for a block of KC filters:
                pack dy                                                  strip [f][image, oh, ow]
                for a panel of MR rows (c, kh, kw):
                    pack the weight                                      panel [f][row]
                    product                                              columns [row][image, oh, ow]
                    add each row where its tap reads                     map [c][remainders][image, row, column]
            write the rows of the map that are complete to dx

Where the batch lies together, as in HWCN, each of a few images is an element of its own behind (oh, ow) and column.

The map is sorted by remainders modulo the stride, as the strip of the forward pass is, so that outputs side by side add
to pixels side by side. What later outputs add to, its last rows, moves up for the next block.

Pieces write different channels, images or rows of dx. The order of each sum is that of blocks of rows, of f, and of the
taps, whoever claims the piece: a segment computes once more the outputs before it that add to its rows, in the blocks
that they have there. So the bits are the same for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import tiling
from .gemm import FRESH, multiply_panel, variable
from .jit import helper
from .launch import Address, Launch, NestKernel
from .packing import pack_strip, unpack_map
from .problem import Product
from .rows import clear, clear_first, write_run
from .simd import (
    integers,
    lanes_of,
    load,
    load_integer,
    moved,
    pointer,
    store,
    store_integer,
    unpacked,
    vector_add,
    vector_load_first,
    vector_store,
    vector_store_first,
)
from .work import claim

MR = tiling.MR
# Elements that have room for an int64.
PLACES = 2


@dataclass(frozen=True)
class Blocking:
    """Sizes of the nest: channels of dx, KC filters, images, rows of outputs, and segments of so many such blocks."""

    channels: int
    KC: int
    images: int
    rows: int
    segment: int
    #: Images of an output that lie together in memory, as in HWCN; `images` counts others.
    batch: int
    #: Rows of a map behind those of the outputs, of which `reach` get products, and its columns.
    tail: int
    reach: int
    width: int
    #: Elements from one filter of the strip, and from one row of columns, to the next; and of the map of a channel.
    pitch: int
    map_pitch: int
    #: Elements of a row of dx, where those of several maps are merged.
    line: int

    def scratch(self, taps: int) -> int:
        """Elements of scratch of a worker: columns, strip, maps, rows of dx, the panel, and where taps and rows are."""
        maps = self.channels * (self.map_pitch + self.line)
        return (MR + self.KC) * self.pitch + maps + PLACES * (taps + MR) + self.KC * MR + MR


def launch(p: Product, b: Blocking, values: dict[str, int | Address]) -> Launch:
    """`p` is the forward pass over dy that dx would be; `values` has what else COLUMNS names."""
    values = p.arguments() | values
    values |= {"channels": b.channels, "KC": b.KC, "images": b.images, "rows": b.rows, "segment": b.segment}
    values |= {"tail": b.tail, "reach": b.reach, "width": b.width, "pitch": b.pitch, "map_pitch": b.map_pitch}
    values |= {"batch": b.batch, "line": b.line}
    return Launch(input_grad_columns, COLUMNS, values, pieces(p, b))


def pieces(p: Product, b: Blocking) -> int:
    """Pieces of work."""
    segments = -(-p.H // (b.rows * b.segment))
    return p.groups * -(-p.F // b.channels) * -(-p.N // (b.images * b.batch)) * segments


COLUMNS = (
    "record", "x", "x_n", "x_c", "x_h", "x_w", "H", "W", "weight", "w_group", "w_row", "w_channel", "w_kh", "w_kw",
    "y", "y_n", "y_f", "y_h", "y_w", "OH", "OW", "N", "groups", "C", "F", "KH", "KW", "step_h", "step_w",
    "apart_h", "apart_w", "top", "left", "channels", "KC", "images", "rows", "segment", "batch", "tail", "reach",
    "width", "pitch", "map_pitch", "line", "accumulate", "scratch_size",
)  # fmt: skip
COLUMNS_COUNT = len(COLUMNS)


@NestKernel
def input_grad_columns(scratch, arguments, worker):
    """x of the problem is dy, y is dx, its filters are the channels; `step` is the stride, `apart` the dilation."""
    (
        _, dy_address, dy_n, dy_f, dy_h, dy_w, OH, OW, weight_address, w_group, w_c, w_f, w_kh, w_kw,
        dx_address, dx_n, dx_c, dx_h, dx_w, H, W, N, groups, F, C, KH, KW, stride_h, stride_w,
        dilation_h, dilation_w, top, left, channels, KC, images, rows, segment, batch, tail, reach, width,
        pitch, map_pitch, line, accumulate, scratch_size,
    ) = unpacked(arguments, COLUMNS_COUNT)  # fmt: skip
    dy, dx, weight = pointer(dy_address, scratch), pointer(dx_address, scratch), pointer(weight_address, scratch)
    columns = moved(scratch, worker * scratch_size)
    strip = moved(columns, MR * pitch)
    maps = moved(strip, KC * pitch)
    lines = moved(maps, channels * map_pitch)
    taps = KH * KW
    behind = moved(lines, channels * line)
    # Where a tap adds, and from where a row of the panel comes.
    table, places = integers(behind), integers(moved(behind, PLACES * taps))
    panel = moved(behind, PLACES * (taps + MR))
    height = rows + tail
    in_rows = w_kw == 1 and w_kh == KW and w_c == taps
    blocks, c_blocks = (N + images * batch - 1) // (images * batch), (C + channels - 1) // channels
    segments = (OH + rows * segment - 1) // (rows * segment)
    table_of = 0
    while True:
        piece = claim(arguments, worker)
        if piece >= groups * c_blocks * blocks * segments:
            return 0
        rest, part = divmod(piece, segments)
        group_block, block = divmod(rest, blocks)
        group, c_block = divmod(group_block, c_blocks)
        n, c = block * images * batch, c_block * channels
        depth, here = min(images, N - n) if batch == 1 else 1, min(channels, C - c)
        together = 1 if batch == 1 else min(batch, N - n)
        # A row of a map, one of outputs, and the map.
        line_of_map, run = width * together, OW * together
        plane = images * height * line_of_map
        for tap in range(taps if together != table_of else 0):
            kh, kw = divmod(tap, KW)
            v, u = kh * dilation_h, kw * dilation_w
            remainder = v % stride_h * stride_w + u % stride_w
            store_integer(table, tap, remainder * plane + v // stride_h * line_of_map + u // stride_w * together)
        table_of = together
        start, end = part * rows * segment, min((part + 1) * rows * segment, OH)
        clear(maps, here * map_pitch)
        oh = max(0, start - reach)
        while oh < end:
            count = min(oh // rows * rows + rows, end) - oh
            for f in range(0, F, KC):
                filters = min(KC, F - f)
                pack_strip(
                    strip, pitch, moved(dy, n * dy_n + (group * F + f) * dy_f), dy_n, dy_f, dy_h, dy_w, OH, OW, filters,
                    1, 1, 1, 1, 0, 0, 0, 0, depth, count, OW, together, oh, 0,
                )  # fmt: skip
                source = moved(weight, group * w_group + f * w_f + c * w_c)
                for r in range(0, here * taps, MR):
                    panel_rows = min(MR, here * taps - r)
                    if in_rows:
                        pack_side_by_side(panel, moved(source, r), w_f, filters, panel_rows)
                    else:
                        pack_apart(panel, places, source, w_f, w_c, w_kh, w_kw, KH, KW, filters, r, panel_rows)
                    multiply_panel(
                        panel_rows, depth * count * run, filters, variable(1), table, panel, variable(1), variable(MR),
                        strip, pitch, columns, pitch, variable(FRESH), panel, pitch,
                    )  # fmt: skip
                    for i in range(panel_rows):
                        channel, tap = divmod(r + i, taps)
                        target = moved(maps, channel * map_pitch + load_integer(table, tap))
                        source_of_row = moved(columns, i * pitch)
                        add_column(target, height * line_of_map, line_of_map, source_of_row, depth, count, run)
            if oh >= start:
                out = moved(dx, n * dx_n + (group * C + c) * dx_c)
                complete = count + tail if oh + count == OH else count
                unpack_map(
                    out, dx_n, dx_c, dx_h, dx_w, H, W, maps, map_pitch, plane, lines, line, depth, height, width, here,
                    stride_h, stride_w, top, left, oh, complete, together, accumulate,
                )  # fmt: skip
            oh += count
            for i in range(here * stride_h * stride_w if oh < end else 0):
                channel, remainder = divmod(i, stride_h * stride_w)
                rows_of_map = moved(maps, channel * map_pitch + remainder * plane)
                kept, gone = (height - count) * line_of_map, count * line_of_map
                write_run(rows_of_map, 1, moved(rows_of_map, gone), kept, False)
                clear_first(moved(rows_of_map, kept), gone)


@helper
def pack_side_by_side(panel, weight, w_f, filters, rows):
    """panel[f * MR + r] = weight[f * w_f + r] for r < rows, and 0 for r < MR.

    May write up to lanes - 1 elements more: with :func:`.pack_filters_side_by_side`, which does not, 16>120@5 5x5 takes
    a quarter longer.
    """
    for f in range(filters):
        for r in range(0, MR, lanes_of(panel)):
            vector_store(panel, f * MR + r, vector_load_first(weight, f * w_f + r, max(0, rows - r)))


@helper
def pack_apart(panel, places, weight, w_f, w_c, w_kh, w_kw, KH, KW, filters, first, rows):
    """The same of rows (c, kh, kw) from `first` on, wherever they are; those behind the last one are the last one."""
    for r in range(MR):
        c, tap = divmod(first + min(r, rows - 1), KH * KW)
        kh, kw = divmod(tap, KW)
        store_integer(places, r, c * w_c + kh * w_kh + kw * w_kw)
    for f in range(filters):
        for r in range(MR):
            store(panel, f * MR + r, load(weight, f * w_f + load_integer(places, r)))


@helper
def add_column(maps, plane, row, column, images, OH, OW):
    """maps[n * plane + oh * row + ow] += column[(n * OH + oh) * OW + ow]"""
    lanes = lanes_of(maps)
    # A vector that reaches into the one just stored would have to wait for it: not from row to row where rows are
    # shorter than vectors, but from image to image, or over some rows to the next one.
    gap = (lanes + row - 1) // row
    by_images = gap > 1 and images * gap > OH
    outer, inner, several = (OH, images, 1) if by_images else (images, OH, gap)
    outer_step, inner_step = (row, plane) if by_images else (plane, row)
    outer_source, inner_source = (OW, OH * OW) if by_images else (OH * OW, OW)
    for ow in range(0, OW, lanes):  # all rows of a stretch of columns have one mask
        count = min(lanes, OW - ow)
        for i in range(outer):
            for first in range(several):
                out = moved(maps, i * outer_step + first * inner_step + ow)
                source = moved(column, i * outer_source + first * inner_source + ow)
                for _ in range(first, inner, several):
                    total = vector_add(vector_load_first(out, 0, count), vector_load_first(source, 0, count))
                    vector_store_first(out, 0, total, count)
                    out, source = moved(out, several * inner_step), moved(source, several * inner_source)
