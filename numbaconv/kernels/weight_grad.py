"""Weight gradient: dw[f, c, kh, kw] = sum over n, oh, ow of dy[n, f, oh, ow] * x[n, c, what (kh, kw) reads].

A product of F x pixels and pixels x (c, kh, kw). With the channels of a pixel side by side, the taps kw of a row
and their channels are one stretch of memory, and the next pixel is `stride` pixels on: x is turned so
once per block, and every tap reads it in place.

    for a share of the images and rows, a block of FB filters, a block of CB channels:   one piece of work
        for a block of images, rows and columns:                     so that the strip stays in L2
            pack x into a strip [image, row, column][channel]
            for some filters:                                        where their pixels lie together, dy itself
                pack dy into panels [filter // MR][pixel][filter % MR]
                for kh: product                                      partial sums [f][kh][kw, c]

Those are the filters of one panel, which stays in L1 while taps stream by; or, where the pixels of a block are at one
distance, those of several, which stream by while the pixels of a register tile stay in L1.

Where a row of taps fills its vectors badly (7 taps of 3 channels are 21 elements on 32 lanes), the rows of taps of
a pixel are first copied side by side, and one product does them all.

Pieces own their partial sums. How many shares there are depends on the shape alone, and :mod:`.weight_grad_shares`
adds them in order: the same bits for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..geometry import Geometry
from . import tiling
from .gemm import ADD, FRESH, multiply_panels
from .jit import helper
from .launch import Address, Launch, NestKernel
from .pixels import pack_output_grad, pack_pixels
from .simd import (
    integers,
    lanes_of,
    moved,
    pointer,
    store_integer,
    unpacked,
    vector_load,
    vector_store,
    vector_zero,
)
from .tiles import ASKED
from .weight_grad_shares import ADD_SHARES, add_shares, adding, place_of_sums, write_taps
from .work import claim

MR = tiling.MR


@dataclass(frozen=True)
class Blocking:
    """Sizes of the nest: shares, FB filters and CB channels of a piece, the outputs of a block, elements of a line.

    `together`: groups whose channels lie in the same cache lines, of one piece. `in_place`: dy is multiplied where it
    lies, since the outputs of a block do so at one distance. `whole`: the sums of the only share are dw itself.
    """

    shares: int
    together: int
    FB: int
    CB: int
    images: int
    rows: int
    columns: int
    line: int
    strip: int
    gathered: int
    #: Filters whose dy is packed, or read where it lies, at a time.
    at_once: int
    in_place: bool
    whole: bool
    #: Elements of the sums of a piece, if they stay in its scratch, and of what turns them.
    sums: int
    stage: int

    @property
    def scratch(self) -> int:
        """Elements of scratch of a worker: table, strip, gathered taps, a panel of dy, and the sums."""
        pixels = self.images * self.rows * self.columns
        panel = (MR if self.in_place else self.at_once) * pixels
        return 2 * pixels + self.strip + self.gathered + panel + self.sums + self.stage


def partial_elements(g: Geometry, b: Blocking) -> int:
    """Elements of the partial sums of all shares."""
    if b.whole or b.sums > 0:
        return 0
    C, F = g.C // g.groups, g.F // g.groups
    lines = 1 if b.gathered else g.KH * (g.KW if g.dilation[1] != 1 else 1)
    return b.shares * g.groups * -(-F // MR) * MR * -(-C // b.CB) * lines * b.line


def arguments_of(
    g: Geometry,
    x_strides: tuple[int, int, int, int],
    y_strides: tuple[int, int, int, int],
    start: int,
    w_strides: tuple[int, int, int, int],
    accumulate: bool,
) -> dict[str, int | Address]:
    """The problem as the arguments of a kernel, by name; dw begins at element `start`."""
    values: dict[str, int | Address] = {"x": Address("x"), "dy": Address("dy"), "dw": Address("dw", start)}
    values |= {"partial": Address("partial"), "N": g.N, "H": g.H, "W": g.W, "OH": g.OH, "OW": g.OW}
    values |= {"groups": g.groups, "C": g.C // g.groups, "F": g.F // g.groups, "KH": g.KH, "KW": g.KW}
    values |= dict(zip(("x_n", "x_c", "x_h", "x_w"), x_strides, strict=True))
    values |= dict(zip(("y_n", "y_f", "y_h", "y_w"), y_strides, strict=True))
    values |= dict(zip(("w_f", "w_c", "w_kh", "w_kw"), w_strides, strict=True))
    offset = (-g.padding[0], -g.padding[2])
    for name, pair in (("stride", g.stride), ("offset", offset), ("dilation", g.dilation)):
        values |= {f"{name}_h": pair[0], f"{name}_w": pair[1]}
    return values | {"accumulate": accumulate}


def launches(g: Geometry, values: dict[str, int | Address], b: Blocking) -> list[Launch]:
    """Sum by shares, then add the shares; `values` are those of :func:`arguments_of`."""
    C, F = g.C // g.groups, g.F // g.groups
    values = values | {"shares": b.shares, "FB": b.FB, "CB": b.CB, "images": b.images, "rows": b.rows}
    values |= {"columns": b.columns, "line": b.line, "strip_size": b.strip}
    values |= {"gathered": b.gathered, "apart": g.KW if g.dilation[1] != 1 else 1, "in_place": b.in_place}
    values |= {"together": b.together, "at_once": b.at_once, "own_sums": b.sums, "stage_size": b.stage}
    pieces = b.shares * -(-g.groups // b.together) * -(-F // b.FB) * -(-C // b.CB)
    if b.whole or b.sums > 0:
        return [Launch(weight_grad, WEIGHT_GRAD, values | {"partial": values["dw"]}, pieces)]
    return [Launch(weight_grad, WEIGHT_GRAD, values, pieces), adding(g, values)]


def launches_of_taps(
    g: Geometry, taps: list[tuple[Geometry, dict[str, int | Address], Blocking]], values: dict[str, int | Address]
) -> list[Launch]:
    """Sum each tap by itself, one behind the other, then add the shares, which all have alike.

    `values` are those of the whole kernel.
    """
    size = partial_elements(taps[0][0], taps[0][2])
    summing = []
    for i, (g_of_tap, of_tap, b) in enumerate(taps):
        summing_tap, adding_tap = launches(g_of_tap, of_tap | {"partial": Address("partial", i * size)}, b)
        summing.append(summing_tap)
    alike = ("shares", "CB", "line", "f_pitch", "share_pitch")
    values = values | {name: adding_tap.values[name] for name in alike}
    values |= {"apart": g.KW, "gathered": 0, "block_pitch": values["line"], "line_pitch": size}
    return [*summing, Launch(add_shares, ADD_SHARES, values, adding_tap.pieces)]


WEIGHT_GRAD = (
    "record", "x", "x_n", "x_c", "x_h", "x_w", "H", "W", "dy", "y_n", "y_f", "y_h", "y_w", "partial", "w_f", "w_c",
    "N", "OH", "OW", "groups", "C", "F", "KH", "KW", "stride_h", "stride_w", "offset_h", "offset_w",
    "dilation_h", "dilation_w", "shares", "together", "FB", "CB", "images", "rows", "columns", "line", "strip_size",
    "gathered", "at_once", "own_sums", "stage_size", "in_place", "scratch_size",
)  # fmt: skip
WEIGHT_GRAD_COUNT = len(WEIGHT_GRAD)


@NestKernel
def weight_grad(scratch, arguments, worker):
    """C and F are those of one group; a block is `images` x `rows` x `columns` outputs."""
    (
        _, x_address, x_n, x_c, x_h, x_w, H, W, dy_address, y_n, y_f, y_h, y_w, partial_address, w_f, w_c,
        N, OH, OW, groups, C, F, KH, KW, stride_h, stride_w, offset_h, offset_w,
        dilation_h, dilation_w, shares, together, FB, CB, images, rows, columns, line, strip_size, gathered, at_once,
        own_sums, stage_size, in_place, scratch_size,
    ) = unpacked(arguments, WEIGHT_GRAD_COUNT)  # fmt: skip
    x, dy, partial = (
        pointer(x_address, scratch),
        pointer(dy_address, scratch),
        pointer(partial_address, scratch),
    )
    lanes = lanes_of(scratch)
    strip = moved(scratch, worker * scratch_size)
    gathering = moved(strip, strip_size)
    scratch_sums = moved(gathering, gathered)
    stage = moved(scratch_sums, own_sums)
    # The panels are last: what clears them may write some elements more.
    table = integers(moved(stage, stage_size))
    panels = moved(stage, stage_size + 2 * images * rows * columns)
    f_blocks, c_blocks = (F + FB - 1) // FB, (C + CB - 1) // CB
    h_blocks, w_blocks = (OH + rows - 1) // rows, (OW + columns - 1) // columns
    blocks = (N + images - 1) // images * h_blocks * w_blocks
    taps_apart = KW if dilation_w != 1 else 1  # how many stretches a row of taps is
    lines = 1 if gathered else KH * taps_apart
    f_pitch = (1 if own_sums > 0 else c_blocks) * lines * line
    share_pitch = groups * ((F + MR - 1) // MR * MR) * f_pitch
    group_blocks = (groups + together - 1) // together
    while True:
        piece = claim(arguments, worker)
        if piece >= shares * group_blocks * f_blocks * c_blocks:
            return 0
        rest, c_block = divmod(piece, c_blocks)
        rest, f_block = divmod(rest, f_blocks)
        share, group_block = divmod(rest, group_blocks)
        first_group, last_group = group_block * together, min(groups, (group_block + 1) * together)
        f, c = f_block * FB, c_block * CB
        filters, channels = min(FB, F - f), min(CB, C - c)
        stretch = channels * (KW // taps_apart)
        pitch = pixel_pitch(channels, taps_apart == KW, lanes)
        first, last = share * blocks // shares, (share + 1) * blocks // shares
        steps = (max(last, 1) - first) * (last_group - first_group)
        for step in range(steps):  # one of no images writes the zeros of an empty batch
            block, group = divmod(step, last_group - first_group)
            block, group = block + first, group + first_group
            sums = moved(partial, share * share_pitch + group * ((F + MR - 1) // MR * MR) * f_pitch)
            sums = moved(sums, f * f_pitch + c_block * lines * line)
            if own_sums > 0:
                sums = scratch_sums
            rest, w_block = divmod(block, w_blocks)
            image_block, h_block = divmod(rest, h_blocks)
            n, oh, ow = image_block * images, h_block * rows, w_block * columns
            depth, height, width = min(images, N - n), min(rows, OH - oh), min(columns, OW - ow)
            strip_rows = (height - 1) * stride_h + (KH - 1) * dilation_h + 1
            strip_columns = (width - 1) * stride_w + (KW - 1) * dilation_w + 1
            pack_pixels(
                strip, pitch, moved(x, n * x_n + (group * C + c) * x_c), x_n, x_c, x_h, x_w, H, W, depth,
                strip_rows, strip_columns, channels, oh * stride_h + offset_h, ow * stride_w + offset_w,
            )  # fmt: skip
            # What a tail reads behind the last channel is 0: numbers out of old memory may be subnormal, and slow.
            vector_store(strip, depth * strip_rows * strip_columns * pitch, vector_zero(strip))
            pixels = depth * height * width
            # Pixels at one distance, as those of a 1 x 1 kernel or of gathered taps, are a depth; others are looked up.
            flat = gathered or (strip_rows == height and strip_columns == width and stride_w == 1)
            depth_of_sum, looked_up = (pixels, 1) if flat else (1, pixels)
            b, b_pitch, width_of_b = strip, pitch, stretch
            if gathered:
                b, b_pitch, width_of_b = gathering, line, KH * KW * channels
                gather_taps(
                    gathering, line, strip, depth, height, width, KH, taps_apart, stretch, strip_rows,
                    strip_columns * pitch, stride_h, stride_w * pitch, dilation_h, dilation_w * pitch,
                )  # fmt: skip
            else:
                fill_table(table, depth, height, width, strip_rows, strip_columns, stride_h, stride_w, pitch)
            mode = ADD if block != first else FRESH if own_sums > 0 else FRESH + ASKED
            source = moved(dy, n * y_n + (group * F + f) * y_f + oh * y_h + ow * y_w)
            r = 0
            while r < filters:
                rows_of_a = min(at_once, filters - r)
                a, a_panel, a_row, a_step = moved(source, r * y_f), MR * y_f, y_f, y_w
                if in_place and rows_of_a >= MR:
                    rows_of_a = rows_of_a // MR * MR
                else:
                    pack_output_grad(panels, a, y_n, y_f, y_h, y_w, depth, height, width, rows_of_a)
                    a, a_panel, a_row, a_step = panels, MR * pixels, 1, MR
                for tap in range(lines):
                    kh, kw = divmod(tap, taps_apart)
                    multiply_panels(
                        rows_of_a, width_of_b, depth_of_sum, looked_up, table, a, a_panel, a_row, a_step,
                        moved(b, (kh * dilation_h * strip_columns + kw * dilation_w) * pitch), b_pitch,
                        moved(sums, r * f_pitch + tap * line), f_pitch, mode, dy, y_f,
                    )  # fmt: skip
                r += rows_of_a
        if own_sums > 0:  # of one group, whose dw is in the place of partial sums
            out = moved(partial, (first_group * F + f) * w_f + c * w_c)
            turn_sums(out, w_f, w_c, scratch_sums, f_pitch, line, stage, filters, channels, KH, KW, taps_apart)


@helper
def turn_sums(dw, w_f, w_c, sums, f_pitch, line, stage, filters, channels, KH, KW, taps_apart):
    """dw[f * w_f + c * w_c + tap] = the sum of filter f, channel c and a tap, which follow each other in dw."""
    lanes = lanes_of(sums)
    for f in range(filters):
        for c in range(0, channels, lanes):
            for tap in range(KH * KW):
                place = f * f_pitch + place_of_sums(tap, KW, taps_apart, line, channels) + c
                vector_store(stage, tap * lanes, vector_load(sums, place))
            write_taps(moved(dw, f * w_f + c * w_c), w_c, stage, KH * KW, min(lanes, channels - c))


@helper
def pixel_pitch(channels, alone, lanes):
    """Elements from one pixel of a strip to the next; `alone`: no stretch of taps goes beyond a pixel.

    Many channels are then an odd number of vectors, so that pixels do not meet in one set of L1.
    """
    return channels + (lanes if alone and channels > 4 * lanes and channels % (2 * lanes) == 0 else 0)


@helper
def fill_table(table, images, rows, columns, strip_rows, strip_columns, stride_h, stride_w, channels):
    """table[(n * rows + v) * columns + u] = where output (n, v, u) reads tap 0 in a strip of so many channels."""
    for v in range(images * rows):
        image, inside = divmod(v, rows)
        start = (image * strip_rows + inside * stride_h) * strip_columns * channels
        for u in range(columns):
            store_integer(table, v * columns + u, start + u * stride_w * channels)


@helper
def gather_taps(
    gathering, line, strip, images, rows, columns, KH, apart, stretch, strip_rows, strip_pitch, stride_h, step,
    dilation_h, dilation_w,
):  # fmt: skip
    """gathering[((n * rows + v) * columns + u) * line + (kh * apart + a) * stretch + i] = what taps (kh, a) of it read.

    That is element i < stretch at (n * strip_rows + v * stride_h + kh * dilation_h) * strip_pitch + u * step +
    a * dilation_w of the strip, a < apart.
    """
    lanes = lanes_of(gathering)
    for v in range(images * rows):
        image, inside = divmod(v, rows)
        source = moved(strip, (image * strip_rows + inside * stride_h) * strip_pitch)
        for _ in range(columns):
            vector_store(gathering, KH * apart * stretch // lanes * lanes, vector_zero(gathering))
            for kh in range(KH):
                taps, out = moved(source, kh * dilation_h * strip_pitch), moved(gathering, kh * apart * stretch)
                for _ in range(apart):  # what is too much of a stretch is written over by the next one
                    for i in range(0, stretch, lanes):
                        vector_store(out, i, vector_load(taps, i))
                    out, taps = moved(out, stretch), moved(taps, dilation_w)
            gathering, source = moved(gathering, line), moved(source, step)
