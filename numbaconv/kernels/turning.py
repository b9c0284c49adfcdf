"""Blocks turned by the diagonal.

Each is a hundred instructions: functions of their own, which a kernel compiles once and calls from several places.
"""

from . import tiling
from .jit import helper
from .simd import (
    copy_transposed,
    copy_transposed_across,
    copy_transposed_whole,
    copy_turned,
    copy_turned_to,
    lanes_of,
    moved,
)

MR = tiling.MR
# Where masks cost nothing, blocks of each row are as fast as fewer whole ones: Winograd's dw of 112 x 112 takes 8%
# longer by those, depthwise layers of 7 x 7 take 3% less.
WHOLE_BLOCKS = not tiling.MASKS_ARE_FREE


@helper
def transpose_block(destination, destination_pitch, source, source_pitch, rows, columns):
    """destination[j * destination_pitch + i] = source[i * source_pitch + j], i < rows, j < columns.

    Requires 1 <= rows, columns <= lanes; reads and writes no more.
    """
    copy_transposed(destination, destination_pitch, source, source_pitch, rows, columns, 1)


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
def transpose_run(destination, pitch, source, step, count, width, gap, channels):
    """destination[i * pitch + i // width * gap + c] = source[c * step + i] for i < count and c < channels.

    Whole blocks, if any, regardless of where a row of `width` ends: the one after the first begins where they lead to
    the end, and writes again what they have in common.
    """
    lanes = lanes_of(destination)
    for c in range(0, channels, lanes):
        here = min(lanes, channels - c)
        out, line = moved(destination, c), moved(source, c * step)
        if here < lanes or count < lanes or not WHOLE_BLOCKS:
            for i in range(0, count, width):
                for u in range(0, width, lanes):
                    block = moved(out, u * pitch)
                    transpose_block(block, pitch, moved(line, i + u), step, here, min(lanes, width - u))
                out = moved(out, width * pitch + gap)
            continue
        i, u = 0, 0
        while i + lanes <= count:
            if u + lanes <= width or gap == 0:
                transpose_whole(out, pitch, moved(line, i), step)
            else:
                transpose_across(out, pitch, moved(line, i), step, width - u, width, gap)
            ahead = (count - 1) % lanes + 1 if i == 0 else lanes
            i, u, out = i + ahead, u + ahead, moved(out, ahead * pitch)
            while u >= width:
                u, out = u - width, moved(out, gap)


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
