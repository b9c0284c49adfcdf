"""Arrays beside a page that cannot be touched: a stray access ends the process. Linux and macOS only.

    python -m tests.guard

goes over the shape list, and names each case on stderr before it runs it.
"""

import ctypes
import mmap
import sys

import numpy as np

from .cases import ALGORITHMS, LAYOUTS, MEMORY, PASSES, SHAPES, TAILS
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


def main():
    for case in (*MEMORY, *TAILS, *SHAPES):
        for layout in LAYOUTS:
            problem = Problem.normals(case, np.float32, layout)
            for side in ("begin", "end"):
                beside = problem.map(lambda array, side=side: guarded(array, side))
                for algorithm in ALGORITHMS:
                    if not case.supports(algorithm):
                        continue
                    for name in PASSES:
                        print(case, layout, side, algorithm, name, file=sys.stderr, flush=True)
                        desired = problem.run(name, algorithm)
                        out = guarded(np.full_like(desired, np.nan), side)
                        assert_same_bits(beside.run(name, algorithm, out=out), desired)
    print("no stray access")


if __name__ == "__main__":
    main()
