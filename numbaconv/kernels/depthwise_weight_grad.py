"""Weight gradient of a depthwise convolution: dw[c, kh, kw] = sum over pixels of dy[c, pixel] * x[c, what it reads].

Blocks of rows of x and dy are packed as in :mod:`.depthwise`, and a vector runs over channels. A piece of work is a
share of the images and blocks of rows; shares are cut by shape alone and added in order: the same bits for any number
of threads.
"""

from .depthwise import SHAPE_COUNT, depthwise_kernel, weight_of
from .depthwise_taps import place_elements
from .jit import helper, named
from .launch import NestKernel
from .pixels import pack_pixels
from .rows import clear
from .simd import (
    integers,
    lanes_of,
    load,
    moved,
    pointer,
    store,
    store_integer,
    unpacked,
    vector_add,
    vector_load,
    vector_store,
    vector_zero,
    zero_of,
)
from .tiles import tile_multiply_add_rows, tile_store, tile_zero
from .work import claim

# Taps that share the load of a gradient, and hide the latency of each other's addition: those of a 3 x 3 kernel.
TAPS = 9


def make_sums(taps):
    """Micro-kernel of so many taps, whose sums stay in registers."""

    @helper
    @named(taps)
    def sums_of_taps(out, count, stage, line, places, grads, steps, height, width):
        lanes = lanes_of(out)
        line_h, line_w, grads_h, grads_w, zero = steps
        tile = tile_zero(out, taps, 1)
        for h in range(height):
            pixel, grad = moved(line, h * line_h), moved(grads, h * grads_h)
            for _ in range(width):
                tile = tile_multiply_add_rows(tile, pixel, places, grad, zero)
                pixel, grad = moved(pixel, line_w), moved(grad, grads_w)
        tile_store(stage, lanes, lanes, tile)
        for k in range(count):
            vector_store(out, k * lanes, vector_add(vector_load(out, k * lanes), vector_load(stage, k * lanes)))

    return sums_of_taps


sums_of_9, sums_of_3 = make_sums(TAPS), make_sums(3)


@helper
def sum_taps(out, taps, stage, line, places, grads, steps, height, width):
    """out[k] += sum over h < height, w < width of grads[h, w] * line[h, w, places[k]], for k < taps.

    All are vectors. `steps` are those from one h and w of line to the next, and of grads, and a place of 0. Of places
    there are TAPS more.
    """
    lanes = lanes_of(out)
    k = 0
    while k < taps:
        here = moved(out, k * lanes)
        if taps - k > 3:
            sums_of_9(here, min(TAPS, taps - k), stage, line, moved(places, k), grads, steps, height, width)
            k += TAPS
        else:
            sums_of_3(here, taps - k, stage, line, moved(places, k), grads, steps, height, width)
            k += 3


