"""`out`: where it may lie, and what is refused before anything is written."""

import re
from dataclasses import replace

import numpy as np
import pytest

import numbaconv

from .arrays import WRITABLE, read_only, subclass
from .cases import (
    ALGORITHMS,
    COMMON,
    MEMORY,
    PASSES,
    Case,
    each_gradient,
    each_layout,
    each_pass,
    each_pass_and_algorithm,
    each_run,
)
from .problem import Problem, assert_same_bits

SENTINEL = 77


@each_pass_and_algorithm
@each_layout
@pytest.mark.parametrize("variant", WRITABLE, ids=lambda variant: variant.__name__)
@pytest.mark.parametrize("case", MEMORY, ids=str)
def test_any_strides(algorithm, case, variant, layout, name):
    problem = Problem.normals(case, layout=layout)
    desired = problem.run(name, algorithm)
    out = variant(np.full(desired.shape, np.nan, np.float32))
    assert problem.run(name, algorithm, out=out) is out
    assert_same_bits(out, desired)


@each_run(ALGORITHMS, PASSES[1:])
@each_layout
@pytest.mark.parametrize("variant", WRITABLE, ids=lambda variant: variant.__name__)
def test_accumulate_into_any_strides(algorithm, variant, layout, name):
    problem = Problem.normals(COMMON, layout=layout)
    result = problem.run(name, algorithm)
    before = np.random.default_rng(6).standard_normal(result.shape).astype(np.float32)
    out = variant(before)
    assert problem.run(name, algorithm, out=out, accumulate=True) is out
    assert_same_bits(out, before + result)


@each_pass_and_algorithm
@each_layout
@pytest.mark.parametrize("flip", (False, True), ids=("correlate", "flip"))
@pytest.mark.parametrize("case", MEMORY, ids=str)
def test_nothing_beside_out_is_written(algorithm, case, flip, layout, name):
    """`out` is the inside of something larger, with gaps along every axis."""
    problem = Problem.normals(case, layout=layout, flip=flip)
    desired = problem.run(name, algorithm)
    memory = np.full([2 * extent + 3 for extent in desired.shape], SENTINEL, np.float32)
    inside = tuple(slice(1, 1 + 2 * extent, 2) for extent in desired.shape)
    problem.run(name, algorithm, out=memory[inside])
    assert_same_bits(memory[inside], desired)
    memory[inside] = SENTINEL
    assert (memory == SENTINEL).all()


@each_pass
def test_subclass_is_returned_as_it_is(name):
    problem = Problem.normals(COMMON)
    desired = problem.run(name, None)
    out = subclass(np.zeros_like(desired))
    assert problem.run(name, None, out=out) is out
    assert_same_bits(np.asarray(out), desired)


@each_pass
def test_extents_of_one_may_have_any_stride(name):
    """An axis of length 1 overlaps nothing, whatever its stride: 0 is what broadcasting gives it."""
    problem = Problem.normals(Case("", 1, 1, 3, 3, 1, 1, 1))
    desired = problem.run(name, None)
    memory = np.zeros(desired.shape, np.float32)
    strides = [0 if extent == 1 else stride for extent, stride in zip(memory.shape, memory.strides, strict=True)]
    out = np.lib.stride_tricks.as_strided(memory, memory.shape, strides)
    assert problem.run(name, None, out=out) is out
    assert_same_bits(out, desired)


