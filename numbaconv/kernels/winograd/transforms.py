"""The transforms of :mod:`.algebra` on vectors of channels: no lane meets another one.

A block of channels is first brought side by side, `lanes` of them per pixel (:mod:`..packing` does so for every
layout, and channels-last arrays lie so already). Then an element of a tile is a vector, and a transform is the same
few multiply-adds for all lanes: no shuffles, no tails, no borders.
"""

from __future__ import annotations

from fractions import Fraction

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..emit import Vector, emit_load, emit_multiply_add, emit_store, vector_of
from ..jit import helper, named
from ..pixels import unpack_pixels
from ..rows import AHEAD, clear, prefetch_run
from ..simd import (
    lanes_of,
    load,
    moved,
    store,
    vector_add,
    vector_load,
    vector_store,
)
from ..turning import transpose_block
from .algebra import POINTS, filter_matrix, input_matrix, output_matrix
from .maps import pack_maps

# What :func:`line` applies, at n points: B^T to n numbers of x; G to r taps, or m numbers of dy; A^T to n sums, for m
# outputs, or r taps of dw.
INPUT, FILTER, OUTPUT = range(3)


def matrix_of(kind, n, size):
    """The matrix of a transform in exact fractions; `size` is the extent that is not n, and n for INPUT."""
    points = POINTS[n]
    return {
        INPUT: lambda: input_matrix(points),
        FILTER: lambda: filter_matrix(points, size),
        OUTPUT: lambda: output_matrix(points, size),
    }[kind]()


def mirrored(first, second):
    """Whether the odd places have opposite signs and the even ones are equal, as for points p and -p."""
    return any(first) and all(b == (-1) ** k * a for k, (a, b) in enumerate(zip(first, second, strict=True)))


def pairs_of(lines):
    """Pairs (i, j) of lines for points p and -p."""
    return [(i, j) for j, right in enumerate(lines) for i, left in enumerate(lines[:j]) if mirrored(left, right)]


def emit_sum(builder, terms, vector):
    """Sum of coefficient * value, beginning with a term that needs no product."""
    terms = sorted(((c, value) for c, value in terms if c), key=lambda term: term[0] != 1)
    total = None
    for coefficient, value in terms:
        if total is None and coefficient == 1:
            total = value
            continue
        factor = ir.Constant(vector_of(vector), [float(coefficient)] * vector.lanes)
        if total is None:
            total = builder.fmul(factor, value)
        else:
            total = emit_multiply_add(builder, factor, value, total, vector)
    return total


def emit_product(builder, matrix, values, vector):
    """matrix @ values. What the points p and -p have in common is computed once, 12 operations for B^T in place of 27.

    Rows for p and -p (B^T, G) are even + odd and even - odd part; columns (A^T) take the sum and the difference of
    their two values.
    """
    rows: list = [None] * len(matrix)
    for i, j in pairs_of(matrix):
        even = emit_sum(builder, [(matrix[i][k], values[k]) for k in range(0, len(values), 2)], vector)
        odd = [(matrix[i][k], values[k]) for k in range(1, len(values), 2) if matrix[i][k]]
        scale = odd[-1][0]
        odd_sum = emit_sum(builder, [(c / scale, value) for c, value in odd], vector)
        for row, sign in ((i, 1), (j, -1)):
            rows[row] = emit_sum(builder, [(Fraction(1), even), (sign * scale, odd_sum)], vector)
    if any(row is not None for row in rows):
        return [
            emit_sum(builder, zip(matrix[i], values, strict=True), vector) if row is None else row
            for i, row in enumerate(rows)
        ]
    columns = list(zip(*matrix, strict=True))
    pairs = pairs_of(columns)
    sums = {i: (builder.fadd(values[i], values[j]), builder.fsub(values[i], values[j])) for i, j in pairs}
    second = {j for _, j in pairs}
    return [
        emit_sum(
            builder,
            [(c, sums[k][i % 2] if k in sums else values[k]) for k, c in enumerate(row) if k not in second],
            vector,
        )
        for i, row in enumerate(matrix)
    ]


