"""Blocks turned by the diagonal.

Each is a hundred instructions: functions of their own, which a kernel compiles once and calls from several places.
"""

from numba.core import types
from numba.extending import intrinsic

from . import tiling
from .emit import Vector, across_rows, emit_transposed_block, emit_transposed_copy, emit_turned_rows, listed_places
from .jit import helper
from .simd import lanes_of, moved, prefetch

MR = tiling.MR
# Whether rows that follow each other are turned in fewer, whole blocks, wherever one ends: on AVX2 depthwise layers
# take 5 to 13% less time, with AVX-512 those of 112 x 112 take 7% more.
WHOLE_BLOCKS = not tiling.MASKS_ARE_FREE

# Blocks of a row that are asked for ahead, in rows of so many elements at least: the core does not follow 16 of them at
# once. Depthwise layers of 112 x 112 take 4 to 10% less time, those of 7 x 7 would take 3% more.
AHEAD, LONG_ROW = 2, 64


@intrinsic(prefer_literal=True)
def copy_transposed(typingctx, destination, destination_pitch, source, source_pitch, rows, columns, every):
    """destination[j * destination_pitch + i] = source[i * source_pitch + every * j], i < rows, every * j < columns.

    Requires 1 <= rows <= lanes and 1 <= columns <= every * lanes / 2, `every` of 1 or 2; reads `columns` elements of
    a row, and writes no more.
    """
    kinds = (destination, types.int64, source, types.int64, types.int64, types.int64, every)
    return types.void(*kinds), emit_transposed_copy(Vector(destination.dtype), every.literal_value, False)


@intrinsic
def copy_transposed_rows(typingctx, destination, destination_pitch, source, source_pitch, columns):
    """destination[j * destination_pitch + i] = source[i * source_pitch + j], i < lanes, j < columns <= lanes / 2.

    Requires 1 <= columns; reads and writes no more.
    """
    emit = emit_transposed_copy(Vector(destination.dtype), 1, True)

    def generate(context, builder, signature, args):
        *block, columns = args
        return emit(context, builder, signature, (*block, None, columns))

    return types.void(destination, types.int64, source, types.int64, types.int64), generate


@intrinsic
def copy_transposed_whole(typingctx, destination, destination_pitch, source, source_pitch):
    """destination[j * destination_pitch + i] = source[i * source_pitch + j] for i, j < lanes"""

    def generate(context, builder, signature, args):
        dst, pitch, src, step = args
        emit_transposed_block(builder, dst, lambda j: builder.mul(pitch, j), src, step, Vector(signature.args[0].dtype))
        return context.get_dummy_value()

    return types.void(destination, types.int64, source, types.int64), generate


@intrinsic
def copy_transposed_across(typingctx, destination, destination_pitch, source, source_pitch, left, width, gap):
    """The same, `gap` elements further for each of the columns before j that is the last one of its row.

    Those are the one after `left` >= 1 of them, and every `width` from there on.
    """

    def generate(context, builder, signature, args):
        dst, pitch, src, step, *row = args
        place_of = across_rows(builder, pitch, *row)
        emit_transposed_block(builder, dst, place_of, src, step, Vector(signature.args[0].dtype))
        return context.get_dummy_value()

    return types.void(destination, types.int64, source, *[types.int64] * 4), generate


@intrinsic(prefer_literal=True)
def copy_turned(typingctx, panel, pitch, MR, source, step, rows, columns):
    """panel[j * pitch + r] = source[r * step + j] if r < rows else 0, for r < MR and j < columns <= lanes.

    Requires 1 <= columns; reads and writes no more.
    """
    n = MR.literal_value

    def generate(context, builder, signature, args):
        panel, pitch, _, source, step, rows, columns = args
        vector = Vector(signature.args[0].dtype)
        emit_turned_rows(builder, panel, lambda j: builder.mul(pitch, j), source, step, rows, columns, n, vector)
        return context.get_dummy_value()

    return types.void(panel, types.int64, MR, source, types.int64, types.int64, types.int64), generate


@intrinsic(prefer_literal=True)
def copy_turned_to(typingctx, panels, places, index, MR, source, step, rows, columns):
    """The same, to panels[places[2 * j] + index * places[2 * j + 1] + r]; MR of 0 for `lanes`."""

    def generate(context, builder, signature, args):
        panels, places, index, _, source, step, rows, columns = args
        vector = Vector(signature.args[0].dtype)
        n = MR.literal_value or vector.lanes
        place_of = listed_places(builder, places, index)
        emit_turned_rows(builder, panels, place_of, source, step, rows, columns, n, vector)
        return context.get_dummy_value()

    kinds = (panels, places, types.int64, MR, source, types.int64, types.int64, types.int64)
    return types.void(*kinds), generate


@intrinsic
def copy_transposed_to(typingctx, panels, places, index, source, step):
    """The same for `lanes` rows and columns."""

    def generate(context, builder, signature, args):
        panels, places, index, source, step = args
        place_of = listed_places(builder, places, index)
        emit_transposed_block(builder, panels, place_of, source, step, Vector(signature.args[0].dtype))
        return context.get_dummy_value()

    return types.void(panels, places, types.int64, source, types.int64), generate


