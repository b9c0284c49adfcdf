"""Forward pass: y[f, pixel] = bias[f] + sum over c, kh, kw of weight[f, c, kh, kw] * x[c, what (kh, kw) reads].

A product of F x K and K x pixels, K = (c, kh, kw): the weight is `a`, a padded strip of x is `b`.

    for a block of MC filters, and a block of output pixels:  one piece of work
        for a block of KC channels:                           so that the strip or the panel stays in L2
            pack the rows of x that the pixels look at        strip [c][row][column]
            many filters: copy each tap out of it             panel [c, kh, kw][pixel]
            for a panel of MR filters:                        so that its sums are in L1 when they are written
                product                                       sums [filter][pixel] in scratch, or y itself
                last channels: add the bias and write the sums to y

The strip's rows are as long as the sums', so that tap (kh, kw) of pixel j is element j + table[kh, kw] of a channel.
Between the rows lie KW - 1 columns that are computed and not stored. With many filters those would cost more than a
copy of the strip for each tap, without them: a panel. A 1 x 1 kernel with few filters, which would read a copy once or
twice, reads x itself.

A filter whose taps and channels follow each other is a row of `a` as it lies. Others are packed, as those of the input
gradient, where filters and channels have changed places: ahead, or by a piece where few pieces read them.

Pieces write different filters or pixels of y, and the order of each sum is that of K, whoever claims the
piece: the same bits for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from . import tiling
from .gemm import ADD, BIASED, EXACT_ROWS, FRESH, multiply_panel
from .jit import helper
from .launch import Address, Launch, NestKernel
from .packing import add_bias, compress_taps, pack_strip, place_of_tap, unpack_sums
from .problem import Product
from .rows import in_lines, is_far
from .simd import fence, integers, lanes_of, moved, pointer, store_integer, unpacked
from .tiles import AROUND, ASKED
from .weight_panels import pack_filters_side_by_side, pack_weight_panel, packing, panel_elements
from .work import claim

MR = tiling.MR


@dataclass(frozen=True)
class Blocking:
    """Sizes of the nest: MC filters and KC channels, and a block of outputs.

    A block is images x rows x columns pixels, each of `batch` images where the batch lies together in memory.
    """

    MC: int
    KC: int
    images: int
    rows: int
    columns: int
    batch: int
    #: Elements from one channel of the strip, and from one filter of the sums, to the next.
    strip_pitch: int
    pitch: int
    #: Whether the weight is read where it lies, but for last rows that no register tile ends with.
    weight_in_place: bool
    #: Whether it is packed ahead, for all pieces of work; by each piece, if neither.
    packed: bool
    #: Whether blocks are `columns` pixels of all images one after the other, as a 1 x 1 kernel sees them.
    flat: bool
    #: Channels of the strip whose taps are copied to the panel at a time; 0 for no panel.
    group: int
    #: Filters that a piece packs at a time, whole panels.
    at_once: int
    #: Elements of x among which blocks read whole vectors where they lie, as a 1 x 1 kernel can; 0 for none.
    x_in_place: int

    def sums(self, p: Product) -> int:
        """Elements of sums: of one panel of filters where no other channels follow, of a block of filters else."""
        return (MR if self.KC >= p.C else self.MC) * self.pitch

    def scratch(self, p: Product) -> int:
        """Elements of scratch of a worker."""
        table = 2 * p.KH * p.KW
        ready = self.packed or (self.weight_in_place and p.F % MR in EXACT_ROWS)
        packed = 0 if ready else self.at_once * self.KC * p.KH * p.KW
        panel = self.KC * p.KH * p.KW * self.pitch + self.pitch if self.group else 0
        return table + self.sums(p) + packed + panel + (self.group or self.KC) * self.strip_pitch


def launches(products: list[tuple[Product, Blocking]]) -> list[Launch]:
    """Pack the weight, if it is packed ahead, then multiply: one problem, or all parts of one kernel."""
    multiplying = []
    for p, b in products:
        values = p.arguments() | {"panels": 0, "packed": b.packed, "weight_in_place": b.weight_in_place}
        if b.packed:
            before = p.part.before() if p.part else 0
            values["panels"] = Address("panels", before * panel_elements(p, 1))
        values |= {"MC": b.MC, "KC": b.KC, "images": b.images, "rows": b.rows, "columns": b.columns, "batch": b.batch}
        values |= {"strip_pitch": b.strip_pitch, "pitch": b.pitch, "flat": b.flat, "group_size": b.group}
        values |= {"x_in_place": b.x_in_place, "at_once": b.at_once}
        multiplying.append(Launch(forward, FORWARD, values, p.groups * -(-p.F // b.MC) * blocks(p, b)))
    packed = [p for p, b in products if b.packed and p.C > 0]
    return ([packing(packed[0])] if packed else []) + multiplying


def blocks(p: Product, b: Blocking) -> int:
    """Blocks of output pixels."""
    if b.flat:
        return -(-p.N * p.OW // b.columns)
    steps = (p.N, b.images * b.batch), (p.OH, b.rows), (p.OW, b.columns)
    return prod(-(-extent // step) for extent, step in steps)


FORWARD = (
    "record", "x", "x_n", "x_c", "x_h", "x_w", "H", "W", "weight", "w_group", "w_row", "w_channel", "w_kh", "w_kw",
    "panels", "bias", "bias_f", "y", "y_n", "y_f", "y_h", "y_w", "N", "OH", "OW", "groups", "C", "F", "KH", "KW",
    "stride_h", "stride_w", "offset_h", "offset_w", "dilation_h", "dilation_w", "phases_h", "phases_w",
    "reach_h", "reach_w", "MC", "KC", "images", "rows", "columns", "batch", "strip_pitch", "pitch", "packed",
    "weight_in_place", "flat", "group_size", "at_once", "x_in_place", "accumulate", "scratch_size",
)  # fmt: skip
FORWARD_COUNT = len(FORWARD)


@NestKernel
def forward(scratch, arguments, worker):
    """C and F are those of one group; KC counts channels."""
    (
        _, x_address, x_n, x_c, x_h, x_w, H, W, weight_address, w_group, w_row, w_channel, w_kh, w_kw,
        panels_address, bias_address, bias_f, y_address, y_n, y_f, y_h, y_w, N, OH, OW, groups, C, F, KH, KW,
        stride_h, stride_w, offset_h, offset_w, dilation_h, dilation_w, phases_h, phases_w,
        reach_h, reach_w, MC, KC, images, rows, columns, batch, strip_pitch, pitch, packed, weight_in_place, flat,
        group_size, at_once, x_in_place, accumulate, scratch_size,
    ) = unpacked(arguments, FORWARD_COUNT)  # fmt: skip
    x, y = pointer(x_address, scratch), pointer(y_address, scratch)
    weight, panels, bias = (
        pointer(weight_address, scratch),
        pointer(panels_address, scratch),
        pointer(bias_address, scratch),
    )
    taps, lanes = KH * KW, lanes_of(y)
    sums = moved(scratch, worker * scratch_size)
    # Whole cache lines first: the product reads aligned vectors where the taps allow it.
    panel = moved(sums, (MR if KC >= C else MC) * pitch)
    strip = moved(panel, (KC * taps + 1) * pitch if group_size else 0)
    behind = moved(strip, (group_size if group_size else KC) * strip_pitch)
    # The last one has no room where a piece packs no weight.
    table, a_panel = integers(behind), moved(behind, 2 * taps)
    # Taps walk up from the lowest row and column, or down to it where the dilation is negative.
    base_h, base_w = min(0, (KH - 1) * dilation_h), min(0, (KW - 1) * dilation_w)
    blocks_n, blocks_h = (N + images * batch - 1) // (images * batch), (OH + rows - 1) // rows
    blocks_w = (OW + columns - 1) // columns
    blocks = (N * OW + columns - 1) // columns if flat else blocks_n * blocks_h * blocks_w
    f_blocks = (F + MC - 1) // MC
    a_pitch = C * taps * MR
    group_pitch = (F + MR - 1) // MR * a_pitch
    table_of = -1, -1, -1
    far = is_far(N * groups * F * OH * OW, y)
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
        rest, block_w = divmod(block, blocks_w)
        block_n, block_h = divmod(rest, blocks_h)
        n, oh, ow = block_n * images * batch, block_h * rows, block_w * columns
        depth = min(images, N - n) if batch == 1 else 1
        together = 1 if batch == 1 else min(batch, N - n)
        height, width = min(rows, OH - oh), min(columns, OW - ow)
        if flat:
            n, ow = divmod(block * columns, OW)
            depth, height, width = 1, 1, min(columns, N * OW - block * columns)
        strip_rows, strip_columns = height + reach_h, width + reach_w
        plane = depth * strip_rows * strip_columns * together
        if (plane, strip_columns, together) != table_of:  # the divisions take as long as a small block's products
            table_of = plane, strip_columns, together
            for kh in range(KH):
                for kw in range(KW):
                    place = place_of_tap(
                        kh, kw, kh * dilation_h - base_h, kw * dilation_w - base_w, phases_h, phases_w, stride_h,
                        stride_w, plane, strip_columns, together,
                    )  # fmt: skip
                    store_integer(table, kh * KW + kw, place)
        # The sums of a strip have its rows, those of a panel the rows of the output.
        sum_rows, sum_columns = (height, width) if group_size else (strip_rows, strip_columns)
        count = (((depth - 1) * sum_rows + height - 1) * sum_columns + width) * together
        # Whole tiles of stretches of y go where they belong, which their multiply-adds have time for.
        runs, run = depth * height, width
        if depth == 1 and sum_columns == width and (height == 1 or y_h == width):
            runs, run = 1, count
        in_place = C <= KC and y_w == together == 1 and run % lanes == 0 and ow + width <= OW and not accumulate
        steps = y_f, run, y_h if runs > 1 else 0, y_n if runs > 1 else 0
        around = far and in_place and in_lines(y_address, y, n * y_n + oh * y_h + ow, steps)
        f = f_block * MC
        filters = min(MC, F - f)
        first = group * F + f
        for c in range(0, max(C, 1), KC):
            channels = min(KC, C - c)
            source = moved(x, (group * C + c) * x_c)
            step = group_size if group_size else max(channels, 1)
            # The last vector reads into the next channel, which the last one of all does not have.
            end_of_x = n * x_n + (group * C + c + channels - 1) * x_c + ow + (width + lanes - 1) // lanes * lanes
            unpacked_x = 0 < x_in_place and end_of_x <= x_in_place
            for g in range(0, 0 if unpacked_x else channels, step):
                here = min(step, channels - g)
                done = 0
                while done < width:
                    image, left, part = part_of(flat, n, ow, OW, done, width)
                    pack_strip(
                        moved(strip, done), strip_pitch, moved(source, image * x_n + g * x_c), x_n, x_c, x_h, x_w, H, W,
                        here, phases_h, phases_w, stride_h, stride_w, -base_h, -base_w, dilation_h, dilation_w,
                        depth, strip_rows, part + reach_w, together, oh * stride_h + offset_h + base_h,
                        left * stride_w + offset_w + base_w,
                    )  # fmt: skip
                    done += part
                for i in range(here if group_size else 0):
                    compress_taps(
                        moved(panel, (g + i) * taps * pitch), pitch, moved(strip, i * strip_pitch), table, taps, depth,
                        height, width, strip_rows, strip_columns,
                    )  # fmt: skip
            b, rows_of_b, taps_of_b, b_pitch = strip, channels, taps, strip_pitch
            if unpacked_x:
                b, b_pitch = moved(source, n * x_n + ow), x_c
            elif group_size:
                b, rows_of_b, taps_of_b, b_pitch = panel, channels * taps, 1, pitch
            a = moved(panels, group * group_pitch + f // MR * a_pitch + c * taps * MR)
            for r in range(0, filters, MR):
                rows_of_a = min(MR, filters - r)
                a_row, a_step = 1, MR
                if not packed:
                    a = moved(weight, group * w_group + (f + r) * w_row + c * w_channel)
                    if weight_in_place and (rows_of_a == MR or rows_of_a in EXACT_ROWS):
                        a_row, a_step = w_row, 1
                    else:
                        if at_once == MR:
                            pack_weight_panel(a_panel, rows_of_a, a, w_row, w_channel, w_kh, w_kw, channels, KH, KW)
                        elif r % at_once == 0:
                            here = min(at_once, filters - r)
                            pack_filters_side_by_side(a_panel, channels * MR, here, a, w_channel, channels)
                        a = moved(a_panel, r % at_once * channels)
                total, total_pitch = moved(sums, r * pitch if KC < C else 0), pitch
                mode, bias_of_a = FRESH if c == 0 else ADD, moved(bias, (first + r) * bias_f)
                whole = in_place and rows_of_a == MR
                if whole:
                    total, total_pitch = moved(y, n * y_n + (first + r) * y_f + oh * y_h + ow), y_f
                    mode = (FRESH if bias_address == 0 else BIASED) + (AROUND if around else ASKED)
                for v in range(runs if whole else 1):
                    image, h = divmod(v, height)
                    multiply_panel(
                        rows_of_a, run if whole else count, rows_of_b, taps_of_b, table, a, a_row, a_step,
                        moved(b, (image * sum_rows + h) * sum_columns), b_pitch,
                        moved(total, image * y_n + h * y_h), total_pitch, mode, bias_of_a, bias_f,
                    )  # fmt: skip
                a = moved(a, a_pitch)
                if whole or c + KC < C:
                    continue
                if bias_address != 0:
                    add_bias(total, pitch, rows_of_a, count, bias_of_a, bias_f)
                done = 0
                while done < width:
                    image, left, part = part_of(flat, n, ow, OW, done, width)
                    out = moved(y, image * y_n + (first + r) * y_f + oh * y_h + left * y_w)
                    row = part if flat else sum_columns
                    unpack_sums(
                        moved(total, done), pitch, rows_of_a, out, y_n, y_f, y_h, y_w, depth, height, part, sum_rows,
                        row, together, accumulate,
                    )  # fmt: skip
                    done += part


@helper
def part_of(flat, n, ow, OW, done, width):
    """(image, first column, columns) of the next part of a block, `done` columns after its start at (n, ow).

    A block is one part, or where blocks are flat one for each image.
    """
    if not flat:
        return n, ow, width
    images, left = divmod(ow + done, OW)
    return n + images, left, min(OW - left, width - done)
