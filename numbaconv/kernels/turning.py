"""Blocks turned by the diagonal.

Each is a hundred instructions: functions of their own, which a kernel compiles once and calls from several places.
"""

from . import tiling
from .jit import helper
from .simd import (
    copy_transposed,
    copy_transposed_across,
    copy_transposed_rows,
    copy_transposed_whole,
    copy_turned,
    copy_turned_to,
    lanes_of,
    moved,
    prefetch,
)

MR = tiling.MR
# Whether rows that follow each other are turned in fewer, whole blocks, wherever one ends: on AVX2 depthwise layers
# take 5 to 13% less time, with AVX-512 those of 112 x 112 take 7% more.
WHOLE_BLOCKS = not tiling.MASKS_ARE_FREE

# Blocks of a row that are asked for ahead, in rows of so many elements at least: the core does not follow 16 of them at
# once. Depthwise layers of 112 x 112 take 4 to 10% less time, those of 7 x 7 would take 3% more.
AHEAD, LONG_ROW = 2, 64


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
    lanes = lanes_of(source)
    for j in range(0, columns, lanes // 2):
        out, here = moved(destination, j // 2 * destination_pitch), min(lanes // 2, columns - j)
        copy_transposed(out, destination_pitch, moved(source, j), source_pitch, rows, here, 2)


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
