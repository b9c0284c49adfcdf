"""Any NumPy array goes in: the same bits as from a contiguous copy, and the input untouched."""

import sys
from dataclasses import replace

import numpy as np
import pytest

import numbaconv

from .arrays import VARIANTS, reversed_strides, rotated, strided, transposed
from .cases import (
    COMMON,
    EMPTY,
    MEMORY,
    Case,
    each_algorithm,
    each_dtype,
    each_layout,
    each_pass,
    each_pass_and_algorithm,
)
from .problem import Problem, assert_exact, assert_same_bits
from .process import run_python

ARRAYS = ("x", "weight", "bias", "dy")


def used(name):
    return [argument for argument in Problem.integers(COMMON).arguments(name) if argument in ARRAYS]


def memory(array):
    """The bytes of `array` and of what lies around it."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.tobytes()


@each_pass_and_algorithm
@each_dtype
@each_layout
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.__name__)
def test_same_bits_as_a_contiguous_copy(algorithm, variant, layout, dtype, name):
    """For each input alone, and for all of them at once."""
    check_inputs(Problem.normals(COMMON, dtype, layout), algorithm, variant, name)


@each_pass_and_algorithm
@each_layout
@pytest.mark.parametrize("variant", (strided, reversed_strides, transposed, rotated), ids=lambda v: v.__name__)
@pytest.mark.parametrize("case", MEMORY[1:], ids=str)
def test_same_bits_in_larger_problems(algorithm, case, variant, layout, name):
    """Where the vectors run along another axis, the sums still have the same order."""
    check_inputs(Problem.normals(case, np.float32, layout), algorithm, variant, name)


@each_layout
@pytest.mark.parametrize("variant", (strided, transposed, rotated), ids=lambda variant: variant.__name__)
def test_same_bits_of_dw_in_blocks_of_rows(variant, layout):
    """Planes of several blocks of rows: how many, and so which sums are added, does not follow from strides."""
    case = Case("large_planes", 1, 32, 90, 90, 32, 3, 3, padding=1, groups=32)
    check_inputs(Problem.normals(case, np.float32, layout), "direct", variant, "conv2d_weight_grad")


def check_inputs(problem, algorithm, variant, name):
    desired = problem.run(name, algorithm)
    for arrays in (*([argument] for argument in used(name)), used(name)):
        other = replace(problem, **{argument: variant(getattr(problem, argument)) for argument in arrays})
        before = [memory(getattr(other, argument)) for argument in arrays]
        result = other.run(name, algorithm)
        assert type(result) is np.ndarray
        assert result.flags.c_contiguous
        assert_same_bits(result, desired)
        assert [memory(getattr(other, argument)) for argument in arrays] == before


@each_pass_and_algorithm
@each_layout
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.__name__)
@pytest.mark.parametrize("case", EMPTY, ids=str)
def test_empty_arrays_of_every_kind(algorithm, case, variant, layout, name):
    """Where there are no elements, those of the result are written all the same."""
    if not case.supports(algorithm):
        pytest.skip(f"{algorithm} does not do this case")
    problem = Problem.integers(case, np.float32, layout)
    expected = problem.expected(name)
    out = np.full(expected.shape, np.nan, np.float32)
    assert_exact(problem.map(variant).run(name, algorithm, out=out), expected, np.float32)


@each_pass_and_algorithm
@each_layout
def test_contiguous_inputs_are_untouched(algorithm, layout, name):
    problem = Problem.normals(COMMON, layout=layout)
    before = problem.map(np.copy)
    problem.run(name, algorithm)
    for argument in ARRAYS:
        assert_same_bits(getattr(problem, argument), getattr(before, argument))


@each_pass_and_algorithm
@pytest.mark.parametrize("mode", ("r", "c", "r+"))
def test_memory_mapped(algorithm, mode, name, tmp_path):
    problem = Problem.normals(COMMON)
    desired = problem.run(name, algorithm)

    def store(array):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
        np.save(path, array)
        return np.load(path, mmap_mode=mode)

    result = problem.map(store).run(name, algorithm)
    assert type(result) is np.ndarray
    assert_same_bits(result, desired)


@each_pass_and_algorithm
@each_layout
@pytest.mark.parametrize("axes", ((0,), (1,), (2, 3), (0, 1, 2, 3)), ids=str)
def test_broadcast(algorithm, axes, layout, name):
    """Stride 0 on some of the axes of x and dy, and of the weight."""
    problem = Problem.normals(COMMON, layout=layout)

    def broadcast(array):
        if array.ndim == 1:
            return np.broadcast_to(array[:1], array.shape)
        first = tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(4))
        return np.broadcast_to(array[first], array.shape)

    assert_same_bits(
        problem.map(broadcast).run(name, algorithm), problem.map(broadcast).map(np.copy).run(name, algorithm)
    )


@each_layout
@each_algorithm
def test_strided_input_is_read_in_place(algorithm, layout):
    """x and dy of 16 TB, all in one element: a copy of either would be a MemoryError."""
    if algorithm == "winograd":
        pytest.skip("needs a stride")
    N, C, H, W, step = 1, 2, 2**20, 2**20, 2**15
    shape = tuple({"N": N, "C": C, "H": H, "W": W}[axis] for axis in layout)
    x = np.broadcast_to(np.float32(3), shape)
    weight = np.ones((4, C, 1, 1), np.float32)
    options = {"stride": step, "layout": layout, "algorithm": algorithm}
    y = numbaconv.conv2d(x, weight, **options)
    assert y.size == 4 * (H // step) * (W // step)
    assert (y == 6).all()
    dw = numbaconv.conv2d_weight_grad(x, y, 1, **options)
    assert (dw == 3 * 6 * (H // step) * (W // step)).all()


@each_pass
def test_a_view_of_one_array_may_be_every_input(name):
    """Inputs may overlap each other: only `out` may not."""
    case = replace(COMMON, groups=1, C=6, N=1, H=3, W=3, F=6)
    problem = Problem.normals(case)
    memory = np.random.default_rng(5).standard_normal(6 * 6 * 9).astype(np.float32)
    shared = problem.map(lambda array: memory[: array.size].reshape(array.shape))
    assert_same_bits(shared.run(name, None), shared.map(np.copy).run(name, None))


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
def test_nothing_beside_the_arrays_is_touched():
    """Unreadable pages right before and right after each of them: reads by whole vectors end in time."""
    assert run_python("from tests.guard import main; main()").strip() == "no stray access"


STRAY = """
import os
import numpy as np
from tests.guard import guarded

array = guarded(np.ones(5, np.float32), "{side}")
child = os.fork()
if child == 0:
    np.lib.stride_tricks.as_strided(array[{last}:], (2,), ({step},)).sum()
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
@pytest.mark.parametrize(("side", "last", "step"), (("end", 4, 4), ("begin", 0, -4)))
def test_the_page_beside_an_array_cannot_be_read(side, last, step):
    """So that the test above means something."""
    assert int(run_python(STRAY.format(side=side, last=last, step=step)).strip()) not in (0, 256)
