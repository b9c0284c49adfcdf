"""The multiply-add peak of the machine: independent chains of multiply-adds that never leave the registers."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import cfunc, from_dtype, types
from numba.extending import intrinsic

from numbaconv.kernels import tiling
from numbaconv.kernels.emit import emit_multiply_add
from numbaconv.kernels.simd import moved, vector_load
from numbaconv.kernels.tiles import tile_load, tile_store

# A multiply-add takes 4 cycles, and 2 to 4 start in one, so that 8 to 16 chains keep the units busy. AVX-512 and
# NEON have 32 registers: 24 chains + 2 operands. AVX2 and SSE have 16: 12 + 2.
CHAINS = 24 if tiling.AVX512 or tiling.NEON else 12
# From any start the chains tend to b / (1 - a) = 2: no infinity, no subnormal number ever comes up.
SCALE, OFFSET = 0.5, 1.0

# A round has to be short, to fit between two interruptions, and long against the start of a thread.
ROUND_SECONDS = 0.002
# Part of a round in which all threads have to be at work at once.
OVERLAP = 0.9


class PeakError(RuntimeError):
    """A kernel was faster than the machine's peak, which was therefore measured wrong."""


@intrinsic
def tile_scale_add(typingctx, tile, a, b):
    """t[r, i] = t[r, i] * a[i] + b[i]"""

    def generate(context, builder, signature, args):
        value, scale, offset = args
        for i in range(tile.rows * tile.vectors):
            chain = builder.extract_value(value, i)
            total = emit_multiply_add(builder, chain, scale, offset, tile.vector)
            value = builder.insert_value(value, total, i)
        return value

    return tile(tile, a, b), generate


def make_chains(dtype: np.dtype):
    """Compile t = t * a + b, `steps` times over the tile at p; a and b are the two vectors behind the tile.

    A C function, called through ctypes, which lets go of the interpreter's lock.
    """
    lanes = tiling.lanes(dtype.itemsize)

    def chains(p, steps):
        behind = moved(p, CHAINS * lanes)
        scale, offset = vector_load(behind, 0), vector_load(behind, lanes)
        # Every chain starts elsewhere: equal ones would be computed once.
        tile = tile_load(p, lanes, lanes, CHAINS, 1)
        for _ in range(steps):
            tile = tile_scale_add(tile, scale, offset)
        tile_store(p, lanes, lanes, tile)

    return cfunc(types.void(types.CPointer(from_dtype(dtype)), types.int64))(chains)


def combined_rate(work: float, spans: Sequence[tuple[float, float]]) -> float:
    """Rate of threads that each did `work`: the sum of their rates if they ran side by side.

    Where they did not, they may have shared a core, and only the time from first start to last end counts.
    """
    starts, ends = zip(*spans, strict=True)
    longest = max(end - start for start, end in spans)
    if min(ends) - max(starts) >= OVERLAP * longest:
        return sum(work / (end - start) for start, end in spans)
    return len(spans) * work / (max(ends) - min(starts))


class Peak:
    """The highest rate seen so far, on `threads` threads; more rounds can only raise it.

    The clock rate of a machine changes while a benchmark runs, so that the peak is measured again beside
    every layer.
    """

    def __init__(self, dtype: np.dtype, threads: int) -> None:
        self.threads, self.flops = threads, 0.0
        self._lanes = tiling.lanes(dtype.itemsize)
        self.compiled = make_chains(dtype)
        self._pointer = ctypes.POINTER(np.ctypeslib.as_ctypes_type(dtype))
        # Rows of several pages, so that no two threads write to one cache line.
        self.tiles = np.zeros((threads, 4096), dtype)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._barrier = threading.Barrier(threads)
        self._steps = 10_000
        best = min(end - start for _ in range(20) for start, end in self._run_round())
        self._steps = round(self._steps * ROUND_SECONDS / best)

    def reset(self) -> None:
        """Write the first tile and the operands of each thread."""
        count = CHAINS * self._lanes
        self.tiles[:, :count] = np.arange(count)
        self.tiles[:, count : count + self._lanes] = SCALE
        self.tiles[:, count + self._lanes : count + 2 * self._lanes] = OFFSET

    def run(self, thread: int, steps: int) -> tuple[float, float]:
        """When a run of `steps` began and ended."""
        pointer = self.tiles[thread].ctypes.data_as(self._pointer)
        self._barrier.wait()
        start = time.perf_counter()
        self.compiled.ctypes(pointer, steps)
        return start, time.perf_counter()

    def _run_round(self) -> list[tuple[float, float]]:
        """Run all threads at once: when each began and ended."""
        self.reset()
        if self._pool is None:
            return [self.run(0, self._steps)]
        return list(self._pool.map(self.run, range(self.threads), [self._steps] * self.threads))

    def measure(self, rounds: int = 20) -> float:
        """Floating-point operations a second, the highest rate of these rounds and of all before."""
        work = 2 * CHAINS * self._lanes * self._steps
        for _ in range(rounds):
            self.flops = max(self.flops, combined_rate(work, self._run_round()))
        return self.flops

    def check(self, rate: float, what: str, tolerance: float = 0.03) -> None:
        """Raise a PeakError if `rate` is higher than the peak, by more than the noise of a measurement."""
        if rate > (1 + tolerance) * self.flops:
            # Busy cores may have held the chains up so far; what a second and longer look does not mend is wrong.
            self.measure(200)
        if rate > (1 + tolerance) * self.flops:
            raise PeakError(
                f"{what} ran at {rate / 1e9:.1f} GF/s, above the measured peak of {self.flops / 1e9:.1f} GF/s on "
                f"{self.threads} thread{'s' * (self.threads > 1)}: the peak is wrong, and with it every percentage"
            )