def overlapping(shape):
    """Arrays of `shape` two of whose elements share bytes."""
    as_strided = np.lib.stride_tricks.as_strided
    memory = np.full(2 * int(np.prod(shape)) + 64, SENTINEL, np.float32)
    strides = np.empty(shape, np.float32).strides
    axis = next(axis for axis in range(len(shape)) if shape[axis] > 1)
    yield as_strided(memory, shape, [0 if a == axis else s for a, s in enumerate(strides)])
    yield as_strided(memory, shape, [0] * len(shape))
    if len(shape) > 1:
        yield as_strided(memory, shape, [s - 4 if a == 0 else s for a, s in enumerate(strides)])
        yield as_strided(memory, shape, [4] * len(shape))
    yield as_strided(memory, shape, [s // 2 for s in strides])


@each_pass
def test_overlap_with_itself(name):
    problem = Problem.normals(COMMON)
    for out in overlapping(problem.run(name, None).shape):
        before = out.tobytes()
        with pytest.raises(ValueError, match=r"\bout\b.*overlap"):
            problem.run(name, None, out=out)
        assert out.tobytes() == before


@each_pass
def test_overlap_with_an_input(name):
    """By the bounds of memory: elements that interleave without touching are refused too."""
    problem = Problem.normals(COMMON)
    size = problem.run(name, None).size
    shape = problem.run(name, None).shape
    for argument in problem.arguments(name):
        if argument in ("input_shape", "kernel_size"):
            continue
        array = getattr(problem, argument)
        shared = np.zeros(2 * max(size, array.size), np.float32)
        shared[1::2][: array.size] = array.ravel()
        interleaved = shared[1::2][: array.size].reshape(array.shape)
        other = replace(problem, **{argument: interleaved})
        for start in (0, 1):
            before = shared.copy()
            with pytest.raises(ValueError, match=rf"\bout\b.*overlap.*\b{argument}\b"):
                other.run(name, None, out=shared[start::2][:size].reshape(shape))
            assert_same_bits(shared, before)


@each_pass
def test_overlap_with_an_input_that_is_copied(name):
    """Unaligned data are copied before a kernel reads them, but the caller's memory is still an input."""
    problem = Problem.normals(COMMON)
    result = problem.run(name, None)
    argument = next(iter(problem.arguments(name)))
    array = getattr(problem, argument)
    memory = np.zeros(4 * max(result.size, array.size) + 8, np.uint8)
    unaligned = memory[1 : 1 + array.nbytes].view(np.float32).reshape(array.shape)
    unaligned[...] = array
    before = memory.copy()
    out = memory[: result.nbytes].view(np.float32).reshape(result.shape)
    with pytest.raises(ValueError, match=r"\bout\b.*overlap"):
        replace(problem, **{argument: unaligned}).run(name, None, out=out)
    assert_same_bits(memory, before)


@each_pass
def test_neighbours_in_one_buffer_are_no_overlap(name):
    """Inputs and `out` side by side in one allocation, as an arena has them."""
    problem = Problem.normals(COMMON)
    result = problem.run(name, None)
    arena = np.zeros(result.size + sum(getattr(problem, a).size for a in ("x", "weight", "bias", "dy")), np.float32)
    used = 0

    def place(array):
        nonlocal used
        view = arena[used : used + array.size].reshape(array.shape)
        view[...] = array
        used += array.size
        return view

    other = problem.map(place)
    out = place(np.full_like(result, np.nan))
    assert_same_bits(other.run(name, None, out=out), result)


@each_pass
def test_wrong_shape(name):
    problem = Problem.normals(COMMON)
    shape = problem.run(name, None).shape
    wrong = [
        (*shape[:-1], shape[-1] + 1),
        shape[1:],
        (1, *shape),
        (int(np.prod(shape)),) if len(shape) > 1 else (1,),
    ]
    for other in wrong:
        out = np.full(other, SENTINEL, np.float32)
        with pytest.raises(ValueError, match=rf"\bout\b.*{re.escape(str(shape))}.*{re.escape(str(other))}"):
            problem.run(name, None, out=out)
        assert (out == SENTINEL).all()


@each_pass
@pytest.mark.parametrize(
    "dtype", (np.float64, np.float16, np.int32, np.complex64, object, bool, ">f4", np.longdouble), ids=str
)
def test_wrong_dtype(name, dtype):
    problem = Problem.normals(COMMON)
    out = np.ones(problem.run(name, None).shape, dtype)
    with pytest.raises(TypeError, match=rf"\bout\b.*{re.escape(str(out.dtype))}"):
        problem.run(name, None, out=out)
    assert (out == 1).all()


@each_pass
def test_no_array(name):
    problem = Problem.normals(COMMON)
    shape = problem.run(name, None).shape
    for out in ([0.0], 0.0, "y", np.float32(0), np.ma.zeros(shape, np.float32), True):
        with pytest.raises(TypeError, match=rf"\bout\b.*{type(out).__name__}"):
            problem.run(name, None, out=out)


@each_pass
def test_read_only(name):
    problem = Problem.normals(COMMON)
    out = read_only(np.full(problem.run(name, None).shape, SENTINEL, np.float32))
    for array in (out, np.broadcast_to(np.float32(SENTINEL), out.shape)):
        with pytest.raises(ValueError, match=r"\bout\b.*(read-only|writeable)"):
            problem.run(name, None, out=array)
        assert (array == SENTINEL).all()


@each_gradient
def test_accumulate_needs_out(name):
    problem = Problem.normals(COMMON)
    with pytest.raises(ValueError, match=r"\baccumulate\b.*\bout\b"):
        problem.run(name, None, accumulate=True)


def test_forward_has_no_accumulate():
    problem = Problem.normals(COMMON)
    with pytest.raises(TypeError, match="accumulate"):
        numbaconv.conv2d(problem.x, problem.weight, out=problem.run("conv2d", None), accumulate=True)


@each_pass
def test_out_none_is_no_out(name):
    problem = Problem.normals(COMMON)
    assert_same_bits(problem.run(name, None, out=None), problem.run(name, None))
