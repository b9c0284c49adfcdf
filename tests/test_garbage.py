"""What memory held before does not matter: neither that of scratch nor that of new results."""

import platform

import numba
import numpy as np
import pytest
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .cases import ALGORITHMS, CASES, LIGHT_BLOCKS, MEMORY, PASSES, each_dtype, each_layout
from .problem import Problem, assert_same_bits

real_empty = np.empty
# As floats of 4 and of 8 bytes: 0, NaN, and a subnormal number.
ZEROS, NANS, SUBNORMAL = 0, -1, 1


def empty_of(word):
    """`np.empty` of memory that holds this word of 4 bytes again and again."""

    def empty(*args, **keywords):
        array = real_empty(*args, **keywords)
        memory = array.reshape(-1).view(np.uint8)
        memory[:] = np.resize(np.array([word], np.int32).view(np.uint8), memory.size)
        return array

    return empty


def check(problem, patch):
    """The same bits in scratch and results of zeros and of NaN; the loops have no scratch."""
    for algorithm in ALGORITHMS:
        if algorithm == "loops" or not problem.case.supports(algorithm):
            continue
        for name in PASSES:
            results = [problem.run(name, algorithm)]  # compiled before NumPy is another
            for word in (ZEROS, NANS):
                with patch.context() as patched:
                    patched.setattr(np, "empty", empty_of(word))
                    results.append(problem.run(name, algorithm))
            assert np.isfinite(results[0]).all()
            for result in results[1:]:
                assert_same_bits(result, results[0])


@each_layout
@pytest.mark.parametrize("case", CASES + LIGHT_BLOCKS, ids=str)
def test_same_bits_in_any_memory(case, layout, monkeypatch):
    check(Problem.normals(case, np.float32, layout), monkeypatch)


@each_layout
@pytest.mark.parametrize("case", MEMORY, ids=str)
def test_same_bits_in_any_memory_of_workers(case, layout, monkeypatch, every_call_parallel):
    """The scratch of each, and what they share; in float64."""
    check(Problem.normals(case, np.float64, layout, flip=True), monkeypatch)


def test_the_garbage_arrives():
    """So that the tests above mean something."""
    assert np.isnan(empty_of(NANS)((2, 3), np.float32)).all()
    assert (empty_of(NANS)(5, np.uint8) == 255).all()
    for dtype in (np.float32, np.float64):
        numbers = empty_of(SUBNORMAL)(3, dtype)
        assert ((0 < numbers) & (numbers < np.finfo(dtype).smallest_normal)).all()


# -- speed -------------------------------------------------------------------------------------------

# Subnormal numbers in old memory change no result, but a multiply-add that meets one takes a hundred times as long.
# x86 notes it: bit 1 of the status word of the thread.
DENORMAL_OPERAND = 2
on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads the status word of x86")


@intrinsic
def exchange_status(typingctx, status):
    """Set the status word of vector arithmetic, and return what it was."""

    def generate(context, builder, signature, args):
        word, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte])
        place = builder.alloca(word)
        for name in ("st", "ld"):
            function = ir.Function(builder.module, kind, f"llvm.x86.sse.{name}mxcsr")
            if name == "ld":
                before = builder.load(place)
                builder.store(builder.trunc(args[0], word), place)
            builder.call(function, [builder.bitcast(place, byte)])
        return builder.zext(before, ir.IntType(64))

    return types.int64(types.int64), generate


@njit
def set_status(status):
    return exchange_status(status)


def meets_subnormals(compute):
    """Whether arithmetic on this thread meets one in `compute`."""
    before = set_status(0x1F80)  # no flags, all exceptions masked, rounding to nearest
    try:
        compute()
    finally:
        after = set_status(before)
    return bool(after & DENORMAL_OPERAND)


@on_x86
def test_the_status_word_tells():
    few = empty_of(SUBNORMAL)(100, np.float32)
    assert meets_subnormals(lambda: few + few)
    assert not meets_subnormals(lambda: np.ones(100, np.float32) + 1)


@on_x86
@each_layout
@each_dtype
@pytest.mark.parametrize("case", CASES + LIGHT_BLOCKS, ids=str)
def test_no_arithmetic_on_old_memory(case, dtype, layout, monkeypatch):
    """In no pass and no algorithm, on the one thread whose status is read."""
    problem = Problem.normals(case, dtype, layout)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        met = []
        for algorithm in ALGORITHMS:
            if not problem.case.supports(algorithm):
                continue
            for name in PASSES:
                problem.run(name, algorithm)  # compiled before NumPy is another
                with monkeypatch.context() as patched:
                    patched.setattr(np, "empty", empty_of(SUBNORMAL))
                    if meets_subnormals(lambda name=name, algorithm=algorithm: problem.run(name, algorithm)):
                        met.append((name, algorithm))
    finally:
        numba.set_num_threads(threads)
    assert not met
