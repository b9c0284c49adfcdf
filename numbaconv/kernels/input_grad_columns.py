"""Input gradient of small maps: the products of each output, then their sums, as "col2im" does.

    columns[c, kh, kw][oh, ow] = sum over f of weight[f, c, kh, kw] * dy[f, oh, ow]
    dx[c, h, w] = sum of columns[c, kh, kw][oh, ow] with oh * stride - top + kh * dilation = h, and likewise w

:mod:`.input_grad` computes every tap of every pixel, in the border also those that no output has. Where y is much
smaller than dx, as with a 5 x 5 kernel on 5 x 5 pixels, those are most.

    for some channels of dx, and for some images:                  one piece of work
        for a block of KC filters:
            pack dy                                                strip [f][image, oh, ow]
            for a panel of MR channels, and a tap:
                product                                            columns [c][image, oh, ow]
                add each row where the tap reads                   map [c][image, h, w], padded
        write the map to dx

Pieces write different channels or images of dx, and the order of each sum is that of f, then of the taps, whoever
claims the piece: the same bits for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import tiling
from .gemm import FRESH, multiply_panel
from .jit import helper
from .launch import Address, Launch, NestKernel
from .packing import pack_strip, unpack_sums
from .problem import Product
from .rows import clear
from .simd import (
    integers,
    lanes_of,
    load,
    moved,
    pointer,
    store,
    unpacked,
    vector_add,
    vector_load_first,
    vector_store_first,
)
from .work import claim

MR = tiling.MR


@dataclass(frozen=True)
class Blocking:
    """Sizes of the nest: channels of dx, whole panels of them, KC filters, and images."""

    channels: int
    KC: int
    images: int
    #: Rows and columns of a padded map.
    height: int
    width: int
    #: Elements from one filter of the strip, and from one row of columns, to the next; and of the map of a channel.
    pitch: int
    map_pitch: int

    @property
    def scratch(self) -> int:
        """Elements of scratch of a worker: columns, strip and map."""
        return (MR + self.KC) * self.pitch + self.channels * self.map_pitch


def launch(p: Product, b: Blocking, values: dict[str, int | Address]) -> Launch:
    """`p` is the forward pass over dy that dx would be; `values` has what else COLUMNS names."""
    values = p.arguments() | values | {"panels": Address("panels")}
    values |= {"channels": b.channels, "KC": b.KC, "images": b.images}
    values |= {"height": b.height, "width": b.width, "pitch": b.pitch, "map_pitch": b.map_pitch}
    pieces = p.groups * -(-p.F // b.channels) * -(-p.N // b.images)
    return Launch(input_grad_columns, COLUMNS, values, pieces)


COLUMNS = (
    "record", "x", "x_n", "x_c", "x_h", "x_w", "H", "W", "panels", "y", "y_n", "y_f", "y_h", "y_w", "OH", "OW",
    "N", "groups", "C", "F", "KH", "KW", "step_h", "step_w", "apart_h", "apart_w", "top", "left", "channels", "KC",
    "images", "height", "width", "pitch", "map_pitch", "accumulate", "scratch_size",
)  # fmt: skip
COLUMNS_COUNT = len(COLUMNS)


@NestKernel
def input_grad_columns(scratch, arguments, worker):
    """x of the problem is dy, y is dx, its filters are the channels; `step` is the stride, `apart` the dilation."""
    (
        _, dy_address, dy_n, dy_f, dy_h, dy_w, OH, OW, panels_address, dx_address, dx_n, dx_c, dx_h, dx_w, H, W,
        N, groups, F, C, KH, KW, stride_h, stride_w, dilation_h, dilation_w, top, left,
        channels, KC, images, height, width, pitch, map_pitch, accumulate, scratch_size,
    ) = unpacked(arguments, COLUMNS_COUNT)  # fmt: skip
    dy, dx, panels = pointer(dy_address, scratch), pointer(dx_address, scratch), pointer(panels_address, scratch)
    columns = moved(scratch, worker * scratch_size)
    strip = moved(columns, MR * pitch)
    maps = moved(strip, KC * pitch)
    taps = KH * KW
    blocks, c_blocks = (N + images - 1) // images, (C + channels - 1) // channels
    # Panels of a tap, [group][channel // MR][f][channel % MR], follow those of the one before.
    a_pitch = F * MR
    group_pitch = (C + MR - 1) // MR * a_pitch
    tap_pitch = groups * group_pitch
    while True:
        piece = claim(arguments, worker)
        if piece >= groups * c_blocks * blocks:
            return 0
        group_block, block = divmod(piece, blocks)
        group, c_block = divmod(group_block, c_blocks)
        n, c = block * images, c_block * channels
        depth, here = min(images, N - n), min(channels, C - c)
        clear(maps, here * map_pitch)
        for f in range(0, F, KC):
            filters = min(KC, F - f)
            pack_strip(
                strip, pitch, moved(dy, n * dy_n + (group * F + f) * dy_f), dy_n, dy_f, dy_h, dy_w, OH, OW, filters, 1,
                1, 1, 1, 0, 0, 0, 0, depth, OH, OW, 1, 0, 0,
            )  # fmt: skip
            for r in range(0, here, MR):
                rows = min(MR, here - r)
                a = moved(panels, group * group_pitch + (c + r) // MR * a_pitch + f * MR)
                for tap in range(taps):
                    kh, kw = divmod(tap, KW)
                    multiply_panel(
                        rows, depth * OH * OW, filters, 1, integers(columns), moved(a, tap * tap_pitch), 1, MR, strip,
                        pitch, columns, pitch, FRESH, a, pitch,
                    )  # fmt: skip
                    for i in range(rows):
                        place = (r + i) * map_pitch + kh * dilation_h * width + kw * dilation_w
                        column = moved(columns, i * pitch)
                        add_column(
                            moved(maps, place), height * width, stride_h * width, stride_w, column, depth, OH, OW
                        )
        unpack_sums(
            moved(maps, top * width + left), map_pitch, here, moved(dx, n * dx_n + (group * C + c) * dx_c), dx_n, dx_c,
            dx_h, dx_w, depth, H, W, height, width, 1, accumulate,
        )  # fmt: skip


@helper
def add_column(maps, plane, row, step, column, images, OH, OW):
    """maps[n * plane + oh * row + ow * step] += column[(n * OH + oh) * OW + ow]"""
    lanes = lanes_of(maps)
    if step != 1:
        for n in range(images):
            for oh in range(OH):
                out, source = moved(maps, n * plane + oh * row), moved(column, (n * OH + oh) * OW)
                for ow in range(OW):
                    store(out, ow * step, load(out, ow * step) + load(source, ow))
        return
    # From row to row, or from image to image where a vector of the next row reaches into the one just stored, and would
    # have to wait for it.
    by_rows = row >= lanes
    outer, inner = (images, OH) if by_rows else (OH, images)
    outer_step, inner_step = (plane, row) if by_rows else (row, plane)
    outer_source, inner_source = (OH * OW, OW) if by_rows else (OW, OH * OW)
    for ow in range(0, OW, lanes):  # all rows of a stretch of columns have one mask
        count = min(lanes, OW - ow)
        for i in range(outer):
            out, source = moved(maps, i * outer_step + ow), moved(column, i * outer_source + ow)
            for _ in range(inner):
                total = vector_add(vector_load_first(out, 0, count), vector_load_first(source, 0, count))
                vector_store_first(out, 0, total, count)
                out, source = moved(out, inner_step), moved(source, inner_source)