@intrinsic(prefer_literal=True)
def line(typingctx, kind, n, size, source, step, destination, destination_step):
    """destination[i * destination_step] = sum over k of matrix[i][k] * source[k * step], of vectors"""
    vector = Vector(source.dtype)
    matrix = matrix_of(kind.literal_value, n.literal_value, size.literal_value)

    def generate(context, builder, signature, args):
        _, _, _, src, src_step, dst, dst_step = args

        def times(pitch, i):
            return builder.mul(pitch, ir.Constant(ir.IntType(64), i))

        values = [emit_load(builder, src, times(src_step, k), vector) for k in range(len(matrix[0]))]
        for i, value in enumerate(emit_product(builder, matrix, values, vector)):
            emit_store(builder, value, dst, times(dst_step, i), vector)
        return context.get_dummy_value()

    return types.void(kind, n, size, source, types.int64, destination, types.int64), generate


def make_tile_transform(kind, n, m, size):
    """Transform of all tiles of size x size, at n x n positions, that begin m apart; or m times the dilation, and
    then those that begin at the pixels between two of a tile.
    """
    r = n - m + 1

    @helper
    @named(kind, n, m, size)
    def transform_tiles(
        destination, plane, tile_pitch, block_pitch, strip, lines, x, x_n, x_c, x_h, x_w, H, W,
        images, rows, columns, first, channels, top, left, step_h, step_w, maps,
    ):  # fmt: skip
        """destination[(i, j) * plane + c // lanes * block_pitch + tile * tile_pitch + c % lanes] = element (i, j).

        Of channels `first` + c of a sum over `maps`, and of `rows` x `columns` times step_h x step_w tiles of each
        image, whose pixels are (step_h, step_w) apart, the first at (top, left), as :func:`.maps.pack_maps` has them;
        tiles count (image, row, row of a step, column, column of a step). `strip` has room for their pixels and
        `lines` for n rows of them, in vectors.
        """
        lanes = lanes_of(strip)
        height, width = ((rows - 1) * m + size) * step_h, ((columns - 1) * m + size) * step_w
        for c in range(0, channels, lanes):
            pack_maps(
                strip, lines, x, x_n, x_c, x_h, x_w, H, W, images, height, width, first + c,
                min(lanes, channels - c), top, left, r, maps,
            )  # fmt: skip
            tile = moved(destination, c // lanes * block_pitch)
            for row in range(images * rows * step_h):
                image, v = first_of_tile(row, rows, m, step_h)
                pixels = moved(strip, (image * height + v) * width * lanes)
                # Down the columns first: neighbours share what they have of those.
                for u in range(width):
                    column_of = moved(pixels, u * lanes)
                    line(kind, n, size, column_of, step_h * width * lanes, moved(lines, u * lanes), width * lanes)
                for column in range(columns * step_w):
                    _, u = first_of_tile(column, columns, m, step_w)
                    for i in range(n):
                        across = moved(lines, (i * width + u) * lanes)
                        line(kind, n, size, across, step_w * lanes, moved(tile, i * n * plane), plane)
                    tile = moved(tile, tile_pitch)

    return transform_tiles


@helper
def first_of_tile(index, tiles, m, step):
    """(image, first row) of a row of tiles, `tiles` times `step` of which an image has; or of columns likewise."""
    image, place = divmod(index, tiles * step)
    if step == 1:  # most kernels, and a division takes as long as a line
        return image, place * m
    tile, between = divmod(place, step)
    return image, tile * m * step + between


def make_filter_transform(n, r):
    """Transform of filters of r x r taps, at n x n positions."""

    @helper
    @named(n, r)
    def transform_filters(
        destination, plane, block_pitch, stage, weight, w_row, w_channel, w_kh, w_kw, packed, filters, channels
    ):  # fmt: skip
        """destination[(i, j) * plane + f // lanes * block_pitch + c * lanes + f % lanes] = element (i, j) of (f, c).

        `stage` has room for `channels` x r x r + r n vectors and one more. `packed`: the weight is in vectors of
        filters already, as :func:`pack_filters` has them.
        """
        lanes = lanes_of(stage)
        taps = r * r
        lines = moved(stage, channels * taps * lanes)
        for f in range(0, filters, lanes):
            here = min(lanes, filters - f)
            block, kernels = moved(destination, f // lanes * block_pitch), stage
            if packed:
                kernels = moved(weight, f * w_row)
            else:
                if here < lanes:
                    clear(stage, channels * taps * lanes)
                pack_filters(stage, moved(weight, f * w_row), w_row, w_channel, w_kh, w_kw, r, here, channels)
            for c in range(channels):
                kernel = moved(kernels, c * taps * lanes)
                for kw in range(r):
                    line(FILTER, n, r, moved(kernel, kw * lanes), r * lanes, moved(lines, kw * lanes), r * lanes)
                for i in range(n):
                    across = moved(lines, i * r * lanes)
                    line(FILTER, n, r, across, lanes, moved(block, i * n * plane + c * lanes), plane)

    return transform_filters


@helper
def pack_filters(stage, weight, w_row, w_channel, w_kh, w_kw, r, filters, channels):
    """stage[((c * r + kh) * r + kw) * lanes + f] = weight[f, c, kh, kw] for f < filters, at most lanes."""
    lanes = lanes_of(stage)
    taps = r * r
    turned = w_kw == -1 and w_kh == -r
    if turned or (w_kw == 1 and w_kh == r):
        # Taps that follow each other, forwards or backwards, and with them the channels where they do too.
        first, step = (taps - 1, -lanes) if turned else (0, lanes)
        runs, length = (1, channels * taps) if w_channel == taps and not turned else (channels, taps)
        for run in range(runs):
            source = moved(weight, run * w_channel + (r - 1) * (w_kh + w_kw) * (1 if turned else 0))
            if 0 < w_row and w_row < w_channel:  # filters lie together, and the next channel's far away
                prefetch_run(moved(source, AHEAD * w_channel), filters * w_row)
            out = moved(stage, (run * length + first) * lanes)
            for i in range(0, length, lanes):
                count = min(lanes, length - i)
                transpose_block(moved(out, i * step), step, moved(source, i), w_row, filters, count)
        return
    for c in range(channels):
        for kh in range(r):
            for kw in range(r):
                source = moved(weight, c * w_channel + kh * w_kh + kw * w_kw)
                for f in range(filters):
                    store(stage, ((c * r + kh) * r + kw) * lanes + f, load(source, f * w_row))


def make_output_transform(n, m):
    """Transform of sums at n x n positions back to tiles of m x m outputs."""

    @helper
    @named(n, m)
    def transform_output(
        sums, plane, block_pitch, strip, lines, bias, y, y_n, y_f, y_h, y_w, OH, OW, images, rows, columns, filters,
        top, left, step_h, step_w, accumulate,
    ):  # fmt: skip
        """y (+)= the outputs of tiles as in :func:`make_tile_transform`, the first at (top, left), plus bias.

        The sums of filter f and a tile are at (i, j) * plane + f // lanes * block_pitch + tile * lanes + f % lanes.
        `bias` is (pointer, step, whether).
        """
        lanes = lanes_of(strip)
        values, bias_step, biased = bias
        height, width = rows * m * step_h, columns * m * step_w
        image_pixels = height * width * lanes
        for f in range(0, filters, lanes):
            count = min(lanes, filters - f)
            block = moved(sums, f // lanes * block_pitch)
            for row in range(images * rows * step_h):
                image, v = first_of_tile(row, rows, m, step_h)
                for column in range(columns * step_w):
                    _, u = first_of_tile(column, columns, m, step_w)
                    for j in range(n):
                        line(OUTPUT, n, m, moved(block, j * plane), n * plane, moved(lines, j * lanes), n * lanes)
                    out = moved(strip, ((image * height + v) * width + u) * lanes)
                    for k in range(m):
                        across = moved(lines, k * n * lanes)
                        line(OUTPUT, n, m, across, lanes, moved(out, k * step_h * width * lanes), step_w * lanes)
                    block = moved(block, lanes)
            if biased:
                for i in range(count):
                    store(lines, i, load(values, (f + i) * bias_step))
                value = vector_load(lines, 0)
                for i in range(0, images * image_pixels, lanes):
                    vector_store(strip, i, vector_add(vector_load(strip, i), value))
            unpack_pixels(
                strip, lanes, image_pixels, width, moved(y, f * y_f + top * y_h + left * y_w), y_n, y_f, y_h, y_w,
                images, min(height, OH - top), min(width, OW - left), count, accumulate,
            )  # fmt: skip

    return transform_output
