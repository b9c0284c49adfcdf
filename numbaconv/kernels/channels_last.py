"""Forward pass in NHWC: y[pixel, f] = bias[f] + sum over kh, kw, c of x[what (kh, kw) reads, c] * weight[f, c, kh, kw].

The product of :mod:`.forward` turned round: here the channels of a pixel lie together, so that pixels are broadcast
and filters are in the vector. Nothing is transposed, and a row of taps is one stretch of memory.

    for a block of MC filters, and a block of output pixels:      one piece of work
        copy the rows of x that the pixels look at, padded        strip [row][column][c]
        for a row of taps:                                        KW * C products deep
            product                                               sums [pixel][filter] in scratch
        write the sums to y

A 1 x 1 kernel reads x and writes y where they lie. Rows of the strip are sorted by their remainder modulo the stride,
so that pixels of all rows of a block are at one distance; the few columns between rows are computed and not stored.
Pieces write different filters or pixels of y, and the order of each sum is that of (kh, kw, c), whoever claims the
piece: the same bits for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from . import tiling
from .jit import helper
from .launch import Address, Launch, NestKernel
from .packing import clear
from .pixels import pack_pixels, unpack_pixels
from .problem import Product
from .product import ADD, CONTINUE, FRESH, product
from .simd import (
    claim,
    lanes_of,
    load,
    moved,
    pointer,
    store,
    transpose_block,
    unpacked,
    vector_load,
    vector_load_first,
    vector_store,
)

MR = tiling.FILTERS_MR
# Channels of a row of taps from which it is a product of its own: its part of the weight then fills half of L1.
LONG_ROW = 128
DEPTH = tiling.DEPTH


@dataclass(frozen=True)
class Blocking:
    """Sizes of the nest: MC filters, KC products deep, and a block of images x rows x columns outputs."""

    MC: int
    KC: int
    images: int
    rows: int
    columns: int
    #: Whether x and y are read and written in place, `columns` pixels of all images one after the other.
    flat: bool
    #: Pixels between the first outputs of two rows of the strip.
    row: int
    strip: int
    #: Elements from one pixel of the sums to the next, and of all sums.
    pitch: int
    sums: int

    @property
    def scratch(self) -> int:
        """Elements of scratch of a worker; the sums are behind the strip, whose end is cleared."""
        return self.strip + self.pitch + self.sums


def blocks(p: Product, b: Blocking) -> int:
    """Blocks of output pixels."""
    if b.flat:
        return -(-p.N * p.OH * p.OW // b.columns)
    steps = (p.N, b.images), (p.OH, b.rows), (p.OW, b.columns)
    return prod(-(-extent // step) for extent, step in steps)


def panel_elements(p: Product, lanes: int) -> int:
    """Elements of the packed weight."""
    return p.groups * -(-p.F // lanes) * lanes * p.C * p.KH * p.KW


def launches(p: Product, b: Blocking, lanes: int) -> list[Launch]:
    """Pack the weight, then multiply. The dilation of `p` is positive."""
    values = p.arguments() | {"panels": Address("panels"), "MC": b.MC, "KC": b.KC, "flat": b.flat, "row": b.row}
    values |= {"images": b.images, "rows": b.rows, "columns": b.columns, "strip_size": b.strip, "pitch": b.pitch}
    packing = Launch(pack_vectors, PACK_VECTORS, values, p.groups * -(-p.F // lanes))
    return [packing, Launch(channels_last, LAST, values, p.groups * -(-p.F // b.MC) * blocks(p, b))]


LAST = (
    "counter", "x", "x_n", "x_c", "x_h", "x_w", "H", "W", "panels", "bias", "bias_f", "y", "y_n", "y_f", "y_h", "y_w",
    "N", "OH", "OW", "groups", "C", "F", "KH", "KW", "stride_h", "stride_w", "offset_h", "offset_w",
    "dilation_h", "dilation_w", "phases_h", "reach_h", "MC", "KC", "flat", "row", "images", "rows", "columns",
    "strip_size", "pitch", "accumulate", "scratch_size",
)  # fmt: skip
LAST_COUNT = len(LAST)


@NestKernel
def channels_last(scratch, arguments, worker):
    """C and F are those of one group; MC and pitch are multiples of lanes."""
    (
        _, x_address, x_n, x_c, x_h, x_w, H, W, panels_address, bias_address, bias_f, y_address, y_n, y_f, y_h, y_w,
        N, OH, OW, groups, C, F, KH, KW, stride_h, stride_w, offset_h, offset_w,
        dilation_h, dilation_w, phases_h, reach_h, MC, KC, flat, row, images, rows, columns,
        strip_size, pitch, accumulate, scratch_size,
    ) = unpacked(arguments, LAST_COUNT)  # fmt: skip
    x, y = pointer(x_address, scratch), pointer(y_address, scratch)
    panels, bias = pointer(panels_address, scratch), pointer(bias_address, scratch)
    lanes = lanes_of(scratch)
    strip = moved(scratch, worker * scratch_size)
    stage = moved(strip, strip_size)
    sums = moved(stage, pitch)
    blocks_h, blocks_w = (OH + rows - 1) // rows, (OW + columns - 1) // columns
    pixels = N * OH * OW
    blocks = (pixels + columns - 1) // columns if flat else (N + images - 1) // images * blocks_h * blocks_w
    f_blocks = (F + MC - 1) // MC
    taps = KH * KW
    b_block = C * taps * lanes
    while True:
        piece = claim(arguments)
        if piece >= groups * f_blocks * blocks:
            return 0
        group_block, block = divmod(piece, blocks)
        if groups > 1:  # pixels of all groups lie in the same cache lines
            block, group_block = divmod(piece, groups * f_blocks)
        group, f_block = divmod(group_block, f_blocks)
        f = f_block * MC
        filters = min(MC, F - f)
        vectors = (filters + lanes - 1) // lanes
        first = group * F + f
        b = moved(panels, (group * ((F + lanes - 1) // lanes) + f // lanes) * b_block)
        source = moved(x, group * C * x_c)
        out = moved(y, first * y_f)
        if bias_address != 0:
            clear(stage, vectors * lanes)
            for i in range(filters):
                store(stage, i, load(bias, (first + i) * bias_f))
        if flat:
            start = block * columns
            count = min(columns, pixels - start)
            if count % MR == 0 and filters % lanes == 0 and y_f == 1 and not accumulate:
                # Whole tiles only: a tail tile would read and write beyond the last pixel.
                pixel = moved(out, start * y_w)
                if bias_address != 0:
                    fill_sums(pixel, y_w, count, vectors, stage)
                for k in range(0, max(C, 1), KC):
                    depth = min(KC, C - k)
                    mode = mode_of(k, C, k == 0 and bias_address == 0)
                    product(
                        count, vectors, depth, max(depth, 1), moved(source, start * x_w + k * x_c), x_w, 0, x_c,
                        moved(b, k * lanes), b_block, pixel, y_w, lanes, mode,
                    )  # fmt: skip
                continue
            n, oh, ow, depth_n, height, width = 0, 0, 0, 1, 1, count
            pack_pixels(strip, C, moved(source, start * x_w), 0, x_c, 0, x_w, 1, count, 1, 1, count, C, 0, 0)
            out = moved(out, start * y_w)
            row_pixels, strip_rows, plane = count, 1, 0
        else:
            rest, block_w = divmod(block, blocks_w)
            block_n, block_h = divmod(rest, blocks_h)
            n, oh, ow = block_n * images, block_h * rows, block_w * columns
            depth_n, height, width = min(images, N - n), min(rows, OH - oh), min(columns, OW - ow)
            strip_rows, row_pixels = height + reach_h, row - columns + width
            plane = depth_n * strip_rows * row_pixels * stride_w * C
            for a in range(phases_h):
                # The rows of one remainder are rows of an image that is stride_h times as steep.
                top = oh * stride_h + offset_h + a * dilation_h % stride_h
                steep, remainder = divmod(top, stride_h)
                pack_pixels(
                    moved(strip, a * plane), C, moved(source, n * x_n + remainder * x_h), x_n, x_c, stride_h * x_h,
                    x_w, (H - remainder + stride_h - 1) // stride_h, W, depth_n, strip_rows, row_pixels * stride_w, C,
                    steep, ow * stride_w + offset_w,
                )  # fmt: skip
            out = moved(out, n * y_n + oh * y_h + ow * y_w)
        # What the last register tile reads behind the last pixel is 0, and not what was in old memory.
        clear(moved(strip, phases_h * plane if plane else count * C), MR * stride_w * C)
        count = ((depth_n - 1) * strip_rows + height - 1) * row_pixels + width
        if bias_address != 0:
            fill_sums(sums, pitch, (count + MR - 1) // MR * MR, vectors, stage)  # what register tiles add to
        fresh = bias_address == 0
        apart = 1 if dilation_w == 1 else KW  # how many stretches a row of taps is
        stretch = KW // apart * C
        line = row_pixels * stride_w * C
        joined = apart == 1 and stretch < LONG_ROW  # then all rows of taps of a phase are one product
        for a in range(phases_h):
            rows_of_taps = (KH - a + phases_h - 1) // phases_h
            steps = rows_of_taps * apart
            row_step = phases_h * dilation_h // stride_h * line
            base = a * plane + a * dilation_h // stride_h * line
            for t in range(1 if joined else steps):
                i, kw = divmod(t, apart)
                depth = rows_of_taps * stretch if joined else stretch
                top = moved(strip, base + i * row_step + kw * dilation_w * C)
                for k in range(0, depth, max(depth, 1) if joined else KC):
                    deep = depth if joined else min(KC, depth - k)
                    mode = mode_of(k, depth, fresh)
                    product(
                        count, vectors, deep, max(stretch, 1) if joined else deep, moved(top, k),
                        stride_w * C, row_step, 1, moved(b, k * lanes), b_block, sums, pitch, lanes, mode,
                    )  # fmt: skip
                    fresh = False
                b = moved(b, depth * lanes)
        if fresh:  # no taps or no channels: the sum of nothing
            product(count, vectors, 0, 1, strip, 0, 0, 0, b, 0, sums, pitch, lanes, FRESH)
        unpack_pixels(
            sums, pitch, strip_rows * row_pixels * pitch, row_pixels, out, y_n, y_f, y_h, y_w, depth_n, height, width,
            filters, accumulate,
        )  # fmt: skip


@helper
def mode_of(k, depth, fresh):
    """How the product from k on of a row of taps, `depth` in all, meets the sums: long ones are summed apart."""
    if fresh:
        return FRESH
    return ADD if k == 0 and depth >= DEPTH else CONTINUE


@helper
def fill_sums(sums, pitch, pixels, vectors, bias):
    """sums[j, :] = bias, in whole vectors, for j < pixels."""
    lanes = lanes_of(sums)
    for v in range(vectors):
        value = vector_load(bias, v * lanes)
        for j in range(pixels):
            vector_store(sums, j * pitch + v * lanes, value)


PACK_VECTORS = (
    "counter", "weight", "w_group", "w_row", "w_channel", "w_kh", "w_kw", "panels", "groups", "C", "F", "KH", "KW",
    "phases_h",
)  # fmt: skip
PACK_VECTORS_COUNT = len(PACK_VECTORS)


@NestKernel
def pack_vectors(scratch, arguments, worker):
    """Panels of `lanes` filters, [group][filter // lanes][kh, kw, c][filter % lanes], kh sorted by phase."""
    (
        _, weight_address, w_group, w_row, w_channel, w_kh, w_kw, panels_address, groups, C, F, KH, KW, phases_h,
    ) = unpacked(arguments, PACK_VECTORS_COUNT)  # fmt: skip
    weight, panels = pointer(weight_address, scratch), pointer(panels_address, scratch)
    lanes = lanes_of(scratch)
    blocks = (F + lanes - 1) // lanes
    if phases_h == 1 and w_kh == KW * w_kw:  # taps that follow each other are one row of taps
        KH, KW = 1, KH * KW
    while True:
        piece = claim(arguments)
        if piece >= groups * blocks:
            return 0
        group, block = divmod(piece, blocks)
        filters = min(lanes, F - block * lanes)
        panel = moved(panels, piece * C * KH * KW * lanes)
        if filters < lanes:
            clear(panel, C * KH * KW * lanes)
        for a in range(phases_h):
            for kh in range(a, KH, phases_h):
                source = moved(weight, group * w_group + block * lanes * w_row + kh * w_kh)
                if w_row == 1:
                    for k in range(KW * C):
                        kw, c = divmod(k, C)
                        value = vector_load_first(source, kw * w_kw + c * w_channel, filters)
                        vector_store(panel, k * lanes, value)
                elif KW > 1 and (w_kw == 1 or w_kw == -1):  # filters lie apart, taps together, forwards or backwards
                    start, pitch = (0, C * lanes) if w_kw == 1 else ((KW - 1) * C * lanes, -C * lanes)
                    row = moved(source, min(0, (KW - 1) * w_kw))
                    for c in range(C):
                        for i in range(0, KW, lanes):
                            transpose_block(
                                moved(panel, start + c * lanes + i * pitch), pitch, moved(row, c * w_channel + i),
                                w_row, filters, min(lanes, KW - i),
                            )  # fmt: skip
                elif KW == 1 and w_channel == 1:
                    for c in range(0, C, lanes):
                        count = min(lanes, C - c)
                        transpose_block(moved(panel, c * lanes), lanes, moved(source, c), w_row, filters, count)
                else:
                    for k in range(KW * C):
                        kw, c = divmod(k, C)
                        for r in range(filters):
                            value = load(source, kw * w_kw + c * w_channel + r * w_row)
                            store(panel, k * lanes + r, value)
                panel = moved(panel, KW * C * lanes)
