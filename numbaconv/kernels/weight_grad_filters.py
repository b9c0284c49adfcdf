"""Weight gradient with filters in the vector, where a group has few channels and those of a pixel lie together.

dw[k, f] = sum over pixels of x[what tap k of the pixel reads] * dy[pixel, f], k = (kh, kw, c). The filters of a pixel
fill vectors, where they lie; its few channels would not, and are broadcast.

    for a share of the blocks of output pixels, and a group:       one piece of work
        for a block of images, rows and columns of outputs:
            pack x into a strip [image, row, column][channel]
            gather the taps of each pixel                          [pixel][kh, kw, c]
            product                                                sums of the share [kh, kw, c][filter]
    add the shares                                                 in order, to dw

A share is a fixed part of the blocks, walked in order, and shares are added in order: the same bits for any number of
threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import tiling
from .gemm import ADD, FRESH, multiply_panels
from .launch import Address, Launch, NestKernel
from .packing import clear
from .pixels import pack_pixels
from .problem import Product
from .simd import integers, moved, pointer, unpacked, vector_store, vector_zero
from .weight_grad import gather_taps
from .weight_grad_pixels import adding
from .work import claim

MR = tiling.MR


@dataclass(frozen=True)
class Blocking:
    """Sizes of the nest: shares, and the outputs of a block. `in_place`: dy is read where it lies."""

    shares: int
    images: int
    rows: int
    columns: int
    in_place: bool
    #: Elements of the taps of a pixel, of a row of sums, and of the strip.
    taps: int
    line: int
    strip: int

    def scratch(self, p: Product) -> int:
        """Elements of scratch of a worker: strip, gathered taps, dy."""
        pixels = self.images * self.rows * self.columns
        return self.strip + (pixels + 1) * self.taps + (0 if self.in_place else pixels * p.F + self.line)

    def sums(self, p: Product) -> int:
        """Elements of the sums of a share and group, those of whole tiles."""
        return -(-p.C * p.KH * p.KW // MR) * MR * self.line


def launches(p: Product, b: Blocking) -> list[Launch]:
    """Sum by shares, then add the shares; the weight of the problem is dw, and its y is dy."""
    values = p.arguments() | {"dw": p.weight, "partial": Address("partial")}
    values |= {"shares": b.shares, "images": b.images, "rows": b.rows, "columns": b.columns}
    values |= {"in_place": b.in_place, "taps_pitch": b.taps, "line": b.line, "strip_size": b.strip}
    values |= {"sums_pitch": b.sums(p), "turned": False, "by_tap": p.C, "by_channel": 1}
    summing = Launch(weight_grad_filters, WEIGHT_GRAD_FILTERS, values, b.shares * p.groups)
    return [summing, adding(p, values, p.C * p.KH * p.KW)]


WEIGHT_GRAD_FILTERS = (
    "record", "x", "x_n", "x_c", "x_h", "x_w", "H", "W", "y", "y_n", "y_f", "y_h", "y_w", "partial",
    "N", "OH", "OW", "groups", "C", "F", "KH", "KW", "stride_h", "stride_w", "offset_h", "offset_w",
    "dilation_h", "dilation_w", "shares", "images", "rows", "columns", "in_place", "taps_pitch", "line", "strip_size",
    "sums_pitch", "scratch_size",
)  # fmt: skip
WEIGHT_GRAD_FILTERS_COUNT = len(WEIGHT_GRAD_FILTERS)


@NestKernel
def weight_grad_filters(scratch, arguments, worker):
    """C and F are those of one group; a block is `images` x `rows` x `columns` outputs."""
    (
        _, x_address, x_n, x_c, x_h, x_w, H, W, dy_address, y_n, y_f, y_h, y_w, partial_address,
        N, OH, OW, groups, C, F, KH, KW, stride_h, stride_w, offset_h, offset_w,
        dilation_h, dilation_w, shares, images, rows, columns, in_place, taps_pitch, line, strip_size,
        sums_pitch, scratch_size,
    ) = unpacked(arguments, WEIGHT_GRAD_FILTERS_COUNT)  # fmt: skip
    x, dy, partial = (
        pointer(x_address, scratch),
        pointer(dy_address, scratch),
        pointer(partial_address, scratch),
    )
    strip = moved(scratch, worker * scratch_size)
    gathered = moved(strip, strip_size)
    packed = moved(gathered, (images * rows * columns + 1) * taps_pitch)
    apart = KW if dilation_w != 1 else 1  # how many stretches a row of taps is
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
            # What a tail reads behind the last channel is 0: numbers out of old memory may be subnormal, and slow.
            vector_store(strip, depth * strip_rows * strip_columns * C, vector_zero(strip))
            gather_taps(
                gathered, taps_pitch, strip, depth, height, width, KH, apart, C * (KW // apart), strip_rows,
                strip_columns * C, stride_h, stride_w * C, dilation_h, dilation_w * C,
            )  # fmt: skip
            b, b_pitch = moved(dy, n * y_n + group * F * y_f + oh * y_h + ow * y_w), y_w
            pixels = depth * height * width
            if not in_place:
                pack_pixels(packed, F, b, y_n, y_f, y_h, y_w, height, width, depth, height, width, F, 0, 0)
                vector_store(packed, pixels * F, vector_zero(packed))
                b, b_pitch = packed, F
            multiply_panels(
                C * KH * KW, F, pixels, 1, integers(scratch), gathered, MR, 1, taps_pitch, b, b_pitch, sums, line,
                FRESH if block == first else ADD, dy, y_f,
            )  # fmt: skip
