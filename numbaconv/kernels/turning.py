"""Blocks turned by the diagonal.

Each is a hundred instructions: functions of their own, which a kernel compiles once and calls from several places.
"""

from . import tiling
from .jit import helper
from .simd import copy_transposed, copy_turned, copy_turned_to

MR = tiling.MR


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
def turn_rows(panel, pitch, source, step, rows, columns):
    """panel[j * pitch + r] = source[r * step + j] if r < rows else 0, for r < MR and j < columns <= lanes.

    Requires 1 <= columns; reads and writes no more.
    """
    copy_turned(panel, pitch, MR, source, step, rows, columns)


@helper
def turn_rows_to(panels, places, index, source, step, rows, columns):
    """The same, to panels[places[2 * j] + index * places[2 * j + 1] + r]."""
    copy_turned_to(panels, places, index, MR, source, step, rows, columns)
