"""Forward pass with filters in the vector, as NHWC has them, or few channels in any layout.

    y[pixel, f] = bias[f] + sum over kh, kw, c of x[what (kh, kw) reads, c] * weight[f, c, kh, kw]

The product of :mod:`.forward` turned round: where the channels of a pixel lie together, pixels are broadcast. A row of
taps is then one stretch of memory.

    for a block of MC filters, and a block of output pixels:      one piece of work
        for a block of CB channels:                               so that several small images fit
            copy the rows of x that the pixels look at, padded    strip [row][column][c]
            short rows of taps:  for a row of outputs:            KH * KW * C products deep
                product                                           sums [pixel][filter] in scratch, or y itself
            long ones:  for a row of taps:                        KW * CB products deep, of all rows of outputs
                product                                           sums [pixel][filter] in scratch
        write the sums to y

A 1 x 1 kernel reads x where it lies. For long rows of taps the strip's are sorted by their remainder modulo the stride,
so that pixels of all rows of a block are at one distance; the few columns between rows are computed and not stored.
Where taps often meet the padding, each row of taps is multiplied only for the rows of outputs that read a pixel with
it, and each tap, where they lie apart, only for the columns that do.
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
from .product import ADD, BIASED, CONTINUE, FRESH, product, rows_read
from .rows import clear, inside, prefetch_run
from .simd import (
    lanes_of,
    load,
    moved,
    pointer,
    store,
    unpacked,
    vector_load_first,
    vector_store,
)
from .turning import transpose_block
from .work import claim

MR = tiling.FILTERS_MR
# Products of a sum that are added in order. Those beyond them are added as sums of KC of their own: with half as many
# in order, Winograd's algorithm would have 3 times the rounding of 2048>64 3x3.
IN_ORDER = 2 * tiling.DEPTH
# Products of a sum that take less time than its way to memory where there are so many elements of y that caches do not
# hold them, and pixels that are asked for then: 3>64@224 3x3 takes a third less time.
FEW_PRODUCTS, FAR, ASKED = 48, 8 << 20, 4 * MR


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
    #: Whether long rows of taps are multiplied for one row of outputs at a time.
    by_rows: bool
    #: Whether products with the padding are left out, if the weight is finite. Then `by_rows`.
    skips: bool
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
    values = p.arguments() | {"panels": Address("panels"), "MC": b.MC, "CB": b.CB, "KC": b.KC}
    values |= {"flat": b.flat, "row": b.row}
    values |= {"joined": b.joined, "by_rows": b.by_rows, "sorted_h": 1 if b.joined else p.stride[0]}
    values |= {"phases_h": 1} if b.joined else {}
    values |= {"images": b.images, "rows": b.rows, "columns": b.columns, "strip_size": b.strip, "pitch": b.pitch}
    values["skips"] = b.skips
    packing = Launch(pack_vectors, PACK_VECTORS, values, p.groups * -(-p.F // lanes))
    pieces = p.groups * -(-p.F // b.MC) * blocks(p, b)
    return [packing, Launch(channels_last, LAST, values, pieces)]


LAST = (
    "record", "x", "x_n", "x_c", "x_h", "x_w", "H", "W", "panels", "bias", "bias_f", "y", "y_n", "y_f", "y_h", "y_w",
    "N", "OH", "OW", "groups", "C", "F", "KH", "KW", "stride_h", "stride_w", "offset_h", "offset_w",
    "dilation_h", "dilation_w", "phases_h", "sorted_h", "reach_h", "MC", "CB", "KC", "flat", "joined", "by_rows", "row",
    "images", "rows", "columns", "strip_size", "pitch", "skips", "accumulate", "scratch_size",
)  # fmt: skip
LAST_COUNT = len(LAST)


@NestKernel
def channels_last(scratch, arguments, worker):
    """C and F are those of one group; MC and pitch are multiples of lanes."""
    (
        _, x_address, x_n, x_c, x_h, x_w, H, W, panels_address, bias_address, bias_f, y_address, y_n, y_f, y_h, y_w,
        N, OH, OW, groups, C, F, KH, KW, stride_h, stride_w, offset_h, offset_w,
        dilation_h, dilation_w, phases_h, sorted_h, reach_h, MC, CB, KC, flat, joined, by_rows, row, images, rows,
        columns, strip_size, pitch, skips, accumulate, scratch_size,
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
    start = BIASED if bias_address != 0 else FRESH
    far = not flat and taps * C <= FEW_PRODUCTS and pixels * groups * F >= FAR
    while True:
        piece = claim(arguments, worker)
        if piece >= groups * f_blocks * blocks:
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
        # The last vector of a pixel may reach into the next pixel, and no further, which is written after it.
        reaches = filters % lanes != 0
        alone = filters == y_w and vectors * lanes <= 2 * filters and taps * C <= KC
        writable = y_f == 1 and not accumulate and (not reaches or alone)
        if flat:
            n, oh, ow, depth_n, height = 0, 0, 0, 1, 1
            here = block * columns
            width = min(columns, pixels - here)
            source, out, in_row = moved(source, here * x_w), moved(out, here * y_w), width
        else:
            rest, block_w = divmod(block, blocks_w)
            block_n, block_h = divmod(rest, blocks_h)
            n, oh, ow = block_n * images, block_h * rows, block_w * columns
            depth_n, height, width = min(images, N - n), min(rows, OH - oh), min(columns, OW - ow)
            source, out, in_row = moved(source, n * x_n), moved(out, n * y_n + oh * y_h + ow * y_w), W
        in_place = flat and width >= MR  # or a register tile would read beyond the last pixel
        strip_rows, row_pixels = height + reach_h, row - columns + width
        if joined:
            strip_rows = (height - 1) * stride_h + max(0, KH - 1) * dilation_h + 1
        whole = (flat or joined) and writable and width >= MR
        # All rows of outputs at once, with the columns between them, or one by one, with what a register tile adds.
        lines_of_sums, sum_rows, sum_pixels = 1, strip_rows, row_pixels
        count = ((depth_n - 1) * strip_rows + height - 1) * row_pixels + width
        if by_rows:
            lines_of_sums, sum_rows, sum_pixels, count = depth_n * height, height, rows_read(width), width
        apart = 1 if dilation_w == 1 else KW  # how many stretches a row of taps is
        summed, begin = 0, start
        for c in range(0, max(C, 1), CB):
            channels = min(CB, C - c)
            line = row_pixels * stride_w * channels
            plane = depth_n * strip_rows * line
            for a in range(0 if in_place or channels == 0 else phases_h):
                # The rows of one remainder are rows of an image that is sorted_h times as steep.
                top = oh * stride_h + offset_h + a * dilation_h % sorted_h
                steep, remainder = divmod(top, sorted_h)
                pack_pixels(
                    moved(strip, a * plane), channels, moved(source, remainder * x_h + c * x_c), x_n, x_c,
                    sorted_h * x_h, x_w, (H - remainder + sorted_h - 1) // sorted_h, in_row, depth_n, strip_rows,
                    row_pixels * stride_w, channels, steep, ow * stride_w + offset_w,
                )  # fmt: skip
            # What the last register tile reads behind the last pixel is 0, and not what was in old memory.
            clear(moved(strip, phases_h * plane), 0 if in_place else MR * stride_w * channels)
            if flat or joined:
                pixel_step, step = (x_w, x_c) if in_place else (stride_w * C, 1)
                for i in range(depth_n * height):
                    image, h = divmod(i, height)
                    total = moved(out, image * y_n + h * y_h) if whole else moved(sums, i * width * pitch)
                    pixel = source if in_place else moved(strip, (image * strip_rows + h * stride_h) * line)
                    copied = MR if whole and reaches else 0  # the last pixels have no next ones
                    multiply_pixels(
                        (width - 1) // MR * MR if copied else width, whole or in_place, whole and far, vectors,
                        taps * C, KC, KW * C, pixel, pixel_step, dilation_h * line, step, b, b_block, total,
                        y_w if whole else pitch, start, stage,
                    )  # fmt: skip
                    if copied:
                        multiply_pixels(
                            MR, True, False, vectors, taps * C, KC, KW * C, moved(pixel, (width - MR) * pixel_step),
                            pixel_step, dilation_h * line, step, b, b_block, sums, pitch, start, stage,
                        )  # fmt: skip
                        unpack_pixels(
                            sums, pitch, 0, MR, moved(total, (width - MR) * y_w), y_n, y_f, y_h, y_w, 1, 1, MR, filters,
                            False,
                        )  # fmt: skip
                continue
            stretch = KW // apart * channels
            if skips and c == 0:  # no tap may be of all outputs
                for v in range(lines_of_sums):
                    total = moved(sums, v * sum_pixels * pitch)
                    product(count, vectors, 0, 1, strip, 0, 0, 1, b, b_block, total, pitch, lanes, start, stage)
                begin = CONTINUE
            for a in range(phases_h):
                row_step = phases_h * dilation_h // stride_h * line
                base = a * plane + a * dilation_h // stride_h * line
                for t in range((KH - a + phases_h - 1) // phases_h * apart):
                    i, kw = divmod(t, apart)
                    top = moved(strip, base + i * row_step + kw * dilation_w * channels)
                    low, high, left, pixels_of_line = 0, height, 0, count
                    if skips:
                        h, w = oh * stride_h + offset_h + (a + i * phases_h) * dilation_h, ow * stride_w + offset_w
                        low, high = inside(h, stride_h, H, height)
                        if apart > 1:
                            left, right = inside(w + kw * dilation_w, stride_w, W, width)
                            pixels_of_line = right - left
                            # Tiles go beyond it to pixels that read zeros of the padding, and not to the next row.
                            left = max(0, min(left, sum_pixels - rows_read(pixels_of_line)))
                    for k in range(0, stretch if pixels_of_line > 0 else 0, KC):
                        deep = min(KC, stretch - k)
                        mode = mode_of(begin, summed)
                        for v in range(lines_of_sums):
                            image, h = divmod(v, height)
                            if skips and (h < low or h >= high):
                                continue
                            pixel = moved(top, (image * strip_rows + h) * line + left * stride_w * channels + k)
                            total = moved(sums, (v * sum_pixels + left) * pitch)
                            product(
                                pixels_of_line, vectors, deep, KC, pixel, stride_w * channels, 0, 1,
                                moved(b, k * lanes), b_block, total, pitch, lanes, mode, stage,
                            )  # fmt: skip
                        summed += deep
                    b = moved(b, stretch * lanes)
        if flat or joined:
            sum_rows, sum_pixels = height, width
        if not whole:
            unpack_pixels(
                sums, pitch, sum_rows * sum_pixels * pitch, sum_pixels, out, y_n, y_f, y_h, y_w, depth_n, height, width,
                filters, accumulate,
            )  # fmt: skip


@inner
def multiply_pixels(
    count, exact, ask, vectors, depth, KC, width, a, a_row, a_block, a_step, b, b_block, c, c_row, start, bias
):  # fmt: skip
    """c[:count, :vectors * lanes] the product, KC of its depth at a time, which begins as `start` has it.

    If `exact`, which takes MR pixels or more, neither a nor c is touched beyond the last pixel: the last register tile
    ends with it, and computes some pixels again. If `ask`, the next pixels of c are asked for ahead.
    """
    lanes = lanes_of(c)
    whole = count // MR * MR if exact else count
    at_once = ASKED if ask else count + MR
    done = 0
    while done < count:
        rows = min(at_once, whole - done) if done < whole else rows_read(count - whole)
        first = min(done, count - rows)
        for r in range(first + rows, min(first + rows + ASKED, count) if ask else 0):
            prefetch_run(moved(c, r * c_row), vectors * lanes)
        for k in range(0, max(depth, 1), KC):
            deep = min(KC, depth - k)
            product(
                rows, vectors, deep, max(width, 1), moved(a, first * a_row + k * a_step), a_row, a_block, a_step,
                moved(b, k * lanes), b_block, moved(c, first * c_row), c_row, lanes, mode_of(start, k), bias,
            )  # fmt: skip
        done = first + rows


@helper
def mode_of(start, summed):
    """How further products join so many that are summed already."""
    if summed == 0:
        return start
    return CONTINUE if summed < IN_ORDER else ADD


PACK_VECTORS = (
    "record", "weight", "w_group", "w_row", "w_channel", "w_kh", "w_kw", "panels", "groups", "C", "F", "KH", "KW",
    "phases_h", "CB",
)  # fmt: skip
PACK_VECTORS_COUNT = len(PACK_VECTORS)


@NestKernel
def pack_vectors(scratch, arguments, worker):
    """Panels of `lanes` filters, [group][filter // lanes][c // CB][kh, kw, c % CB][filter % lanes].

    kh is sorted by phase.
    """
    (
        _, weight_address, w_group, w_row, w_channel, w_kh, w_kw, panels_address, groups, C, F, KH, KW, phases_h, CB,
    ) = unpacked(arguments, PACK_VECTORS_COUNT)  # fmt: skip
    weight, panels = pointer(weight_address, scratch), pointer(panels_address, scratch)
    lanes = lanes_of(scratch)
    blocks = (F + lanes - 1) // lanes
    if phases_h == 1 and w_kh == KW * w_kw:  # taps that follow each other are one row of taps
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
            for a in range(phases_h):
                for kh in range(a, KH, phases_h):
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
