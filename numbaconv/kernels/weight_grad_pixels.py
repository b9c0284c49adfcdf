"""Weight gradient with pixels in the vector, where a group has few channels or filters.

dw[f, k] = sum over pixels of dy[f, pixel] * x[what tap k of the pixel reads], k = (c, kh, kw). Channels or filters that
fill no vector would leave most of its lanes empty, and have to be turned; rows of pixels are long, and lie together.

    for a share of the blocks of output pixels, and a group:       one piece of work
        for a block of some rows of outputs, and a block of CB channels:
            pack the rows of x that they look at                   strip [c][row][column], as in the forward pass
            for some filters:
                pack their rows                                    panel [filter][row][column]
                for a tile of MR filters and VECTORS taps, or of MR taps and VECTORS filters:
                    for a vector of pixels: tile += dy * x, lane by lane
                    sums of the share += the sum of the lanes of each vector of the tile
    add the shares                                                 in order, to dw

A 1 x 1 kernel at stride 1 multiplies rows of x and dy where they lie, and few taps those of dy.

A share is a fixed part of the blocks, walked in order, and shares are added in order: the same bits for any number of
threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import tiling
from .jit import helper, named
from .launch import Address, Launch, NestKernel
from .packing import pack_strip, place_of_tap
from .problem import Product
from .rows import clear, write_run
from .simd import (
    integers,
    lanes_of,
    load,
    moved,
    pointer,
    store,
    store_integer,
    unpacked,
)
from .tiles import tile_multiply_add_rows, tile_multiply_add_rows_first, tile_sum_lanes, tile_zero
from .weight_grad_shares import add_up
from .work import claim

MR = tiling.MR
VECTORS = tiling.VECTORS
# Filters whose rows are packed at a time, and what CB is a multiple of where there are more channels: tiles of MR and
# of VECTORS.
FILTERS = 24
# Rows of sums whose shares are added as one piece of work.
LINES = 16


@dataclass(frozen=True)
class Blocking:
    """Sizes of the nest: shares, CB channels, and a block of outputs, each of `batch` images where those lie together.

    `turned`: a tile has MR taps and VECTORS filters. `joined`: the rows of a block are one, as a 1 x 1 kernel sees
    them. `in_place`: neither x nor dy is packed. `dy_in_place`: dy is not, whose pixels of a row lie together.
    """

    shares: int
    CB: int
    images: int
    rows: int
    columns: int
    batch: int
    #: Elements from one channel of the strip, and from one filter of the panel, to the next.
    strip_pitch: int
    panel_pitch: int
    turned: bool
    joined: bool
    in_place: bool
    dy_in_place: bool

    def scratch(self, p: Product) -> int:
        """Elements of scratch of a worker: strip, panel, and where taps and filters begin in them."""
        packed = 0 if self.in_place else self.CB * self.strip_pitch
        packed += 0 if self.dy_in_place else FILTERS * self.panel_pitch
        return packed + 2 * (self.CB * p.KH * p.KW + FILTERS + 2 * MR)

    def line(self, p: Product) -> int:
        """Elements from one row of sums to the next."""
        return -(-(p.C * p.KH * p.KW if self.turned else p.F) // MR) * MR

    def lines(self, p: Product) -> int:
        """Rows of sums."""
        return p.F if self.turned else p.C * p.KH * p.KW

    def sums(self, p: Product) -> int:
        """Elements of the sums of a share and group, those of whole tiles."""
        # What clears them may write a vector less one element more.
        return -(-self.lines(p) // VECTORS) * VECTORS * self.line(p) + tiling.lanes(4)


def launches(p: Product, b: Blocking) -> list[Launch]:
    """Sum by shares, then add the shares; the weight of the problem is dw, and its y is dy."""
    values = p.arguments() | {"dw": p.weight, "partial": Address("partial")}
    values |= {"shares": b.shares, "images": b.images, "rows": b.rows, "columns": b.columns, "batch": b.batch}
    values |= {"strip_pitch": b.strip_pitch, "panel_pitch": b.panel_pitch, "turned": b.turned}
    values |= {"CB": b.CB, "joined": b.joined, "in_place": b.in_place, "dy_in_place": b.dy_in_place}
    values |= {"line": b.line(p), "sums_pitch": b.sums(p), "by_tap": 1, "by_channel": p.KH * p.KW}
    summing = Launch(weight_grad_pixels, WEIGHT_GRAD_PIXELS, values, b.shares * p.groups)
    return [summing, adding(p, values, b.lines(p))]


def adding(p: Product, values: dict[str, int | Address], lines: int) -> Launch:
    """The launch of :func:`add_pixel_shares` behind one that made so many rows of sums."""
    return Launch(add_pixel_shares, ADD_PIXEL_SHARES, values, p.groups * -(-lines // LINES))


WEIGHT_GRAD_PIXELS = (
    "record", "x", "x_n", "x_c", "x_h", "x_w", "H", "W", "y", "y_n", "y_f", "y_h", "y_w", "partial",
    "N", "OH", "OW", "groups", "C", "F", "KH", "KW", "stride_h", "stride_w", "offset_h", "offset_w",
    "dilation_h", "dilation_w", "phases_h", "phases_w", "reach_h", "reach_w", "shares", "CB", "images", "rows",
    "columns", "batch", "strip_pitch", "panel_pitch", "turned", "joined", "in_place", "dy_in_place",
    "line", "sums_pitch", "scratch_size",
)  # fmt: skip
WEIGHT_GRAD_PIXELS_COUNT = len(WEIGHT_GRAD_PIXELS)


@NestKernel
def weight_grad_pixels(scratch, arguments, worker):
    """C and F are those of one group; a block is `images` x `rows` x `columns` outputs, each of `batch` images."""
    (
        _, x_address, x_n, x_c, x_h, x_w, H, W, dy_address, y_n, y_f, y_h, y_w, partial_address,
        N, OH, OW, groups, C, F, KH, KW, stride_h, stride_w, offset_h, offset_w,
        dilation_h, dilation_w, phases_h, phases_w, reach_h, reach_w, shares, CB, images, rows, columns,
        batch, strip_pitch, panel_pitch, turned, joined, in_place, dy_in_place, line, sums_pitch, scratch_size,
    ) = unpacked(arguments, WEIGHT_GRAD_PIXELS_COUNT)  # fmt: skip
    x, dy, partial = (
        pointer(x_address, scratch),
        pointer(dy_address, scratch),
        pointer(partial_address, scratch),
    )
    lanes, taps_of_channel = lanes_of(scratch), KH * KW
    packed_panel = moved(scratch, worker * scratch_size)
    packed_strip = moved(packed_panel, 0 if dy_in_place else FILTERS * panel_pitch)
    taps = integers(moved(packed_strip, 0 if in_place else CB * strip_pitch))
    places = moved(taps, CB * taps_of_channel + MR)
    blocks_n, blocks_h = (N + images * batch - 1) // (images * batch), (OH + rows - 1) // rows
    blocks_w = (OW + columns - 1) // columns
    blocks, c_blocks = blocks_n * blocks_h * blocks_w, (C + CB - 1) // CB
    while True:
        piece = claim(arguments, worker)
        if piece >= shares * groups:
            return 0
        share, group = divmod(piece, groups)
        sums = moved(partial, piece * sums_pitch)
        clear(sums, sums_pitch - lanes)
        for step in range(share * blocks // shares * c_blocks, (share + 1) * blocks // shares * c_blocks):
            block, c_block = divmod(step, c_blocks)
            rest, block_w = divmod(block, blocks_w)
            block_n, block_h = divmod(rest, blocks_h)
            n, oh, ow = block_n * images * batch, block_h * rows, block_w * columns
            depth = min(images, N - n) if batch == 1 else 1
            together = 1 if batch == 1 else min(batch, N - n)
            height, width = min(rows, OH - oh), min(columns, OW - ow)
            c, channels = c_block * CB, min(CB, C - c_block * CB)
            K = channels * taps_of_channel
            strip, strip_image, strip_row = moved(x, n * x_n + (group * C + c) * x_c + oh * x_h + ow), x_n, x_h
            plane = strip_columns = 0
            if not in_place:
                strip_rows, strip_columns = height + reach_h, width + reach_w
                pack_strip(
                    packed_strip, strip_pitch, moved(x, n * x_n + (group * C + c) * x_c), x_n, x_c, x_h, x_w, H, W,
                    channels, phases_h, phases_w, stride_h, stride_w, 0, 0, dilation_h, dilation_w, depth, strip_rows,
                    strip_columns, together, oh * stride_h + offset_h, ow * stride_w + offset_w,
                )  # fmt: skip
                plane = depth * strip_rows * strip_columns * together
                strip, strip_row = packed_strip, strip_columns * together
                strip_image = strip_rows * strip_row
            for k in range(K + MR):  # tiles go beyond the last tap, which is then summed again
                i, tap = divmod(min(k, K - 1), taps_of_channel)
                kh, kw = divmod(tap, KW)
                place = place_of_tap(
                    kh, kw, kh * dilation_h, kw * dilation_w, phases_h, phases_w, stride_h, stride_w, plane,
                    strip_columns, together,
                )  # fmt: skip
                store_integer(taps, k, i * (x_c if in_place else strip_pitch) + place)
            # Rows of the panel are whole vectors, or one run.
            panel_columns = (width + lanes - 1) // lanes * lanes if batch == 1 and not joined else width
            lines, run = (1, height * width) if joined else (height, width * together)
            for f in range(0, F, FILTERS):
                filters = min(FILTERS, F - f)
                of_dy = moved(dy, n * y_n + (group * F + f) * y_f)
                panel, panel_image, panel_row = moved(of_dy, oh * y_h + ow), y_n, y_h
                if not dy_in_place:
                    pack_strip(
                        packed_panel, panel_pitch, of_dy, y_n, y_f, y_h, y_w, OH, ow + width, filters, 1, 1, 1, 1, 0, 0,
                        0, 0, depth, height, panel_columns, together, oh, ow,
                    )  # fmt: skip
                    panel, panel_row = packed_panel, panel_columns * together
                    panel_image = height * panel_row
                for i in range(filters + MR):
                    store_integer(places, i, min(i, filters - 1) * (y_f if dy_in_place else panel_pitch))
                for i in range(0, K if turned else filters, MR):
                    rows_of_tile = (K if turned else filters) - i
                    for j in range(0, filters if turned else K, VECTORS):
                        if turned:
                            multiply_pixels(
                                rows_of_tile, depth, lines, run, strip, moved(taps, i), strip_image, strip_row,
                                panel, moved(places, j), panel_image, panel_row,
                                moved(sums, (f + j) * line + c * taps_of_channel + i), line,
                            )  # fmt: skip
                        else:
                            multiply_pixels(
                                rows_of_tile, depth, lines, run, panel, moved(places, i), panel_image, panel_row,
                                strip, moved(taps, j), strip_image, strip_row,
                                moved(sums, (c * taps_of_channel + j) * line + f + i), line,
                            )  # fmt: skip


def make_product(rows):
    """The sums of a tile of `rows` x VECTORS vectors; the tile stays in registers."""

    @helper
    @named(rows)
    def product(images, lines, width, a, a_places, a_image, a_row, b, b_places, b_image, b_row, sums, pitch):
        lanes = lanes_of(sums)
        tile = tile_zero(sums, rows, VECTORS)
        whole = width // lanes
        for n in range(images):
            for h in range(lines):
                left, right = moved(a, n * a_image + h * a_row), moved(b, n * b_image + h * b_row)
                for _ in range(whole):
                    tile = tile_multiply_add_rows(tile, left, a_places, right, b_places)
                    left, right = moved(left, lanes), moved(right, lanes)
                if whole * lanes < width:
                    count = width - whole * lanes
                    tile = tile_multiply_add_rows_first(tile, left, a_places, right, b_places, count)
        tile_sum_lanes(sums, pitch, tile)

    return product


# The last rows, which are all that a group of few channels and filters has: 8>16 1x1 in 8 groups takes half the time.
product_of_all, product_of_4, product_of_2 = make_product(MR), make_product(4), make_product(2)


@helper
def multiply_pixels(rows, images, lines, width, a, a_places, a_image, a_row, b, b_places, b_image, b_row, sums, pitch):
    """sums[v * pitch + r] += sum over pixels of row r of a and row v of b, for r < rows <= MR and v < VECTORS.

    Pixel (n, h, w) of row r is at a_places[r] + n * a_image + h * a_row + w of a, and likewise in b. Computes 2, 4 or
    MR rows.
    """
    tile = (images, lines, width, a, a_places, a_image, a_row, b, b_places, b_image, b_row, sums, pitch)
    if rows > 4:
        product_of_all(*tile)
    elif rows > 2:
        product_of_4(*tile)
    else:
        product_of_2(*tile)


ADD_PIXEL_SHARES = (
    "record", "partial", "dw", "w_group", "w_row", "w_channel", "w_kh", "w_kw", "groups", "C", "F", "KH", "KW",
    "shares", "turned", "line", "sums_pitch", "by_tap", "by_channel", "accumulate", "scratch_size",
)  # fmt: skip
ADD_PIXEL_SHARES_COUNT = len(ADD_PIXEL_SHARES)


@NestKernel
def add_pixel_shares(scratch, arguments, worker):
    """dw (+)= the sums of all shares, added in their order.

    Rows of sums are taps k of all filters or, `turned`, filters of all taps. k = c * by_channel + tap * by_tap.
    """
    (
        _, partial_address, dw_address, w_group, w_row, w_channel, w_kh, w_kw, groups, C, F, KH, KW,
        shares, turned, line, sums_pitch, by_tap, by_channel, accumulate, scratch_size,
    ) = unpacked(arguments, ADD_PIXEL_SHARES_COUNT)  # fmt: skip
    partial, dw = pointer(partial_address, scratch), pointer(dw_address, scratch)
    stage = moved(scratch, worker * scratch_size)
    lanes, K = lanes_of(scratch), C * KH * KW
    lines, along = (F, K) if turned else (K, F)
    # Sums of a filter, whose weights lie at one distance.
    runs = turned and (KH * KW == 1 or (w_kw == 1 and w_kh == KW and w_channel == KH * KW))
    blocks = (lines + LINES - 1) // LINES
    while True:
        piece = claim(arguments, worker)
        if piece >= groups * blocks:
            return 0
        group, block = divmod(piece, blocks)
        for j in range(block * LINES, min(lines, (block + 1) * LINES)):
            source = moved(partial, group * sums_pitch + j * line)
            of_row = j * w_row if turned else place_of_sum(j, by_channel, by_tap, C, KH, KW, w_channel, w_kh, w_kw)
            out = moved(dw, group * w_group + of_row)
            for start in range(0, along, lanes):
                count = min(lanes, along - start)
                add_up(stage, moved(source, start), shares, groups * sums_pitch, count)
                if runs:
                    step = w_channel if KH * KW == 1 else 1
                    write_run(moved(out, start * step), step, stage, count, accumulate)
                elif not turned:  # filters of one tap
                    write_run(moved(out, start * w_row), w_row, stage, count, accumulate)
                else:
                    for i in range(count):
                        place = place_of_sum(start + i, by_channel, by_tap, C, KH, KW, w_channel, w_kh, w_kw)
                        value = load(stage, i)
                        store(out, place, load(out, place) + value if accumulate else value)


@helper
def place_of_sum(k, by_channel, by_tap, C, KH, KW, w_channel, w_kh, w_kw):
    """Where the weight of k = c * by_channel + tap * by_tap is behind the first one of its filter."""
    c, kh, kw = k // by_channel % C, k // by_tap // KW % KH, k // by_tap % KW
    return c * w_channel + kh * w_kh + kw * w_kw