@depthwise_kernel
def depthwise_weight_grad(scratch, arguments, worker):
    """Pieces: share of the images and blocks of rows, part of the channels; sums go to partial[share][c block][tap]."""
    (
        _, x_address, x_n, x_c, x_h, x_w, y_address, y_n, y_c, y_h, y_w, _, _, _, _,
        N, C, H, W, OH, OW, KH, KW, stride_h, stride_w, dilation_h, dilation_w, top, left,
        _, _, partial_address, shares, parts, rows, together, strip_size, _, _, _, _, _, alike, _, scratch_size,
    ) = unpacked(arguments, SHAPE_COUNT)  # fmt: skip
    x, dy, partial = (
        pointer(x_address, scratch),
        pointer(y_address, scratch),
        pointer(partial_address, scratch),
    )
    lanes = lanes_of(scratch)
    places = integers(moved(scratch, worker * scratch_size))
    stage = moved(scratch, worker * scratch_size + place_elements(KH * KW + TAPS, lanes))
    strip = moved(stage, TAPS * lanes)
    grads = moved(strip, strip_size)
    clear(strip, strip_size + rows * OW * together)  # as in the forward pass
    row_blocks, c_blocks = (OH + rows - 1) // rows, (C + together - 1) // together
    # Vectors of sums: of channels, or of whole vectors of those that are alike and of their rest.
    vectors, blocks_n = (2 * (N * C // alike), 1) if alike else ((C + lanes - 1) // lanes, N)
    # What a part has: some blocks of channels, or of those of one channel in the place of an image all, so that no
    # other part adds to their sums; and their vectors of sums.
    shared, each, of_each = c_blocks, 1, together // lanes
    if alike:
        shared, each, of_each = (N, c_blocks, 2) if N > 1 else (c_blocks, 1, 2 * together // alike)
    columns = (OW - 1) * stride_w + (KW - 1) * dilation_w + 1
    for tap in range(KH * KW + TAPS):  # behind the last tap: that one again, whose sum is not kept
        kh, kw = divmod(min(tap, KH * KW - 1), KW)
        store_integer(places, tap, (kh * dilation_h * columns + kw * dilation_w) * together)
    zero = moved(places, KH * KW + TAPS)
    store_integer(zero, 0, 0)
    # Channels-last gradients are read where they lie, but not images: their pixels are pages apart, and meet in one set
    # of L1. 512@14 of 32 images takes 0.6 of the time.
    in_place = y_c == 1 and C % lanes == 0 and not alike
    grads_h, grads_w = (y_h, y_w) if in_place else (OW * together, together)
    steps = stride_h * columns * together, stride_w * together, grads_h, grads_w, zero
    while True:
        piece = claim(arguments, worker)
        if piece >= shares * parts:
            return 0
        share, part = divmod(piece, parts)
        begin, end = part * shared // parts, (part + 1) * shared // parts
        partial_sums = moved(partial, share * vectors * KH * KW * lanes)
        for i in range(begin * of_each * KH * KW, min(vectors, end * of_each) * KH * KW):
            vector_store(partial_sums, i * lanes, vector_zero(scratch))
        for block in range(share * blocks_n * row_blocks // shares, (share + 1) * blocks_n * row_blocks // shares):
            image, row_block = divmod(block, row_blocks)
            oh = row_block * rows
            height = min(rows, OH - oh)
            strip_rows = (height - 1) * stride_h + (KH - 1) * dilation_h + 1
            for unit in range(begin * each, end * each):
                n, c_block = divmod(unit, c_blocks) if alike else (image, unit)
                c = c_block * together
                channels = min(together, C - c)
                pack_pixels(
                    strip, together, moved(x, n * x_n + c * x_c), x_n, x_c, x_h, x_w, H, W, 1, strip_rows, columns,
                    channels, oh * stride_h - top, -left,
                )  # fmt: skip
                if not in_place:
                    pack_pixels(
                        grads, together, moved(dy, n * y_n + c * y_c), y_n, y_c, y_h, y_w, OH, OW, 1, height, OW,
                        channels, oh, 0,
                    )  # fmt: skip
                source = moved(dy, n * y_n + oh * y_h + c) if in_place else grads
                for first in range(0, channels, lanes):
                    vector = (c + first) // lanes
                    if alike:
                        vector = 2 * weight_of(n, C, c + first, alike) + (1 if channels - first < lanes else 0)
                    sum_taps(
                        moved(partial_sums, vector * KH * KW * lanes), KH * KW, stage, moved(strip, first), places,
                        moved(source, first), steps, height, OW,
                    )  # fmt: skip


@NestKernel
def add_depthwise_shares(scratch, arguments, worker):
    """weight is dw here: dw (+)= the partial sums of all shares, added in their order.

    The lanes of those that are `alike` are added, too, in their order.
    """
    (
        _, _, _, _, _, _, _, _, _, _, _, weight_address, w_c, w_kh, w_kw,
        N, C, _, _, _, _, KH, KW, _, _, _, _, _, _, _, _, partial_address, shares, _, _, _, _, _, _, _, _, _,
        alike, accumulate, scratch_size,
    ) = unpacked(arguments, SHAPE_COUNT)  # fmt: skip
    dw, partial = pointer(weight_address, scratch), pointer(partial_address, scratch)
    lanes = lanes_of(scratch)
    stage = moved(scratch, worker * scratch_size)
    pieces, vectors = (N * C // alike, 2) if alike else ((C + lanes - 1) // lanes, 1)
    while True:
        piece = claim(arguments, worker)
        if piece >= pieces:
            return 0
        for kh in range(KH):
            for kw in range(KW):
                for i in range(vectors):
                    source = moved(partial, ((piece * vectors + i) * KH * KW + kh * KW + kw) * lanes)
                    total = vector_load(source, 0)
                    for share in range(1, shares):
                        total = vector_add(total, vector_load(source, share * pieces * vectors * KH * KW * lanes))
                    vector_store(stage, i * lanes, total)
                if alike:
                    value = zero_of(stage)
                    for i in range(lanes + alike % lanes):
                        value += load(stage, i)
                    add_to(dw, piece * w_c + kh * w_kh + kw * w_kw, value, accumulate)
                else:
                    for i in range(min(lanes, C - piece * lanes)):
                        add_to(dw, (piece * lanes + i) * w_c + kh * w_kh + kw * w_kw, load(stage, i), accumulate)


@helper
def add_to(dw, place, value, accumulate):
    """dw[place] (+)= value"""
    store(dw, place, load(dw, place) + value if accumulate else value)
