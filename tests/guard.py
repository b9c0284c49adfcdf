"""Arrays beside a page that cannot be touched: a stray access ends the process. Linux and macOS only.

    python -m tests.guard

goes over the shape list, and names each case on stderr before it runs it.
"""

import ctypes
import mmap
import sys
from functools import partial

import numba
import numpy as np

from .cases import ALGORITHMS, LAYOUTS, LIGHT_BLOCKS, MEMORY, PASSES, SHAPES, TAILS
from .problem import Problem, assert_same_bits


def guarded(array, side):
    """A copy of `array` that begins right after, or ends right before, an unreadable page."""
    if array.size == 0:
        return array
    page = mmap.PAGESIZE
    pages = -(-array.nbytes // page)
    memory = mmap.mmap(-1, (pages + 2) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for end in (0, (pages + 1) * page):
        if protect(ctypes.c_void_p(start + end), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect failed")
    offset = page if side == "begin" else (pages + 1) * page - array.nbytes
    copy = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    return copy


def every_other(array, side):
    """With a gap behind each element of each axis but the last: the ends are elements."""
    memory = np.full([2 * extent - 1 if extent else 0 for extent in array.shape], np.nan, array.dtype)
    memory[(slice(None, None, 2),) * array.ndim] = array
    return guarded(memory, side)[(slice(None, None, 2),) * array.ndim]


def backwards(array, side):
    """Negative strides on every axis."""
    turned = (slice(None, None, -1),) * array.ndim
    return guarded(array[turned], side)[turned]


def transposed(array, side):
    """The axes stored in reverse order."""
    return guarded(array.T, side).T


def runs():
    """(case, dtype, place, flip, accumulate) of each round over layouts, sides, algorithms and passes."""
    for case in (*MEMORY, *TAILS, *SHAPES):
        for dtype in (np.float32, np.float64):
            yield case, dtype, guarded, False, False
    for case in (*MEMORY, *TAILS):
        for place in (every_other, backwards, transposed):
            yield case, np.float32, place, place is transposed, False
        yield case, np.float32, guarded, True, True
    for case in LIGHT_BLOCKS:
        yield case, np.float32, guarded, False, False


def main():
    numba.set_num_threads(1)  # where other work holds the cores, each of these thousands of calls would wait for one
    for case, dtype, place, flip, accumulate in runs():
        for layout in LAYOUTS:
            problem = Problem.normals(case, dtype, layout, flip)
            for side in ("begin", "end"):
                beside = problem.map(partial(place, side=side))
                for algorithm in ALGORITHMS:
                    if not case.supports(algorithm):
                        continue
                    for name in PASSES:
                        what = (case, dtype.__name__, place.__name__, layout, side, algorithm, name)
                        print(*what, file=sys.stderr, flush=True)
                        desired = problem.run(name, algorithm)
                        extra = {"out": place(np.full_like(desired, np.nan), side)}
                        if accumulate and name != "conv2d":
                            extra = {"out": place(np.zeros_like(desired), side), "accumulate": True}
                            desired = desired + np.float32(0)
                        assert_same_bits(beside.run(name, algorithm, **extra), desired)
    print("no stray access")


if __name__ == "__main__":
    main()
