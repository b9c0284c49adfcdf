"""Timing: the sides checked against each other first, and then in turns, in one process."""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from bench.shapes import Layer
from bench.sides import Pass, Side
from numbaconv.kernels.jit import uncollected

# Largest error that a right result has, relative to the largest value: what sums of a million products in another
# order leave, and far below what a missing tap makes.
TOLERANCE = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-12}
# A turn of a short pass repeats it for so long that the clock's own time does not count.
TURN_SECONDS, MOST_CALLS = 1e-3, 1000
# A core that was asleep takes some of the first milliseconds longer: on two threads the second call after a pause takes
# 3 to 13% longer than the tenth, on either side.
WARM_SECONDS = 4e-3
FEWEST_ROUNDS = 3
# A pool spins for 10 to 20 ms after its last work, longer on a busy machine.
LONGEST_WAIT = 1.0
TASKS = Path("/proc/self/task")
# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


class WrongResultError(RuntimeError):
    """A result that is not that of the other side is not timed."""


@dataclass
class Result:
    """One pass of one layer; seconds of a call, one for each round, those of further sides by name."""

    layer: Layer
    name: str
    algorithm: str
    error: float
    calls: int
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    others: dict[str, list[float]] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        return len(self.ours)

    @property
    def ratio(self) -> float | None:
        """Their fastest round over ours: above 1, we are faster."""
        return min(self.theirs) / min(self.ours) if self.theirs else None

    @property
    def ratio_of_medians(self) -> float | None:
        return median(self.theirs) / median(self.ours) if self.theirs else None

    def rate(self, seconds: list[float]) -> float:
        """Floating-point operations a second in the fastest round."""
        return self.layer.flops(self.name) / min(seconds)

    def least_rate(self, seconds: list[float]) -> float:
        """The same for the operations that no kernel does without, taps in the padding being no work."""
        return self.layer.least_flops(self.name) / min(seconds)


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """max |actual - expected| / max |expected|; NaN if one of them has a NaN."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        raise WrongResultError(
            f"{actual.dtype} of shape {actual.shape} instead of {expected.dtype} of {expected.shape}"
        )
    scale = float(np.abs(expected).max())
    error = float(np.abs(actual - expected).max())
    if error == 0:
        return 0.0
    return error / scale if scale else math.inf


def check(layer: Layer, name: str, ours: Side, reference: Side) -> float:
    """Relative error of our result.

    Raises
    ------
    WrongResultError
        If it is not small.
    """
    actual = ours.to_nchw(name, ours.passes[name]())
    expected = reference.to_nchw(name, reference.passes[name]())
    try:
        error = relative_error(actual, expected)
    except WrongResultError as problem:
        raise WrongResultError(f"{name} of {layer.name} ({layer.spec}) is {problem}") from None
    limit = TOLERANCE[actual.dtype]
    if not error <= limit:  # NaN is not
        raise WrongResultError(
            f"{name} of {layer.name} ({layer.spec}) is wrong and was not timed: "
            f"error {error:.2g} of the largest value, against {reference.name}; {limit:.0e} is allowed"
        )
    return error


def measure(
    layer: Layer,
    name: str,
    ours: Side,
    theirs: Side | None,
    algorithm: str,
    error: float,
    rounds: int,
    budget: float,
    others: Sequence[Side] = (),
) -> Result:
    """Time one pass of all sides in turns, until `rounds` are done or `budget` seconds are spent.

    `others` without this pass are left out.
    """
    others = [side for side in others if name in side.passes]
    runs = [side.passes[name] for side in (ours, *([theirs] if theirs else []), *others)]
    fastest = min(take_turn(run, 1) for run in runs for _ in range(2))  # the warm-up, too
    calls = max(1, min(MOST_CALLS, round(TURN_SECONDS / fastest)))
    result = Result(layer, name, algorithm, error, calls, others={side.name: [] for side in others})
    times = [result.ours, *([result.theirs] if theirs else []), *result.others.values()]
    sides = list(zip(runs, times, strict=True))
    end = time.perf_counter() + budget
    with uncollected():  # a collection would fall on either side by chance
        while result.rounds < rounds and (result.rounds < FEWEST_ROUNDS or time.perf_counter() < end):
            for run, seconds in sides:
                seconds.append(take_turn(run, calls))
            sides.reverse()
    return result


def take_turn(run: Pass, calls: int) -> float:
    """Seconds of a call, after at least as many calls that are not timed.

    Each side brings a thread pool of its own, and after each call the threads of a pool spin for more work. As
    long as the other side's do, they take half of the cores away from ours. A fixed pause would have to be
    20 ms and would still be too short on a busy machine, so this waits until they sleep. (Telling the pools not
    to spin, OMP_WAIT_POLICY=passive, would time something that no user runs.) The calls that are not timed then
    wake this side's pool and fill the caches, as the layers before do in a network.
    """
    wait_for_other_threads()
    end = time.perf_counter() + WARM_SECONDS
    time_calls(run, calls)
    while time.perf_counter() < end:
        run()
    return time_calls(run, calls)


def time_calls(run: Callable[[], object], calls: int) -> float:
    """Seconds of a call, its result allocated and let go."""
    turns = range(calls)
    start = time.perf_counter()
    for _ in turns:
        run()
    return (time.perf_counter() - start) / calls


def wait_for_other_threads() -> None:
    """Return when every other thread of this process sleeps."""
    if not TASKS.is_dir():  # not Linux
        time.sleep(0.02)
        return
    end = time.perf_counter() + LONGEST_WAIT
    while running_threads():
        if time.perf_counter() > end:
            print("warning: threads keep spinning between the rounds (OMP_WAIT_POLICY?)", file=sys.stderr)
            return
        time.sleep(0.001)


def running_threads() -> list[str]:
    """The other threads of this process that have work, or spin, by Linux's state R in `stat`."""
    own = str(threading.get_native_id())
    return [task for task in os.listdir(TASKS) if task != own and _state(task) == "R"]


def _state(task: str) -> str:
    try:
        status = (TASKS / task / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return ""
    # The name of the thread, in brackets before the state, may have blanks and brackets of its own.
    return status.rpartition(")")[2].split()[0]


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, where it can (glibc): for good, as all sides share its heap.

    Each side makes new arrays for its results. Whether their pages are new, too, depends on what was freed before: the
    same call then takes 0.6 or 1.4 ms of ours, 3 or 11 ms of PyTorch's, in all rounds of a run.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
