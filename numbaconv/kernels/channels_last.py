"""Forward pass with filters in the vector: as NHWC has them, and for small maps, whose rows of pixels fill none.

    y[pixel, f] = bias[f] + sum over kh, kw, c of x[what (kh, kw) reads, c] * weight[f, c, kh, kw]

The product of :mod:`.forward` turned round: where the channels of a pixel lie together, pixels are broadcast. A row of
taps is then one stretch of memory.

    for a block of MC filters, and a block of output pixels:      one piece of work
        list where they begin in x and in the sums                lists
        for a block of CB channels:                               so that several small images fit
            copy the rows of x that the pixels look at, padded    strip [row][column][c]
            short rows of taps:                                   KH * KW * C products deep
                product                                           sums [pixel][filter] in scratch, or y itself
            long ones:  for a row of taps:                        KW * CB products deep
                product                                           sums [pixel][filter] in scratch
        write the sums to y

A 1 x 1 kernel reads x where it lies. Register tiles take pixels from the list, whatever rows they are of, so that short
rows leave none of them half empty. Where taps often meet the padding, each row of taps, or each tap, is multiplied only
for the pixels that it reads no padding for, which are a list of their own.
Pieces write different filters or pixels of y, and the order of each sum is that of (kh, kw, c), whoever claims the
piece: the same bits for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from . import tiling
from .jit import helper, inner
from .launch import Address, Launch, NestKernel
from .pixels import pack_pixels, unpack_pixels
from .problem import Product
from .product import ADD, BIASED, CONTINUE, FRESH, product
from .rows import clear, in_lines, inside, is_far, prefetch_run
from .simd import (
    fence,
    integers,
    lanes_of,
    load,
    load_integer,
    moved,
    pointer,
    store,
    store_integer,
    unpacked,
    vector_load_first,
    vector_store,
)
from .tiles import AROUND, ASKED
from .turning import transpose_block
from .work import claim

MR = tiling.FILTERS_MR
# Products of a sum that are added in order. Those beyond them are added as sums of KC of their own: with half as many
# in order, Winograd's algorithm would have 3 times the rounding of 2048>64 3x3.
IN_ORDER = 2 * tiling.DEPTH
# Products of a sum that take less time than its way to memory where caches do not hold y, and pixels that are asked for
# then, unless they are whole cache lines, which are written around the caches: 3>64@224 3x3 takes a third less time.
FEW_PRODUCTS, AHEAD = 48, 4 * MR


@dataclass(frozen=True)
class Blocking:
    """Sizes of the nest: MC filters, CB channels, KC products deep, and a block of images x rows x columns outputs."""

    MC: int
    CB: int
    KC: int
    images: int
    rows: int
    columns: int
    #: Whether x is read in place, `columns` pixels of all images one after the other.
    flat: bool
    #: Whether all taps of an output are one product.
    joined: bool
    #: Taps of a row that are one product, if not all are.
    taps: int
    #: Whether products with the padding are left out, if the weight is finite. Then not `joined`.
    skips: bool
    strip: int
    #: Elements from one pixel of the sums to the next, and of all sums.
    pitch: int
    sums: int
    #: Pixels that a list has room for.
    listed: int

    def scratch(self, itemsize: int) -> int:
        """Elements of scratch of a worker: the strip, a pixel's bias, the sums and two lists of pixels."""
        return self.strip + self.pitch + self.sums + 2 * self.listed * 8 // itemsize


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
    values = p.arguments() | {"panels": Address("panels"), "MC": b.MC, "CB": b.CB, "KC": b.KC}
    values |= {"flat": b.flat, "joined": b.joined, "taps_at_once": b.taps, "skips": b.skips}
    values |= {"images": b.images, "rows": b.rows, "columns": b.columns, "strip_size": b.strip, "pitch": b.pitch}
    values |= {"sums_size": b.sums, "listed": b.listed}
    packing = Launch(pack_vectors, PACK_VECTORS, values, p.groups * -(-p.F // lanes))
    pieces = p.groups * -(-p.F // b.MC) * blocks(p, b)
    return [packing, Launch(channels_last, LAST, values, pieces)]


LAST = (
    "record", "x", "x_n", "x_c", "x_h", "x_w", "H", "W", "panels", "bias", "bias_f", "y", "y_n", "y_f", "y_h", "y_w",
    "N", "OH", "OW", "groups", "C", "F", "KH", "KW", "stride_h", "stride_w", "offset_h", "offset_w",
    "dilation_h", "dilation_w", "MC", "CB", "KC", "flat", "joined", "taps_at_once", "skips", "images", "rows",
    "columns", "strip_size", "pitch", "sums_size", "listed", "accumulate", "scratch_size",
)  # fmt: skip
LAST_COUNT = len(LAST)


@NestKernel
def channels_last(scratch, arguments, worker):
    """C and F are those of one group; MC and pitch are multiples of lanes."""
    (
        _, x_address, x_n, x_c, x_h, x_w, H, W, panels_address, bias_address, bias_f, y_address, y_n, y_f, y_h, y_w,
        N, OH, OW, groups, C, F, KH, KW, stride_h, stride_w, offset_h, offset_w,
        dilation_h, dilation_w, MC, CB, KC, flat, joined, taps_at_once, skips, images, rows,
        columns, strip_size, pitch, sums_size, listed, accumulate, scratch_size,
    ) = unpacked(arguments, LAST_COUNT)  # fmt: skip
    x, y = pointer(x_address, scratch), pointer(y_address, scratch)
    panels, bias = pointer(panels_address, scratch), pointer(bias_address, scratch)
    lanes = lanes_of(scratch)
    strip = moved(scratch, worker * scratch_size)
    stage = moved(strip, strip_size)
    sums = moved(stage, pitch)
    read = integers(moved(sums, sums_size))
    written = moved(read, listed)
    blocks_h, blocks_w = (OH + rows - 1) // rows, (OW + columns - 1) // columns
    pixels = N * OH * OW
    blocks = (pixels + columns - 1) // columns if flat else (N + images - 1) // images * blocks_h * blocks_w
    f_blocks = (F + MC - 1) // MC
    taps = KH * KW
    b_block = C * taps * lanes
    start = BIASED if bias_address != 0 else FRESH
    far = is_far(pixels * groups * F, y)
    while True:
        piece = claim(arguments, worker)
        if piece >= groups * f_blocks * blocks:
            if far:
                fence()
            return 0
        group_block, block = divmod(piece, blocks)
        if groups > 1 and x_c == 1:
            block, group_block = divmod(piece, groups * f_blocks)
        group, f_block = divmod(group_block, f_blocks)
        f = f_block * MC
        filters = min(MC, F - f)
        vectors = (filters + lanes - 1) // lanes
        first = group * F + f
        b = moved(panels, (group * ((F + lanes - 1) // lanes) + f // lanes) * b_block)
        source = moved(x, group * C * x_c)
        out = moved(y, first * y_f)
        clear(stage, vectors * lanes)
        for i in range(filters if bias_address != 0 else 0):
            store(stage, i, load(bias, (first + i) * bias_f))
        if flat:
            n, oh, ow, depth_n, height = 0, 0, 0, 1, 1
            here = block * columns
            begin_of_y = here * y_w
            width = min(columns, pixels - here)
            source = moved(source, here * x_w)
        else:
            rest, block_w = divmod(block, blocks_w)
            block_n, block_h = divmod(rest, blocks_h)
            n, oh, ow = block_n * images, block_h * rows, block_w * columns
            depth_n, height, width = min(images, N - n), min(rows, OH - oh), min(columns, OW - ow)
            begin_of_y = n * y_n + oh * y_h + ow * y_w
            source = moved(source, n * x_n)
        out = moved(out, begin_of_y)
        strip_rows = (height - 1) * stride_h + max(0, KH - 1) * dilation_h + 1
        strip_columns = (width - 1) * stride_w + max(0, KW - 1) * dilation_w + 1
        count = depth_n * height * width
        # The last vector of a pixel may reach into the next pixel, which is written after it, if it is one of these.
        reaches = filters % lanes != 0
        one_run = (height == 1 or y_h == width * y_w) and (depth_n == 1 or y_n == height * y_h)
        follows = one_run and filters == y_w and vectors * lanes <= 2 * filters and taps * C <= KC
        whole = (flat or joined) and y_f == 1 and not accumulate and (not reaches or follows)
        steps = filters, y_w, y_h if height > 1 else 0, y_n if depth_n > 1 else 0
        around = far and whole and taps * C <= KC and in_lines(y_address, y, first + begin_of_y, steps)
        ahead = far and whole and not (flat or around) and taps * C <= FEW_PRODUCTS
        of_sums = height * width * pitch, width * pitch, pitch
        start_here = start + (AROUND if around else ASKED if whole else 0)
        begin, summed, listed_for = start, 0, (-1, -1, -1, -1, -1)
        for c in range(0, max(C, 1), CB):
            channels = min(CB, C - c)
            line = strip_columns * channels
            of_x = (0, 0, x_w) if flat else (strip_rows * line, stride_h * line, stride_w * channels)
            if channels > 0 and not flat:
                pack_pixels(
                    strip, channels, moved(source, c * x_c), x_n, x_c, x_h, x_w, H, W, depth_n, strip_rows,
                    strip_columns, channels, oh * stride_h + offset_h, ow * stride_w + offset_w,
                )  # fmt: skip
            if flat or joined:
                list_pixels(read, depth_n, 0, height, 0, width, of_x)
                list_pixels(written, depth_n, 0, height, 0, width, (y_n, y_h, y_w) if whole else of_sums)
                pixel, step = (source, x_c) if flat else (strip, 1)
                last = min(count, MR) if whole and reaches else 0  # which no others follow
                multiply_pixels(
                    count - last, ahead, vectors, taps * C, KC, KW * C, pixel, read, dilation_h * line, step,
                    b, b_block, out if whole else sums, written, start_here, stage,
                )  # fmt: skip
                if last > 0:
                    list_pixels(written, 1, 0, 1, 0, last, of_sums)
                    multiply_pixels(
                        last, False, vectors, taps * C, KC, KW * C, pixel, moved(read, count - last),
                        dilation_h * line, step, b, b_block, sums, written, start, stage,
                    )  # fmt: skip
                    end = moved(out, (count - last) * y_w)
                    unpack_pixels(sums, pitch, 0, last, end, y_n, y_f, y_h, y_w, 1, 1, last, filters, False)
                continue
            if skips and c == 0:  # no tap may be of all pixels
                list_pixels(written, depth_n, 0, height, 0, width, of_sums)
                product(count, vectors, 0, 1, strip, written, 0, 1, b, b_block, sums, written, lanes, start, stage)
                begin = CONTINUE
            for kh in range(KH):
                h = oh * stride_h + offset_h + kh * dilation_h
                low, high = inside(h, stride_h, H, height) if skips else (0, height)
                for kw in range(0, KW, taps_at_once):
                    stretch = min(taps_at_once, KW - kw) * channels
                    left, right = 0, width
                    if skips and taps_at_once == 1:
                        left, right = inside(ow * stride_w + offset_w + kw * dilation_w, stride_w, W, width)
                    if (low, high, left, right, channels) != listed_for:
                        listed_for = low, high, left, right, channels
                        list_pixels(read, depth_n, low, high, left, right, of_x)
                        list_pixels(written, depth_n, low, high, left, right, of_sums)
                    some = depth_n * max(0, high - low) * max(0, right - left)
                    tap = moved(strip, kh * dilation_h * line + kw * dilation_w * channels)
                    for k in range(0, stretch if some > 0 else 0, KC):
                        product(
                            some, vectors, min(KC, stretch - k), channels if dilation_w > 1 else stretch,
                            moved(tap, k), read, dilation_w * channels, 1, moved(b, k * lanes), b_block, sums, written,
                            lanes, mode_of(begin, summed + k), stage,
                        )  # fmt: skip
                    summed += stretch  # for pixels without this tap, too: what is added when depends on no block
                    b = moved(b, stretch * lanes)
        if not whole:
            unpack_pixels(
                sums, pitch, height * width * pitch, width, out, y_n, y_f, y_h, y_w, depth_n, height, width, filters,
                accumulate,
            )  # fmt: skip


@helper
def list_pixels(places, images, low, high, left, right, distances):
    """Where pixels (n, h, w) begin, of rows from low to high and columns from left to right of each image.

    The last one is listed MR times more: register tiles go beyond it, and compute the same once more.
    """
    image, line, step = distances
    count = 0
    for n in range(images):
        for h in range(low, high):
            for w in range(left, right):
                store_integer(places, count, n * image + h * line + w * step)
                count += 1
    for i in range(MR if count > 0 else 0):
        store_integer(places, count + i, load_integer(places, count - 1))


@inner
def multiply_pixels(
    count, ask, vectors, depth, KC, width, a, a_rows, a_block, a_step, b, b_block, c, c_rows, start, bias
):  # fmt: skip
    """The product of listed pixels, KC of its depth at a time, which begins as `start` has it.

    If `ask`, the next pixels of c are asked for ahead.
    """
    lanes = lanes_of(c)
    at_once = AHEAD if ask else max(count, 1)
    for done in range(0, count, at_once):
        rows, read, written = min(at_once, count - done), moved(a_rows, done), moved(c_rows, done)
        for r in range(rows, min(rows + AHEAD, count - done) if ask else 0):
            prefetch_run(moved(c, load_integer(written, r)), vectors * lanes)
        for k in range(0, max(depth, 1), KC):
            product(
                rows, vectors, min(KC, depth - k), max(width, 1), moved(a, k * a_step), read, a_block, a_step,
                moved(b, k * lanes), b_block, c, written, lanes, mode_of(start, k), bias,
            )  # fmt: skip


@helper
def mode_of(start, summed):
    """How further products join so many that are summed already."""
    if summed == 0:
        return start
    return CONTINUE if summed < IN_ORDER else ADD


PACK_VECTORS = (
    "record", "weight", "w_group", "w_row", "w_channel", "w_kh", "w_kw", "panels", "groups", "C", "F", "KH", "KW",
    "CB",
)  # fmt: skip
PACK_VECTORS_COUNT = len(PACK_VECTORS)


@NestKernel
def pack_vectors(scratch, arguments, worker):
    """Panels of `lanes` filters, [group][filter // lanes][c // CB][kh, kw, c % CB][filter % lanes]."""
    (
        _, weight_address, w_group, w_row, w_channel, w_kh, w_kw, panels_address, groups, C, F, KH, KW, CB,
    ) = unpacked(arguments, PACK_VECTORS_COUNT)  # fmt: skip
    weight, panels = pointer(weight_address, scratch), pointer(panels_address, scratch)
    lanes = lanes_of(scratch)
    blocks = (F + lanes - 1) // lanes
    if w_kh == KW * w_kw:  # taps that follow each other are one row of taps
        KH, KW = 1, KH * KW
    while True:
        piece = claim(arguments, worker)
        if piece >= groups * blocks:
            return 0
        group, block = divmod(piece, blocks)
        filters = min(lanes, F - block * lanes)
        panel = moved(panels, piece * C * KH * KW * lanes)
        if filters < lanes:
            clear(panel, C * KH * KW * lanes)
        for first in range(0, C, CB):
            channels = min(CB, C - first)
            for kh in range(KH):
                source = moved(weight, group * w_group + block * lanes * w_row + first * w_channel + kh * w_kh)
                pack_row_of_taps(panel, source, w_row, w_channel, w_kw, filters, channels, KW)
                panel = moved(panel, KW * channels * lanes)


@helper
def pack_row_of_taps(panel, weight, w_row, w_channel, w_kw, filters, channels, KW):
    """panel[(kw * channels + c) * lanes + r] = weight[r * w_row + c * w_channel + kw * w_kw] for r < filters."""
    lanes = lanes_of(panel)
    if w_row == 1:
        for k in range(KW * channels):
            kw, c = divmod(k, channels)
            vector_store(panel, k * lanes, vector_load_first(weight, kw * w_kw + c * w_channel, filters))
    elif KW > 1 and (w_kw == 1 or w_kw == -1):  # filters lie apart, taps together, forwards or backwards
        start, pitch = (0, channels * lanes) if w_kw == 1 else ((KW - 1) * channels * lanes, -channels * lanes)
        row = moved(weight, min(0, (KW - 1) * w_kw))
        for c in range(channels):
            for i in range(0, KW, lanes):
                out = moved(panel, start + c * lanes + i * pitch)
                transpose_block(out, pitch, moved(row, c * w_channel + i), w_row, filters, min(lanes, KW - i))
    elif KW == 1 and w_channel == 1:
        for c in range(0, channels, lanes):
            count = min(lanes, channels - c)
            transpose_block(moved(panel, c * lanes), lanes, moved(weight, c), w_row, filters, count)
    else:
        for k in range(KW * channels):
            kw, c = divmod(k, channels)
            for r in range(filters):
                store(panel, k * lanes + r, load(weight, kw * w_kw + c * w_channel + r * w_row))
