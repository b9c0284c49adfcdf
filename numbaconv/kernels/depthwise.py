"""Depthwise convolution: filter c looks at channel c alone, so there is no sum over channels to tile.

    y[c, oh, ow] = bias[c] + sum over kh, kw of weight[c, kh, kw] * x[c, what (kh, kw) reads]

A vector runs over channels. A block of rows is packed with the channels of a pixel side by side: several vectors
of channels-last arrays, where they are so already, `lanes` channels of others, which are turned. Then borders, strides
and short rows cost nothing, since every tap of every pixel is one whole vector, and the result is turned back. Vectors
along the row, tried first, spent 2 to 6 times as long below 28 x 28, on masks. Of a few filters a channel, channels
last, filter m of all channels is a problem of its own.

A piece of work is a block of channels and rows of one image, whose results no other piece writes: the same bits for any
number of threads. The input gradient at a stride is in :mod:`.depthwise_input_grad`, the weight gradient in
:mod:`.depthwise_weight_grad`.

Where the images of a channel lie together, as in HWCN, they stand in the place of channels: `alike` of them that follow
each other have the same weight. They are those of all channels, in one image, or where these do not follow each other,
those of one, in as many images as there are channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..geometry import Geometry
from . import tiling
from .depthwise_taps import fill_places, pack_group_taps, pack_taps, place_elements, turn_groups
from .jit import helper, named
from .launch import Address, Launch, NestKernel
from .pixels import pack_pixels, unpack_pixels
from .rows import clear, inside
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
)
from .tiles import tile_add_taps, tile_load, tile_store
from .work import claim

Strides = tuple[int, int, int, int]

# At level 2 the forward pass takes 6 to 12% longer, dw up to 17%, and the input gradient at a stride does not.
depthwise_kernel = partial(NestKernel, level=3)
# Pixels of the register tile.
PIXELS = 8
# Vectors of a tile of 4 pixels: of channels-last x, which comes from L3 or from memory, such tiles read longer
# stretches at a time. 64 channels of 112 x 112 and 128 of 56 x 56 take 0.6 to 0.9 of the time.
WIDE = tiling.CHANNEL_VECTORS
# Elements of a row of channels-last outputs that are summed for all rows before others are: what a row shares with the
# next one is then still in L1, and memory is read in stretches that the core follows. With 8 pixels, 32 to 64 channels
# of 112 x 112 that come from memory take 15 to 20% longer.
STRETCH = 2048


def make_sums(pixels, vectors, together):
    """Micro-kernel of so many pixels and vectors of channels, whose sums stay in registers, and so many taps at a time.

    Those of a row that read pixels next to each other: three need 10 loads for 8 sums, and not 24.
    """

    @helper
    @named(pixels, vectors, together)
    def sums(out, out_step, line, step, taps, pitch, places, count, bias):
        lanes = lanes_of(out)
        tile = tile_load(bias, 0, pitch, pixels, vectors)
        # One list: loops over rows and columns would take as long as their taps.
        for t in range(0, 2 * count, 2 * together):
            pixel, tap = moved(line, load_integer(places, t)), moved(taps, load_integer(places, t + 1))
            tile = tile_add_taps(tile, pixel, step, tap, pitch, together)
        tile_store(out, out_step, lanes, tile)

    return sums


sums_of_8, sums_of_4 = make_sums(8, 1, 1), make_sums(4, 1, 1)
sums_of_8_by_3, sums_of_4_by_3 = make_sums(8, 1, 3), make_sums(4, 1, 3)
wide_sums, wide_sums_by_3 = make_sums(4, WIDE, 1), make_sums(4, WIDE, 3)


@helper
def row_of_sums(out, out_step, count, line, step, taps, places, tap_count, by_3, bias):
    """out[i * out_step] = bias + sum of taps * what pixel i of the line reads, vectors throughout, for i < count.

    Pixels of the line are `step` elements apart, taps as :func:`fill_places` has them; `by_3`: three each follow each
    other, and what they read is `step` apart. The last pixels share a register tile with some that were written before,
    and of less than four, pixels up to the fourth are written.
    """
    i = 0
    while i < count:
        whole = count >= 8 and count - i > 4
        i = min(i, count - 8) if whole else max(0, min(i, count - 4))
        tile = (moved(out, i * out_step), out_step, moved(line, i * step), step, taps, 0, places, tap_count, bias)
        if whole:
            if by_3:
                sums_of_8_by_3(*tile)
            else:
                sums_of_8(*tile)
            i += 8
        else:
            if by_3:
                sums_of_4_by_3(*tile)
            else:
                sums_of_4(*tile)
            i += 4


SHAPE = (
    "record", "x", "x_n", "x_c", "x_h", "x_w", "y", "y_n", "y_c", "y_h", "y_w", "weight", "w_c", "w_kh", "w_kw",
    "N", "C", "H", "W", "OH", "OW", "KH", "KW", "stride_h", "stride_w", "dilation_h", "dilation_w", "top", "left",
    "bias", "bias_c", "partial", "shares", "parts", "rows", "together", "strip_size", "group",
    "w_out", "w_in", "in_place", "by_3", "alike", "accumulate", "scratch_size",
)  # fmt: skip
SHAPE_COUNT = len(SHAPE)


@depthwise_kernel
def depthwise_forward(scratch, arguments, worker):
    """Pieces: image, block of channels, block of `rows` rows of y.

    With `in_place`, outputs of channels-last arrays whose taps are all in x are computed where they lie; the others, on
    up to four sides of them, and without it all, from a strip with the padding. Groups of a few channels each, as
    `pack_group_taps` has them, from as many strips.
    """
    (
        _, x_address, x_n, x_c, x_h, x_w, y_address, y_n, y_c, y_h, y_w, weight_address, w_c, w_kh, w_kw,
        N, C, H, W, OH, OW, KH, KW, stride_h, stride_w, dilation_h, dilation_w, top, left,
        bias_address, bias_c, _, _, _, rows, together, strip_size, group, w_out, w_in, in_place, by_3, alike,
        accumulate, scratch_size,
    ) = unpacked(arguments, SHAPE_COUNT)  # fmt: skip
    x, y = pointer(x_address, scratch), pointer(y_address, scratch)
    weight, bias = pointer(weight_address, scratch), pointer(bias_address, scratch)
    lanes = lanes_of(scratch)
    places = integers(moved(scratch, worker * scratch_size))
    tap_count = group * KH * KW
    taps = moved(scratch, worker * scratch_size + place_elements(tap_count, lanes))
    strip = moved(taps, (tap_count + 1) * together)
    # What whole vectors have of channels and pixels that there are none of is 0: old memory may hold subnormal numbers,
    # which are slow.
    clear(taps, (tap_count + 1) * together + (strip_size if C % together != 0 else 0))
    sums = moved(strip, group * strip_size)
    c_blocks, row_blocks = (C + together - 1) // together, (OH + rows - 1) // rows
    reach_h, reach_w = (KH - 1) * dilation_h + 1, (KW - 1) * dilation_w + 1
    w_lane, bias_lane = (0, 0) if alike else (w_c, bias_c)
    packed = -1
    while True:
        piece = claim(arguments, worker)
        if piece >= N * c_blocks * row_blocks:
            return 0
        n, c_block, row_block = place_of_piece(piece, N, c_blocks, row_blocks, alike)
        if group > 1:  # whose taps take long to pack
            c_block, rest = divmod(piece, N * row_blocks)
            n, row_block = divmod(rest, row_blocks)
        c, oh = c_block * together, row_block * rows
        channels, height = min(together, C - c), min(rows, OH - oh)
        wanted = n * c_blocks + c_block if alike else c_block
        for first in range(0, channels if wanted != packed else 0, lanes):
            here, own = min(lanes, channels - first), weight_of(n, C, c + first, alike)
            vectors, filters = moved(taps, first * (tap_count + 1)), moved(weight, own // group * w_c)
            if group > 1:
                pack_group_taps(vectors, filters, w_c, w_out, w_in, w_kh, w_kw, group, KH, KW, here)
            else:
                pack_taps(vectors, filters, w_lane, w_kh, w_kw, KH, KW, here)
            for i in range(here if bias_address != 0 else 0):
                store(vectors, tap_count * lanes + i, load(bias, own * bias_c + i * bias_lane))
        packed = wanted
        source, out = moved(x, n * x_n + c * x_c), moved(y, n * y_n + c * y_c + oh * y_h)
        top_row, left_column = oh * stride_h - top, -left
        # Rows from above to below and columns from first to last need no padding.
        above, below, first, last = height, height, 0, 0
        if in_place and channels % lanes == 0:
            above, below = inside(top_row, stride_h, H - reach_h + 1, height)
            first, last = inside(left_column, stride_w, W - reach_w + 1, OW)
            if last - first < 4:
                above, below = height, height
        if above < below:
            fill_places(places, (0, 1, KH, dilation_h * x_h), (0, 1, KW, dilation_w * x_w), KW, lanes, 1)
        stretch = max(PIXELS, STRETCH // channels // PIXELS * PIXELS)
        for start in range(0, last - first if above < below else 0, stretch):
            width = max(4, min(stretch, last - first - start))
            u = min(first + start, last - width)
            for v in range(above, below):
                sum_in_place(
                    moved(out, v * y_h + u * y_w), y_w, width,
                    moved(source, (top_row + v * stride_h) * x_h + (left_column + u * stride_w) * x_w), stride_w * x_w,
                    taps, places, KH * KW, by_3, channels,
                )  # fmt: skip
        for side in range(4):
            v, v_end, u, u_end = side_of(side, above, below, first, last, height, OW)
            if v == v_end or u == u_end:
                continue
            columns = (u_end - u - 1) * stride_w + reach_w
            pack_pixels(
                strip, together, source, x_n, x_c, x_h, x_w, H, W, 1, (v_end - v - 1) * stride_h + reach_h, columns,
                channels, top_row + v * stride_h, left_column + u * stride_w,
            )  # fmt: skip
            size = ((v_end - v - 1) * stride_h + reach_h) * columns * together
            clear(moved(strip, size), 3 * stride_w * together)
            # By rows, or by columns where rows do not fill a register tile.
            lines, count = v_end - v, u_end - u
            corner = moved(out, v * y_h + u * y_w)
            direct = writes_in_place(y_c, channels, lanes, max(lines, count), accumulate)
            target, line_of_out, pixel_of_out = (corner, y_h, y_w) if direct else (sums, count * together, together)
            line_step, pixel_step = stride_h * columns * together, stride_w * together
            by_columns = count < 4 and lines >= 4
            if by_columns:
                lines, count = count, lines
                line_of_out, pixel_of_out = pixel_of_out, line_of_out
                line_step, pixel_step = pixel_step, line_step
            vertical, horizontal = (0, 1, KH, dilation_h * columns), (0, 1, KW, dilation_w)
            for j in range(group):
                turn = moved(places, 2 * j * KH * KW)
                fill_places(turn, vertical, horizontal, KW, lanes, together)
                for t in range(KH * KW if j > 0 else 0):
                    store_integer(turn, 2 * t, load_integer(turn, 2 * t) + j * strip_size)
                    store_integer(turn, 2 * t + 1, load_integer(turn, 2 * t + 1) + j * KH * KW * lanes)
            turn_groups(strip, strip_size, size + 3 * stride_w * together, group)
            for i in range(0, channels, lanes):
                vectors = moved(taps, i * (tap_count + 1))
                for h in range(lines):
                    row_of_sums(
                        moved(target, h * line_of_out + i), pixel_of_out, count, moved(strip, h * line_step + i),
                        pixel_step, vectors, places, tap_count, by_3 and not by_columns,
                        moved(vectors, tap_count * lanes),
                    )  # fmt: skip
            if not direct:
                unpack_pixels(
                    sums, together, 0, u_end - u, corner, 0, y_c, y_h, y_w, 1, v_end - v, u_end - u, channels,
                    accumulate,
                )  # fmt: skip


@helper
def place_of_piece(piece, N, c_blocks, row_blocks, alike):
    """(image, block of channels, block of rows): what one leaves of a cache page, the next one takes."""
    rest, c_block = divmod(piece, c_blocks)
    if alike:
        row_block, n = divmod(rest, N)
    else:
        n, row_block = divmod(rest, row_blocks)
    return n, c_block, row_block


@helper
def weight_of(n, C, channel, alike):
    """Which weight a channel of image n has: its own, or one that `alike` of those that follow each other have."""
    return (n * C + channel) // alike if alike else channel


@helper
def sum_in_place(out, out_step, count, line, step, taps, places, tap_count, by_3, channels):
    """out[i * out_step + c] = the sum for pixel i of the line and channel c, for i < count, at least 4."""
    lanes = lanes_of(out)
    pitch = (tap_count + 1) * lanes
    wide = channels // (WIDE * lanes) * WIDE * lanes
    i = 0
    while i < count and wide > 0:
        i = min(i, count - 4)
        for c in range(0, wide, WIDE * lanes):
            vectors = moved(taps, c // lanes * pitch)
            tile = (
                moved(out, i * out_step + c), out_step, moved(line, i * step + c), step, vectors, pitch, places,
                tap_count, moved(vectors, tap_count * lanes),
            )  # fmt: skip
            if by_3:
                wide_sums_by_3(*tile)
            else:
                wide_sums(*tile)
        i += 4
    for c in range(wide, channels, lanes):
        vectors = moved(taps, c // lanes * pitch)
        row_of_sums(
            moved(out, c), out_step, count, moved(line, c), step, vectors, places, tap_count, by_3,
            moved(vectors, tap_count * lanes),
        )  # fmt: skip


@helper
def writes_in_place(step, channels, lanes, longest, accumulate):
    """Whether sums go straight to channels-last pixels: if no register tile has more of them than there are."""
    return step == 1 and channels % lanes == 0 and longest >= 4 and not accumulate


@helper
def side_of(side, above, below, first, last, height, width):
    """(first row, end, first column, end) of what lies on a side of rows above to below, columns first to last."""
    if side == 0:
        return 0, above, 0, width
    if side == 1:
        return below, height, 0, width
    if side == 2:
        return above, below, 0, first
    return above, below, last, width


def launch(
    kernel: NestKernel,
    pieces: int,
    g: Geometry,
    arrays: Sequence[Address],
    x: Strides,
    y: Strides,
    weight: Address,
    w: Strides,
    bias: tuple[Address, int] | None,
    blocking: dict[str, int],
    accumulate: bool,
) -> Launch:
    """One of the launches above; `arrays` are those in the place of x and y, `bias` where it begins and its stride.

    `blocking` has rows, together, strip_size, shares, parts, group, w_out, w_in, in_place, by_3 and alike by name.
    """
    values: dict[str, int | Address] = {"x": arrays[0], "y": arrays[1], "weight": weight}
    values |= dict(zip(("x_n", "x_c", "x_h", "x_w"), x, strict=True))
    values |= dict(zip(("y_n", "y_c", "y_h", "y_w"), y, strict=True))
    values |= {"w_c": w[0], "w_kh": w[2], "w_kw": w[3], "top": g.padding[0], "left": g.padding[2]}
    values |= {"N": g.N, "C": g.C, "H": g.H, "W": g.W, "OH": g.OH, "OW": g.OW, "KH": g.KH, "KW": g.KW}
    values |= {"stride_h": g.stride[0], "stride_w": g.stride[1]}
    values |= {"dilation_h": g.dilation[0], "dilation_w": g.dilation[1]}
    values |= dict(zip(("bias", "bias_c"), bias or (0, 0), strict=True))
    values |= blocking | {"partial": Address("partial") if blocking["shares"] else 0, "accumulate": accumulate}
    return Launch(kernel, SHAPE, values, pieces)