@helper
def transpose_block(destination, destination_pitch, source, source_pitch, rows, columns):
    """destination[j * destination_pitch + i] = source[i * source_pitch + j], i < rows, j < columns.

    Requires 1 <= rows, columns <= lanes; reads and writes no more.
    """
    lanes = lanes_of(source)
    if rows < lanes:
        transpose_part(destination, destination_pitch, source, source_pitch, rows, columns)
        return
    if columns == lanes:
        transpose_whole(destination, destination_pitch, source, source_pitch)
        return
    for j in range(0, columns, lanes // 2):
        copy_transposed_rows(
            moved(destination, j * destination_pitch), destination_pitch, moved(source, j), source_pitch,
            min(lanes // 2, columns - j),
        )  # fmt: skip


@helper
def transpose_part(destination, destination_pitch, source, source_pitch, rows, columns):
    """The same of any number of rows: a function of its own, since where they begin takes long to say."""
    lanes = lanes_of(source)
    for j in range(0, columns, lanes // 2):
        copy_transposed(
            moved(destination, j * destination_pitch), destination_pitch, moved(source, j), source_pitch, rows,
            min(lanes // 2, columns - j), 1,
        )  # fmt: skip


@helper
def transpose_every_second(destination, destination_pitch, source, source_pitch, rows, columns):
    """destination[j * destination_pitch + i] = source[i * source_pitch + 2 * j], i < rows, 2 * j < columns.

    Requires 1 <= rows, columns <= lanes; reads of a row `columns` elements and writes no more.
    """
    copy_transposed(destination, destination_pitch, source, source_pitch, rows, columns, 2)


@helper
def transpose_whole(destination, destination_pitch, source, source_pitch):
    """As :func:`transpose_block`, for `lanes` rows and columns."""
    copy_transposed_whole(destination, destination_pitch, source, source_pitch)


@helper
def transpose_across(destination, destination_pitch, source, source_pitch, left, width, gap):
    """The same, with a gap in the destination after `left` columns and each `width` from there on."""
    copy_transposed_across(destination, destination_pitch, source, source_pitch, left, width, gap)


@helper
def transpose_rows(destination, pitch, source, step, row_step, rows, width, gap, channels):
    """destination[(h * width + w) * pitch + h * gap + c] = source[c * step + h * row_step + w].

    For h < rows, w < width and c < channels. Where whole blocks are faster, rows that follow each other are turned in
    them, wherever one ends.
    """
    lanes = lanes_of(source)
    across = WHOLE_BLOCKS and (row_step == width or rows == 1) and rows * width >= lanes
    for c in range(0, channels, lanes):
        here = min(lanes, channels - c)
        out, line = moved(destination, c), moved(source, c * step)
        if across and here == lanes:
            transpose_run(out, pitch, line, step, rows * width, width, gap)
            continue
        for _ in range(rows):
            for w in range(0, width, lanes):
                for i in range(here if width >= LONG_ROW else 0):
                    prefetch(line, w + AHEAD * lanes + i * step)
                transpose_block(moved(out, w * pitch), pitch, moved(line, w), step, here, min(lanes, width - w))
            out, line = moved(out, width * pitch + gap), moved(line, row_step)


@helper
def transpose_run(destination, pitch, source, step, count, width, gap):
    """destination[i * pitch + i // width * gap + c] = source[c * step + i] for i < count and c < lanes <= count.

    The block after the first begins where they lead to the end, and writes again what they have in common.
    """
    lanes = lanes_of(source)
    i, u = 0, 0
    while i + lanes <= count:
        if u + lanes <= width or gap == 0:
            transpose_whole(destination, pitch, moved(source, i), step)
        else:
            transpose_across(destination, pitch, moved(source, i), step, width - u, width, gap)
        ahead = (count - 1) % lanes + 1 if i == 0 else lanes
        i, u, destination = i + ahead, u + ahead, moved(destination, ahead * pitch)
        while u >= width:
            u, destination = u - width, moved(destination, gap)


@helper
def turn_rows(panel, pitch, source, step, rows, columns):
    """panel[j * pitch + r] = source[r * step + j] if r < rows else 0, for r < MR and j < columns <= lanes.

    Requires 1 <= columns; reads and writes no more.
    """
    copy_turned(panel, pitch, MR, source, step, rows, columns)


@helper
def turn_rows_to(panels, places, index, source, step, rows, columns):
    """The same, to panels[places[2 * j] + index * places[2 * j + 1] + r]."""
    copy_turned_to(panels, places, index, MR, source, step, rows, columns)


@helper
def turn_block_to(panels, places, index, source, step, rows, columns):
    """The same for `lanes` rows instead of MR."""
    lanes = lanes_of(panels)
    if rows == lanes and columns == lanes:
        copy_transposed_to(panels, places, index, source, step)
    else:
        copy_turned_to(panels, places, index, 0, source, step, rows, columns)
