"""How kernels are compiled, kept and started.

A kernel takes three things: scratch memory, an array of int64 arguments, and the number of its worker. Workers claim
pieces of work, as :mod:`.work` deals them, until none is left.
Each kernel is compiled once per dtype, as a C function; one small parallel driver starts any of them by its address,
so that no kernel is compiled again inside another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

from ..arrays import Array
from .code_cache import cached
from .jit import KernelCompiler, compiling, helper
from .turn import turn
from .work import LINE, deal

NUMBA_DTYPES = {np.dtype(np.float32): types.float32, np.dtype(np.float64): types.float64}
OPTIONS = {"error_model": "numpy", "nopython": True}


@intrinsic
def call(typingctx, address, scratch, arguments, worker):
    """Call the kernel at `address`."""

    def generate(context, builder, signature, args):
        i64 = ir.IntType(64)
        kind = ir.FunctionType(i64, [i64, i64, i64])
        function = builder.inttoptr(args[0], kind.as_pointer())
        return builder.call(function, list(args[1:]))

    return types.int64(types.int64, types.int64, types.int64, types.int64), generate


# A program in integers: sizes, then (address, first argument, pieces) of each launch, then (argument, source,
# offset in bytes) of each argument that is an address, then the arguments.
HEADER = 4


@helper
def fill_addresses(sources, program, arguments):
    """arguments = the program's, with sources[source] + offset where an address belongs."""
    launches, slots = program[0], program[1]
    start = HEADER + 3 * launches
    for i in range(program[2]):
        arguments[i] = program[start + 3 * slots + i]
    for i in range(slots):
        place = start + 3 * i
        arguments[program[place]] = sources[program[place + 1]] + program[place + 2]


@helper
def launch_of(program, i):
    """(address, first argument, pieces) of a launch."""
    place = HEADER + 3 * i
    return program[place], program[place + 1], program[place + 2]


