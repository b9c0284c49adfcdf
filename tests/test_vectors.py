"""What kernels write with vectors: the elements that were asked for, and no others, with any vector instructions."""

from itertools import product

import numpy as np
import pytest
from numba import njit

from numbaconv.kernels import tiling
from numbaconv.kernels.simd import pointer, vector_load, vector_store_first
from numbaconv.kernels.turning import transpose_block, transpose_rows
from tests.memory import pointer_like

DTYPES = (np.float32, np.float64)


@njit
def store_first(destination, offset, source, count):
    like = pointer_like(source)
    value = vector_load(pointer(np.int64(source.ctypes.data), like), 0)
    vector_store_first(pointer(np.int64(destination.ctypes.data), like), offset, value, count)
    return destination[0], source[0]  # a last use of each, after which Numba may free it


@pytest.mark.parametrize("dtype", DTYPES)
def test_first_elements_of_a_vector(dtype):
    """No count, whole vectors and more: also counts below 0, which mean none."""
    lanes = tiling.lanes(np.dtype(dtype).itemsize)
    source = np.arange(1, lanes + 1, dtype=dtype)
    for count in range(-2 * lanes - 1, 2 * lanes + 2):
        for offset in (0, 3):
            destination, expected = np.zeros(lanes + 5, dtype), np.zeros(lanes + 5, dtype)
            store_first(destination, offset, source, count)
            stored = min(max(count, 0), lanes)
            expected[offset : offset + stored] = source[:stored]
            np.testing.assert_array_equal(destination, expected, err_msg=f"{count} from {offset}")


@njit
def turn_block(destination, source, rows, columns):
    like = pointer_like(source)
    transpose_block(
        pointer(np.int64(destination.ctypes.data), like),
        destination.shape[1],
        pointer(np.int64(source.ctypes.data), like),
        source.shape[1],
        rows,
        columns,
    )
    return destination[0, 0], source[0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_of_all_sizes_are_turned(dtype):
    lanes = tiling.lanes(np.dtype(dtype).itemsize)
    for rows in range(1, lanes + 1):
        for columns in range(1, lanes + 1):
            source = np.arange(1, rows * columns + 1, dtype=dtype).reshape(rows, columns)
            destination, expected = np.zeros((lanes + 1, lanes + 1), dtype), np.zeros((lanes + 1, lanes + 1), dtype)
            turn_block(destination, source, rows, columns)
            expected[:columns, :rows] = source.T
            np.testing.assert_array_equal(destination, expected, err_msg=f"{rows} x {columns}")


@njit
def turn_image(destination, source, pitch, row_step, rows, width, gap):
    like = pointer_like(source)
    transpose_rows(
        pointer(np.int64(destination.ctypes.data), like),
        pitch,
        pointer(np.int64(source.ctypes.data), like),
        source.shape[1],
        row_step,
        rows,
        width,
        gap,
        source.shape[0],
    )
    return destination[0], source[0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_all_widths_are_turned(dtype):
    """Rows of any width with a gap between them, of whole and of partial vectors of channels; the gaps stay."""
    lanes = tiling.lanes(np.dtype(dtype).itemsize)
    for channels, width, height, gap, between in product(
        (1, lanes - 1, lanes, lanes + 1, 2 * lanes),
        (1, 2, 3, 7, lanes, lanes + 1, 2 * lanes + 3),
        (1, 2, 5),
        (0, 1, 2),
        (0, 1),
    ):
        pitch = channels + 1
        source = np.arange(1, channels * (width + between) * height + 1, dtype=dtype).reshape(channels, height, -1)
        expected = np.zeros((height, width + gap, pitch), dtype)
        expected[:, :width, :channels] = source[:, :, :width].transpose(1, 2, 0)
        destination = np.zeros(expected.size, dtype)
        turn_image(destination, source.reshape(channels, -1), pitch, width + between, height, width, gap * pitch)
        np.testing.assert_array_equal(
            destination.reshape(expected.shape),
            expected,
            err_msg=f"{channels} {height}x{width}+{gap} of {width + between}",
        )
