"""How kernels are compiled, kept and started.

A kernel takes three things: scratch memory, an array of int64 arguments, and the number of its worker. Workers claim pieces of work from a counter in arguments[0] until none is left, so that who does a
piece is open and what the piece is is not. Each kernel is compiled once per dtype, as a C function; one small
parallel driver starts any of them by its address, so that no kernel is compiled again inside another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import get_num_threads, njit, prange, types
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

from .jit import cached

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


@njit(parallel=True, nogil=True, error_model="numpy")
def start_workers(address, scratch, arguments, workers):
    """One worker per iteration; what they write is divided by the counter in the arguments."""
    for worker in prange(workers):
        call(address, scratch, arguments, np.int64(worker))


class NestKernel:
    """A kernel that workers share, compiled once per dtype and started by address.

    Parameters
    ----------
    function : callable
        Takes (scratch, arguments, worker): a pointer to elements of the dtype, a pointer to int64, an int.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self._compiled: dict[np.dtype, tuple[int, Any, Any]] = {}

    def compiled(self, dtype: np.dtype) -> tuple[int, Any, Any]:
        """(address, ctypes function, what keeps them alive), compiled or loaded on first use."""
        entry = self._compiled.get(dtype)
        if entry is None:
            element = NUMBA_DTYPES[dtype]
            kinds = (types.CPointer(element), types.CPointer(types.int64), types.int64)
            function = CFunc(self.function, (kinds, types.int64), {}, OPTIONS)
            cached(function, self.function)
            function.compile()
            prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
            entry = (function.address, prototype(function.address), function)
            self._compiled[dtype] = entry
        return entry

    def run(self, dtype: np.dtype, scratch: int, arguments: int, workers: int) -> None:
        """Run on `workers` threads; `scratch` and `arguments` are addresses."""
        address, function, _ = self.compiled(dtype)
        if workers == 1:
            function(scratch, arguments, 0)
        else:
            driver()(address, scratch, arguments, workers)


_driver: list[Any] = []


def driver() -> Any:
    """The entry point of :func:`start_workers`, compiled or loaded on first use."""
    if not _driver:
        cached(start_workers, start_workers.py_func)
        _driver.append(start_workers.compile((types.int64,) * 4))
    return _driver[0]


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
    buffers : dict of str to int
        Elements of the scratch that all workers share, by name.
    scratch : int
        Elements of scratch of one worker.
    parallel : bool
        Whether the work is worth more than one thread.
    """

    # A started worker reads whole vectors; what follows a buffer is another one, or this slack.
    SLACK = 64

    def __init__(
        self,
        launches: Sequence[Launch],
        buffers: dict[str, int],
        scratch: int,
        dtype: np.dtype,
        parallel: bool,
    ) -> None:
        self.dtype, self.parallel = dtype, parallel
        self.launches = tuple(launches)
        self.pieces = max((launch.pieces for launch in launches), default=0)
        line = 64 // dtype.itemsize
        self.offsets, total = {}, 0
        for name, size in buffers.items():
            self.offsets[name] = total
            total += -(-(size + self.SLACK) // line) * line
        self.shared = total
        self.scratch = -(-(scratch + self.SLACK) // line) * line
        values, self._slots, self._starts = [], [], []
        for launch in launches:
            self._starts.append(len(values))
            for name in launch.names:
                value = {"counter": 0, "scratch_size": self.scratch}.get(name)
                value = launch.values[name] if value is None else value
                if isinstance(value, Address):
                    self._slots.append((len(values), value.name, value.offset * dtype.itemsize))
                    value = 0
                values.append(int(value))
        self._template = np.array(values, np.int64)

    def run(self, arrays: dict[str, np.ndarray]) -> None:
        """Run on arrays of the shapes and strides the program was made for, with as many workers as Numba has."""
        workers = min(get_num_threads(), self.pieces) if self.parallel else 1
        itemsize = self.dtype.itemsize
        memory = np.empty((self.shared + self.scratch * workers) * itemsize + 64, np.uint8)
        base = -(-address_of(memory) // 64) * 64
        starts = {name: address_of(array) for name, array in arrays.items()}
        starts |= {name: base + offset * itemsize for name, offset in self.offsets.items()}
        arguments = self._template.copy()
        for index, name, offset in self._slots:
            arguments[index] = starts[name] + offset
        first = address_of(arguments)
        scratch = base + self.shared * itemsize
        for launch, start in zip(self.launches, self._starts, strict=True):
            launch.kernel.run(self.dtype, scratch, first + 8 * start, min(workers, launch.pieces))


def address_of(array: np.ndarray) -> int:
    """Address of the first element."""
    address: int = array.__array_interface__["data"][0]
    return address