@helper
def prepare(a, b, c, out, program, memory, workers):
    """(numbers, record, address of the workers' scratch); no numbers where an array is not aligned.

    The numbers are the arguments and, from `record` on, at a cache line, room for the record of a launch.
    """
    # Addresses are unsigned, and unsigned with signed would be a float.
    base = (np.int64(memory.ctypes.data) + 63) // 64 * 64
    addresses = (
        np.int64(a.ctypes.data),
        np.int64(b.ctypes.data),
        np.int64(c.ctypes.data),
        np.int64(out.ctypes.data),
    )
    sources = (*addresses, base)
    for source in sources:
        if source % a.itemsize != 0:
            return np.empty(0, np.int64), 0, 0
    numbers = np.empty(program[2] + (2 + workers) * LINE, np.int64)
    fill_addresses(sources, program, numbers)
    record = program[2] + -(np.int64(numbers.ctypes.data) // 8 + program[2]) % LINE
    numbers[record] = workers  # of a program without launches, too, whose driver looks at it
    return numbers, record, base + program[3]


@njit(nogil=True, error_model="numpy")
def run_serial(a, b, c, out, program, memory, workers):
    """Every launch on this thread; False where an array is not aligned, and nothing was done."""
    numbers, record, scratch = prepare(a, b, c, out, program, memory, 1)
    if numbers.size == 0:
        return False
    first = np.int64(numbers.ctypes.data)
    for i in range(program[0]):
        address, start, pieces = launch_of(program, i)
        numbers[start] = first + 8 * record
        deal(numbers, record, 1, pieces)
        call(address, scratch, first + 8 * start, 0)
    return numbers[record] >= 0  # a last use: Numba frees an array after it, and the kernels have only its address


@njit(parallel=True, nogil=True, error_model="numpy")
def run_parallel(a, b, c, out, program, memory, workers):
    """Every launch on `workers` threads, one iteration each; what they write is divided by the launch's record."""
    numbers, record, scratch = prepare(a, b, c, out, program, memory, workers)
    if numbers.size == 0:
        return False
    first = np.int64(numbers.ctypes.data)
    for i in range(program[0]):
        address, start, pieces = launch_of(program, i)
        several = min(workers, pieces)
        numbers[start] = first + 8 * record
        deal(numbers, record, several, pieces)
        for worker in prange(several):
            call(address, scratch, first + 8 * start, np.int64(worker))
    return numbers[record] >= 0  # a last use: Numba frees an array after it


@cache
def entry_point(dtype: np.dtype, parallel: bool) -> Callable[..., bool]:
    """The driver for arrays of `dtype` with any strides, compiled or loaded on first use."""
    kind = NUMBA_DTYPES[dtype]
    four, one = types.Array(kind, 4, "A"), types.Array(kind, 1, "A")
    integers, memory = types.Array(types.int64, 1, "C"), types.Array(types.uint8, 1, "C")
    dispatcher = run_parallel if parallel and not turn.forked else run_serial
    with compiling():
        cached(dispatcher, dispatcher.py_func)
        entry: Callable[..., bool] = dispatcher.compile((four, four, one, four, integers, memory, types.int64))
    return entry


class NestKernel:
    """A kernel that workers share, compiled once per dtype and started by address.

    Parameters
    ----------
    function : callable
        Takes (scratch, arguments, worker): a pointer to elements of the dtype, a pointer to int64, an int.
    level : int
        LLVM's level of optimization.
    """

    def __init__(self, function: Callable[..., Any], level: int = 2) -> None:
        self.function, self.level = function, level
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self._compiled: dict[np.dtype, CFunc] = {}

    def address(self, dtype: np.dtype) -> int:
        """The address of its machine code, compiled or loaded on first use."""
        function = self._compiled.get(dtype)
        if function is None:
            with compiling(self.level, vectorize=False):  # several first calls at once: one compiles
                function = self._compiled.get(dtype)
                if function is None:
                    kinds = (types.CPointer(NUMBA_DTYPES[dtype]), types.CPointer(types.int64), types.int64)
                    function = CFunc(self.function, (kinds, types.int64), {}, OPTIONS, pipeline_class=KernelCompiler)
                    cached(function, self.function)
                    function.compile()
                    self._compiled[dtype] = function
        address: int = function.address
        return address


@dataclass(frozen=True)
class Address:
    """An argument that is known at the call only: element `offset` of a named array or buffer."""

    name: str
    offset: int = 0


@dataclass(frozen=True)
class Launch:
    """One start of a kernel: its arguments by name, and the pieces of work in it."""

    kernel: NestKernel
    names: tuple[str, ...]
    values: dict[str, int | Address]
    pieces: int


class Program:
    """The launches of one pass, ready to run on any arrays of the shapes and strides it was made for.

    Parameters
    ----------
    launches : sequence of Launch
        Run in order.
    arrays : sequence of str
        The names that addresses call the arrays of :meth:`run`.
    buffers : dict of str to int
        Elements of the scratch that all workers share, by name.
    scratch : int
        Elements of scratch of one worker.
    parallel : bool
        Whether the work is worth more than one thread.
    most_scratch : int, optional
        Bytes of scratch of all workers together: no more workers are started than have room.
    """

    # What is read in whole vectors may be read this far beyond its end.
    SLACK = 64

    def __init__(
        self,
        launches: Sequence[Launch],
        arrays: Sequence[str],
        buffers: dict[str, int],
        scratch: int,
        dtype: np.dtype,
        parallel: bool,
        most_scratch: int | None = None,
    ) -> None:
        self.dtype = dtype
        self.pieces = max((launch.pieces for launch in launches), default=0)
        line = 64 // dtype.itemsize
        sources = {name: (index, 0) for index, name in enumerate(arrays)}
        self.shared = 0
        for name, size in buffers.items():
            sources[name] = (4, self.shared)
            self.shared += -(-(size + self.SLACK) // line) * line
        self.scratch = -(-(scratch + self.SLACK) // line) * line
        self.workers = self.pieces
        if most_scratch is not None:
            self.workers = min(self.pieces, most_scratch // (self.scratch * dtype.itemsize))
        self.large = parallel  # for one thread, too, which may be all that there is now
        self.parallel = parallel and self.workers > 1

        starts, slots, arguments = [], [], []
        for launch in launches:
            starts.append((launch.kernel.address(dtype), len(arguments), launch.pieces))
            values = launch.values | {"record": 0, "scratch_size": self.scratch}
            for name in launch.names:
                value = values[name]
                if isinstance(value, Address):
                    source, start = sources[value.name]
                    slots.append((len(arguments), source, (start + value.offset) * dtype.itemsize))
                    value = 0
                arguments.append(int(value))
        header = (len(starts), len(slots), len(arguments), self.shared * dtype.itemsize)
        self._program = np.array([*header, *chain(*starts), *chain(*slots), *arguments], np.int64)
        self._bytes = [(self.shared + self.scratch * n) * dtype.itemsize + 64 for n in (0, 1)]
        self._serial = entry_point(dtype, False)

    def run(self, a: Array, b: Array, c: Array, out: Array) -> bool:
        """Run on arrays of four, four, one and four dimensions; False if one is not aligned, and nothing was done."""
        if not self.parallel or (threads := turn.threads()) == 1:
            return self._serial(a, b, c, out, self._program, np.empty(self._bytes[1], np.uint8), 1)
        workers = min(threads, self.workers)
        memory = np.empty(self._bytes[0] + self.scratch * workers * self.dtype.itemsize, np.uint8)
        with turn.lock:
            return entry_point(self.dtype, True)(a, b, c, out, self._program, memory, workers)
