"""Forward pass with filters in the vector: as NHWC has them, and where turning x and y costs less than it saves.

    y[pixel, f] = bias[f] + sum over kh, kw, c of x[what (kh, kw) reads, c] * weight[f, c, kh, kw]

The product of :mod:`.forward` turned round: where the channels of a pixel lie together, pixels are broadcast. A row of
taps is then one stretch of memory.

    for a block of MC filters, and a block of output pixels:      one piece of work
        list where they begin in x and in the sums                lists
        for a block of CB channels:                               so that several small images fit
            copy the rows of x that the pixels look at, padded    strip [row][column][c]
            for a part of the problem:                            one for y, the phases of dx at a stride
                short rows of taps:                               KH * KW * C products deep
                    product                                       sums [pixel][filter] in scratch, or y itself
                long ones:  for a row of taps:                    KW * CB products deep
                    product                                       sums [pixel][filter] in scratch
        write the sums to y

A 1 x 1 kernel reads x where it lies. Register tiles take pixels from the list, whatever rows they are of, so that short
rows leave none of them half empty. Where taps often meet the padding, each row of taps, or each tap, is multiplied only
for the pixels that it reads no padding for, which are a list of their own. The phases of dx read one copy of dy, and
list where their pixels are among those of all: what they leave in scratch is turned and written in whole rows, where
each alone would write its pixels one by one. With 16 channels a group that takes 0.4 to 0.6 of the time.
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
from .problem import Pixels, Product
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
)
from .tiles import AROUND, ASKED
from .weight_vectors import Tap, packing, panel_elements, places_of_taps
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


def launches(whole: Product, parts: list[Product], b: Blocking, lanes: int) -> tuple[list[Launch], int]:
    """Pack the weight of each part, then multiply; and the elements of the packed weight.

    `whole` and `parts` as in :func:`.problem.together`, their dilation positive.
    """
    pixels = whole.pixels or Pixels((0, 0), (1, 1), (whole.OH, whole.OW))
    values = whole.arguments() | {"parts": len(parts), "MC": b.MC, "CB": b.CB, "KC": b.KC}
    values |= dict(zip(("every_h", "every_w", "every_OH", "every_OW"), pixels.every + pixels.extents, strict=True))
    values |= {"flat": b.flat, "joined": b.joined, "taps_at_once": b.taps, "skips": b.skips}
    values |= {"images": b.images, "rows": b.rows, "columns": b.columns, "strip_size": b.strip, "pitch": b.pitch}
    values |= {"sums_size": b.sums, "listed": b.listed}
    names, taps, panels = LAST, [], 0
    for i, p in enumerate(parts):
        here, places = Address("panels", panels), places_of_taps(p)
        taps += [Tap(place, panels // lanes, len(places), index) for index, place in enumerate(places)]
        panels += panel_elements(p, lanes)
        first_h, first_w = p.pixels.first if p.pixels else (0, 0)
        part = p.arguments() | {"first_h": first_h, "first_w": first_w, "panels": here}
        names += tuple(f"{name} {i}" for name in PART)
        values |= {f"{name} {i}": part[name] for name in PART}
    pieces = whole.groups * -(-whole.F // b.MC) * blocks(whole, b)
    packed = [packing(whole, taps, b.CB, 1, lanes)] if panels > 0 else []
    return [*packed, Launch(channels_last, names, values, pieces)], panels


LAST = (
    "record", "x", "x_n", "x_c", "x_h", "x_w", "H", "W", "bias", "bias_f", "y", "y_n", "y_f", "y_h", "y_w",
    "N", "OH", "OW", "groups", "C", "F", "KH", "KW", "stride_h", "stride_w", "offset_h", "offset_w",
    "dilation_h", "dilation_w", "every_h", "every_w", "every_OH", "every_OW", "parts", "MC", "CB", "KC", "flat",
    "joined", "taps_at_once", "skips", "images", "rows", "columns", "strip_size", "pitch", "sums_size", "listed",
    "accumulate", "scratch_size",
)  # fmt: skip
LAST_COUNT = len(LAST)
# Of each part, behind these.
PART = "OH", "OW", "KH", "KW", "offset_h", "offset_w", "first_h", "first_w", "panels"
PART_COUNT = len(PART)


@NestKernel
def channels_last(scratch, arguments, worker):
    """C and F are those of one group; MC and pitch are multiples of lanes.

    Output (oh, ow) of a part is pixel (oh * every_h + first_h, ow * every_w + first_w) of y.
    """
    (
        _, x_address, x_n, x_c, x_h, x_w, H, W, bias_address, bias_f, y_address, y_n, y_f, y_h, y_w,
        N, OH, OW, groups, C, F, KH, KW, stride_h, stride_w, offset_h, offset_w,
        dilation_h, dilation_w, every_h, every_w, every_OH, every_OW, parts, MC, CB, KC, flat,
        joined, taps_at_once, skips, images, rows, columns, strip_size, pitch, sums_size, listed,
        accumulate, scratch_size,
    ) = unpacked(arguments, LAST_COUNT)  # fmt: skip
    x, y, bias = pointer(x_address, scratch), pointer(y_address, scratch), pointer(bias_address, scratch)
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
    start = BIASED if bias_address != 0 else FRESH
    far = is_far(N * every_OH * every_OW * groups * F, y)
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
        panel = group * ((F + lanes - 1) // lanes) + f // lanes
        source = moved(x, group * C * x_c)
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
            begin_of_y = n * y_n + oh * every_h * y_h + ow * every_w * y_w
            source = moved(source, n * x_n)
        out = moved(y, first * y_f + begin_of_y)
        strip_rows = (height - 1) * stride_h + max(0, KH - 1) * dilation_h + 1
        strip_columns = (width - 1) * stride_w + max(0, KW - 1) * dilation_w + 1
        # All pixels of y between the first and the last that the parts have.
        all_rows, all_columns = height, width
        if not flat:
            all_rows = min(height * every_h, every_OH - oh * every_h)
            all_columns = min(width * every_w, every_OW - ow * every_w)
        # The last vector of a pixel may reach into the next pixel, which is written after it, if it is one of these.
        reaches = filters % lanes != 0
        one_run = (height == 1 or y_h == width * y_w) and (depth_n == 1 or y_n == height * y_h)
        follows = one_run and filters == y_w and vectors * lanes <= 2 * filters and KH * KW * C <= KC and parts == 1
        whole = (flat or joined) and y_f == 1 and not accumulate and (not reaches or follows)
        steps = filters, y_w, y_h if all_rows > 1 else 0, y_n if depth_n > 1 else 0
        around = far and whole and KH * KW * C <= KC and in_lines(y_address, y, first * y_f + begin_of_y, steps)
        ahead = far and whole and not (flat or around) and KH * KW * C <= FEW_PRODUCTS
        start_here = start + (AROUND if around else ASKED if whole else 0)
        row_of_sums, image_of_sums = all_columns * pitch, all_rows * all_columns * pitch
        row_to, pixel_to = (every_h * y_h, every_w * y_w) if whole else (every_h * row_of_sums, every_w * pitch)
        of_y = y_n if whole else image_of_sums, row_to, pixel_to
        for c in range(0, max(C, 1), CB):
            channels = min(CB, C - c)
            line = strip_columns * channels
            of_x = (0, 0, x_w) if flat else (strip_rows * line, stride_h * line, stride_w * channels)
            if channels > 0 and not flat:
                pack_pixels(
                    strip, channels, moved(source, c * x_c), x_n, x_c, x_h, x_w, H, W, depth_n, strip_rows,
                    strip_columns, channels, oh * stride_h + offset_h, ow * stride_w + offset_w,
                )  # fmt: skip
            for part in range(parts):
                part_OH, part_OW, taps_h, taps_w, top, left, first_h, first_w, panels_address = unpacked(
                    moved(arguments, LAST_COUNT + part * PART_COUNT), PART_COUNT
                )
                if not flat:
                    height, width = min(rows, part_OH - oh), min(columns, part_OW - ow)
                if height <= 0 or width <= 0:
                    continue
                taps, count = taps_h * taps_w, depth_n * height * width
                b_block = C * taps * lanes
                b = moved(pointer(panels_address, scratch), panel * b_block + c * taps * lanes)
                pixel, step = (source, x_c) if flat else (strip, 1)
                if not flat:
                    pixel = moved(strip, (top - offset_h) * line + (left - offset_w) * channels)
                to = moved(out, first_h * y_h + first_w * y_w)
                if not whole:
                    to = moved(sums, first_h * row_of_sums + first_w * pitch)
                if flat or joined:
                    list_pixels(read, depth_n, 0, height, 0, width, of_x)
                    list_pixels(written, depth_n, 0, height, 0, width, of_y)
                    last = min(count, MR) if whole and reaches else 0  # which no others follow
                    multiply_pixels(
                        count - last, ahead, vectors, taps * C, KC, taps_w * C, pixel, read, dilation_h * line, step,
                        b, b_block, to, written, start_here, stage,
                    )  # fmt: skip
                    if last > 0:
                        list_pixels(written, 1, 0, 1, 0, last, (0, 0, pitch))
                        multiply_pixels(
                            last, False, vectors, taps * C, KC, taps_w * C, pixel, moved(read, count - last),
                            dilation_h * line, step, b, b_block, sums, written, start, stage,
                        )  # fmt: skip
                        end = moved(out, (count - last) * y_w)
                        unpack_pixels(sums, pitch, 0, last, end, y_n, y_f, y_h, y_w, 1, 1, last, filters, False)
                    continue
                begin, summed, listed_for = start, c * taps, (-1, -1, -1, -1)
                if skips or taps == 0:  # no tap may be of all pixels
                    begin = CONTINUE
                    if c == 0:
                        list_pixels(written, depth_n, 0, height, 0, width, of_y)
                        product(
                            count, vectors, 0, 1, strip, written, 0, 1, b, b_block, to, written, lanes, start, stage
                        )
                for kh in range(taps_h):
                    h = oh * stride_h + top + kh * dilation_h
                    low, high = inside(h, stride_h, H, height) if skips else (0, height)
                    for kw in range(0, taps_w, taps_at_once):
                        stretch = min(taps_at_once, taps_w - kw) * channels
                        first_column, end_column = 0, width
                        if skips and taps_at_once == 1:
                            w = ow * stride_w + left + kw * dilation_w
                            first_column, end_column = inside(w, stride_w, W, width)
                        if (low, high, first_column, end_column) != listed_for:
                            listed_for = low, high, first_column, end_column
                            list_pixels(read, depth_n, low, high, first_column, end_column, of_x)
                            list_pixels(written, depth_n, low, high, first_column, end_column, of_y)
                        some = depth_n * max(0, high - low) * max(0, end_column - first_column)
                        tap = moved(pixel, kh * dilation_h * line + kw * dilation_w * channels)
                        for k in range(0, stretch if some > 0 else 0, KC):
                            product(
                                some, vectors, min(KC, stretch - k), channels if dilation_w > 1 else stretch,
                                moved(tap, k), read, dilation_w * channels, 1, moved(b, k * lanes), b_block, to,
                                written, lanes, mode_of(begin, summed + k), stage,
                            )  # fmt: skip
                        summed += stretch  # for pixels without this tap, too: what is added when depends on no block
                        b = moved(b, stretch * lanes)
        if not whole:
            unpack_pixels(
                sums, pitch, image_of_sums, all_columns, out, y_n, y_f, y_h, y_w, depth_n, all_rows, all_columns,
                filters, accumulate,
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
