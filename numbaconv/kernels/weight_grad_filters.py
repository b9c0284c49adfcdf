"""Weight gradient with filters in the vector, where a group has few channels.

dw[k, f] = sum over pixels of x[what tap k of the pixel reads] * dy[pixel, f], k = (kh, kw, c). The filters of a pixel
fill vectors; its few channels would not, and are broadcast: a tap of all pixels is one walk through the strip.

    for a share of the blocks of output pixels, and a group:       one piece of work
        for a block of images, rows and columns of outputs:
            pack x into a strip [image, row, column][channel]
            pack dy, if it does not lie so                         panel [pixel][filter]
            for a tile of some vectors of filters and MR taps:
                for a pixel: tile += what the taps read * dy
                sums of the share += tile                          [kh, kw, c][filter]
    add the shares                                                 in order, to dw

A share is a fixed part of the blocks, walked in order, and shares are added in order: the same bits for any number of
threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from . import tiling
from .gemm import vectors_of_tile
from .jit import helper, named
from .launch import Address, Launch, NestKernel
from .pixels import pack_pixels
from .problem import Product
from .rows import clear
from .simd import integers, lanes_of, moved, pointer, store_integer, unpacked, vector_store, vector_zero
from .tiles import tile_add, tile_multiply_add, tile_store, tile_zero, walked
from .weight_grad_pixels import adding
from .work import claim

MR, VECTORS = tiling.MR, tiling.VECTORS


@dataclass(frozen=True)
class Blocking:
    """Sizes of the nest: shares, and the outputs of a block. `in_place`: dy is read where it lies."""

    shares: int
    images: int
    rows: int
    columns: int
    in_place: bool
    #: Elements of a row of sums, and of the strip.
    line: int
    strip: int

    def scratch(self, p: Product) -> int:
        """Elements of scratch of a worker: strip, where the taps begin in it, dy."""
        pixels = self.images * self.rows * self.columns
        return self.strip + 2 * (p.C * p.KH * p.KW + MR) + (0 if self.in_place else pixels * p.F + self.line)

    def sums(self, p: Product) -> int:
        """Elements of the sums of a share and group, those of whole tiles."""
        return -(-p.C * p.KH * p.KW // MR) * MR * self.line


def launches(p: Product, b: Blocking) -> list[Launch]:
    """Sum by shares, then add the shares; the weight of the problem is dw, and its y is dy."""
    values = p.arguments() | {"dw": p.weight, "partial": Address("partial")}
    values |= {"shares": b.shares, "images": b.images, "rows": b.rows, "columns": b.columns}
    values |= {"in_place": b.in_place, "line": b.line, "strip_size": b.strip}
    values |= {"sums_pitch": b.sums(p), "turned": False, "by_tap": p.C, "by_channel": 1}
    summing = Launch(weight_grad_filters, WEIGHT_GRAD_FILTERS, values, b.shares * p.groups)
    return [summing, adding(p, values, p.C * p.KH * p.KW)]


WEIGHT_GRAD_FILTERS = (
    "record", "x", "x_n", "x_c", "x_h", "x_w", "H", "W", "y", "y_n", "y_f", "y_h", "y_w", "partial",
    "N", "OH", "OW", "groups", "C", "F", "KH", "KW", "stride_h", "stride_w", "offset_h", "offset_w",
    "dilation_h", "dilation_w", "shares", "images", "rows", "columns", "in_place", "line", "strip_size", "sums_pitch",
    "scratch_size",
)  # fmt: skip
WEIGHT_GRAD_FILTERS_COUNT = len(WEIGHT_GRAD_FILTERS)


@partial(NestKernel, level=1)  # as fast as at level 2
def weight_grad_filters(scratch, arguments, worker):
    """C and F are those of one group; a block is `images` x `rows` x `columns` outputs."""
    (
        _, x_address, x_n, x_c, x_h, x_w, H, W, dy_address, y_n, y_f, y_h, y_w, partial_address,
        N, OH, OW, groups, C, F, KH, KW, stride_h, stride_w, offset_h, offset_w,
        dilation_h, dilation_w, shares, images, rows, columns, in_place, line, strip_size, sums_pitch,
        scratch_size,
    ) = unpacked(arguments, WEIGHT_GRAD_FILTERS_COUNT)  # fmt: skip
    x, dy, partial = (
        pointer(x_address, scratch),
        pointer(dy_address, scratch),
        pointer(partial_address, scratch),
    )
    strip = moved(scratch, worker * scratch_size)
    places = integers(moved(strip, strip_size))
    packed = moved(strip, strip_size + 2 * (C * KH * KW + MR))
    strip_of_w = -1
    h_blocks, w_blocks = (OH + rows - 1) // rows, (OW + columns - 1) // columns
    blocks = (N + images - 1) // images * h_blocks * w_blocks
    while True:
        piece = claim(arguments, worker)
        if piece >= shares * groups:
            return 0
        share, group = divmod(piece, groups)
        sums = moved(partial, piece * sums_pitch)
        first, last = share * blocks // shares, (share + 1) * blocks // shares
        if first == last:  # of no images
            clear(sums, sums_pitch)
        for block in range(first, last):
            rest, w_block = divmod(block, w_blocks)
            image_block, h_block = divmod(rest, h_blocks)
            n, oh, ow = image_block * images, h_block * rows, w_block * columns
            depth, height, width = min(images, N - n), min(rows, OH - oh), min(columns, OW - ow)
            strip_rows = (height - 1) * stride_h + (KH - 1) * dilation_h + 1
            strip_columns = (width - 1) * stride_w + (KW - 1) * dilation_w + 1
            pack_pixels(
                strip, C, moved(x, n * x_n + group * C * x_c), x_n, x_c, x_h, x_w, H, W, depth, strip_rows,
                strip_columns, C, oh * stride_h + offset_h, ow * stride_w + offset_w,
            )  # fmt: skip
            if strip_columns != strip_of_w:
                strip_of_w = strip_columns
                for k in range(C * KH * KW + MR):  # tiles go beyond the last tap, which is then summed again
                    tap, c = divmod(min(k, C * KH * KW - 1), C)
                    kh, kw = divmod(tap, KW)
                    store_integer(places, k, (kh * dilation_h * strip_columns + kw * dilation_w) * C + c)
            grads, pitch = moved(dy, n * y_n + group * F * y_f), y_w
            if in_place:
                grads = moved(grads, oh * y_h + ow * y_w)
            else:
                pack_pixels(packed, F, grads, y_n, y_f, y_h, y_w, OH, OW, depth, height, width, F, oh, ow)
                # What a tail reads behind the last filter is 0: numbers out of old memory may be subnormal, and slow.
                vector_store(packed, depth * height * width * F, vector_zero(packed))
                grads, pitch = packed, F
            multiply_taps(
                C * KH * KW, F, depth, height, width, strip, places, strip_rows * strip_columns * C,
                stride_h * strip_columns * C, stride_w * C, grads, pitch, sums, line, block == first,
            )  # fmt: skip


def make_micro_kernel(rows, vectors):
    """Micro-kernel of a tile of `rows` taps x `vectors` vectors of filters; the tile stays in registers."""

    @helper
    @named(rows, vectors)
    def micro_kernel(images, height, width, x, places, x_image, x_row, x_step, dy, dy_pitch, sums, line, fresh):
        lanes = lanes_of(sums)
        tile = tile_zero(sums, rows, vectors)
        taps = unpacked(places, rows)
        for n in range(images):
            for h in range(height):
                pixel = moved(x, n * x_image + h * x_row)
                for _ in range(width):
                    tile = tile_multiply_add(tile, pixel, taps, dy, lanes)
                    pixel, dy = walked(pixel, x_step), moved(dy, dy_pitch)
        if fresh:
            tile_store(sums, line, lanes, tile)
        else:
            tile_add(sums, line, lanes, tile)

    return micro_kernel


micro_wide, micro_1 = make_micro_kernel(MR, VECTORS), make_micro_kernel(MR, 1)
micro_2 = make_micro_kernel(MR, 2) if VECTORS > 2 else micro_wide
# The last taps: a tile of 4, whose accumulators still cover the latency.
tail_wide, tail_1 = make_micro_kernel(4, VECTORS), make_micro_kernel(4, 1)
tail_2 = make_micro_kernel(4, 2) if VECTORS > 2 else tail_wide


@helper
def multiply_taps(
    taps, filters, images, height, width, x, places, x_image, x_row, x_step, dy, dy_pitch, sums, line, fresh
):  # fmt: skip
    """sums[k * line + f] (= if fresh, else +=) sum over pixels (n, h, w) of x[places[k] + pixel] * dy[pixel, f].

    In x the pixel is at n * x_image + h * x_row + w * x_step, in dy one is dy_pitch behind the other.
    """
    lanes = lanes_of(sums)
    i = 0
    while i < filters:  # dy of a tile stays in L1
        vectors = vectors_of_tile((filters - i + lanes - 1) // lanes, MR)
        for k in range(0, taps, MR):
            out = moved(sums, k * line + i)
            tile = (
                images, height, width, x, moved(places, k), x_image, x_row, x_step, moved(dy, i), dy_pitch, out, line,
                fresh,
            )  # fmt: skip
            if taps - k > 4:
                if vectors == VECTORS:
                    micro_wide(*tile)
                elif vectors == 2:
                    micro_2(*tile)
                else:
                    micro_1(*tile)
            elif vectors == VECTORS:
                tail_wide(*tile)
            elif vectors == 2:
                tail_2(*tile)
            else:
                tail_1(*tile)
        i += vectors * lanes
