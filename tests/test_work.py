"""How the workers of a launch share its pieces: each piece once, each worker its own range first."""

import ctypes

import numpy as np
import pytest

from numbaconv.kernels.launch import Address, Launch, NestKernel, Program
from numbaconv.kernels.simd import load, pointer, store, unpacked
from numbaconv.kernels.work import LINE, claim, deal

from .process import run_python

NAMES = ("record", "y", "pieces", "scratch_size")
COUNT = len(NAMES)


@NestKernel
def count_pieces(scratch, arguments, worker):
    """y[piece] += 1 for each piece that is claimed."""
    _, address, pieces, _ = unpacked(arguments, COUNT)
    y = pointer(address, scratch)
    while True:
        piece = claim(arguments, worker)
        if piece >= pieces:
            return 0
        store(y, piece, load(y, piece) + 1)


def claims(pieces):
    """How often each piece is claimed."""
    y = np.zeros((1, 1, 1, pieces), np.float32)
    launch = Launch(count_pieces, NAMES, {"y": Address("y"), "pieces": pieces}, pieces)
    program = Program([launch], ("x", "w", "b", "y"), {}, 0, y.dtype, True)
    assert program.run(y, y, np.zeros(1, np.float32), y)
    return y.ravel()


@pytest.mark.parametrize("pieces", (1, 2, 3, 7, 64, 1001))
def test_each_piece_once(pieces):
    for _ in range(20):
        assert (claims(pieces) == 1).all()


def test_each_piece_once_on_any_number_of_threads():
    code = "from tests.test_work import claims\nfor n in (1, 5, 8, 300):\n    assert (claims(n) == 1).all(), n"
    for threads in ("1", "3", "8"):
        run_python(code, NUMBA_NUM_THREADS=threads)


@NestKernel
def list_claims(scratch, arguments, worker):
    """scratch[i] = the i-th claim of this worker, up to the first one beyond the last piece."""
    pieces, i = unpacked(arguments, 2)[1], 0
    while True:
        piece = claim(arguments, worker)
        store(scratch, i, piece)
        i += 1
        if piece >= pieces:
            return i


def claims_alone(workers, pieces, worker):
    """What a worker claims while the others do nothing."""
    numbers = np.zeros((3 + workers) * LINE, np.int64)
    first = -(numbers.ctypes.data // 8) % LINE
    record, arguments = numbers[first:], np.array([0, pieces])
    deal.py_func(record, 0, workers, pieces)
    arguments[0] = record.ctypes.data
    found = np.zeros(pieces + 1, np.float32)
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    count = kind(list_claims.address(found.dtype))(found.ctypes.data, arguments.ctypes.data, worker)
    return found[:count].tolist()


@pytest.mark.parametrize("worker", range(3))
def test_own_range_first_then_those_of_others(worker):
    """Of eight pieces for three workers: 0 and 1, 2 to 4, 5 to 7."""
    ranges = [[0, 1], [2, 3, 4], [5, 6, 7]]
    expected = [piece for i in range(3) for piece in ranges[(worker + i) % 3]]
    assert claims_alone(3, 8, worker) == [*expected, 8]


def test_without_launches_it_is_done():
    y = np.zeros((1, 1, 1, 1), np.float32)
    assert Program([], ("x", "w", "b", "y"), {}, 0, y.dtype, False).run(y, y, np.zeros(1, np.float32), y)
