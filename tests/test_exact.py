"""All four passes are exact on integer data, over the shape list."""

import numpy as np
import pytest

import numbaconv

from .cases import (
    ALGORITHMS,
    BLOCKS,
    CASES,
    COMMON,
    EMPTY,
    LIGHT_BLOCKS,
    PASSES,
    SHAPES,
    Case,
    each_dtype,
    each_exact_algorithm,
    each_exact_gradient,
    each_exact_pass,
    each_layout,
    each_pass,
)
from .problem import Problem, assert_exact, assert_same_bits

flips = pytest.mark.parametrize("flip", (False, True), ids=("correlate", "flip"))


@each_exact_pass
@each_dtype
@each_layout
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_oracle(algorithm, case, layout, dtype, name):
    """As a new array, and in one that held NaN, where an element that is never written shows."""
    problem = Problem.integers(case, dtype, layout)
    expected = problem.expected(name)
    result = problem.run(name, algorithm)
    assert_exact(result, expected, dtype)
    assert result.flags.c_contiguous
    assert result.flags.writeable
    out = np.full(expected.shape, np.nan, dtype)
    assert problem.run(name, algorithm, out=out) is out
    assert_exact(out, expected, dtype)


@each_exact_pass
@each_layout
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_flipped_equals_oracle(algorithm, case, layout, name):
    problem = Problem.integers(case, np.float32, layout, flip=True)
    assert_exact(problem.run(name, algorithm), problem.expected(name), np.float32)


@each_exact_pass
@each_layout
@pytest.mark.parametrize("case", BLOCKS, ids=str)
def test_equals_oracle_across_blocks(algorithm, case, layout, name):
    problem = Problem.integers(case, np.float32, layout, flip=layout == "NHWC")
    expected = problem.expected(name)
    out = np.full(expected.shape, np.nan, np.float32)
    assert_exact(problem.run(name, algorithm, out=out), expected, np.float32)


@each_exact_gradient
@each_layout
@pytest.mark.parametrize("case", SHAPES + EMPTY, ids=str)
def test_accumulate_adds_to_out(algorithm, case, layout, name):
    problem = Problem.integers(case, np.float32, layout)
    expected = problem.expected(name)
    out = np.random.default_rng(1).integers(-9, 9, expected.shape).astype(np.float32)
    before = out.copy()
    assert problem.run(name, algorithm, out=out, accumulate=True) is out
    assert_exact(out, before + expected, np.float32)


@each_exact_gradient
@each_dtype
@each_layout
@pytest.mark.parametrize("case", (COMMON, *LIGHT_BLOCKS), ids=str)
def test_accumulate_is_one_addition(algorithm, case, layout, dtype, name):
    """`out` plus the fully reduced result, to the last bit: not a sum that starts from `out`."""
    problem = Problem.normals(case, dtype, layout)
    result = problem.run(name, algorithm)
    before = (np.random.default_rng(2).standard_normal(result.shape) * 100).astype(dtype)
    out = before.copy()
    problem.run(name, algorithm, out=out, accumulate=True)
    assert_same_bits(out, before + result)


@flips
@each_layout
@pytest.mark.parametrize("case", SHAPES, ids=str)
@each_exact_algorithm
def test_adjoint_identity(algorithm, case, layout, flip):
    """<dy, conv(x)> = <dx, x> = <dw, w> in integers, with no oracle at all; db is the bias's share."""
    problem = Problem.integers(case, np.float32, layout, flip)
    y = numbaconv.conv2d(problem.x, problem.weight, algorithm=algorithm, **problem.options("conv2d"))
    product = inner(problem.dy, y)
    assert inner(problem.run("conv2d_input_grad", algorithm), problem.x) == product
    assert inner(problem.run("conv2d_weight_grad", algorithm), problem.weight) == product
    with_bias = product + inner(problem.run("conv2d_bias_grad", algorithm), problem.bias)
    assert inner(problem.dy, problem.run("conv2d", algorithm)) == with_bias


def inner(a, b):
    return int(np.vdot(a.astype(np.int64), b.astype(np.int64)))


@each_layout
@each_exact_algorithm
def test_bias_is_optional(algorithm, layout):
    problem = Problem.integers(COMMON, layout=layout)
    options = problem.options("conv2d") | {"algorithm": algorithm}
    zero = np.zeros_like(problem.bias)
    y = numbaconv.conv2d(problem.x, problem.weight, **options)
    assert_same_bits(numbaconv.conv2d(problem.x, problem.weight, None, **options), y)
    assert np.array_equal(numbaconv.conv2d(problem.x, problem.weight, bias=zero, **options), y)


@each_layout
@pytest.mark.parametrize("case", CASES, ids=str)
def test_auto_is_one_of_the_fast_ones(case, layout):
    problem = Problem.normals(case, layout=layout)
    for name in PASSES[:3]:
        fast = [problem.run(name, algorithm) for algorithm in ALGORITHMS[1:] if case.supports(algorithm)]
        assert problem.run(name, "auto").tobytes() in [result.tobytes() for result in fast]


def test_auto_is_the_default():
    problem = Problem.integers(COMMON)
    for name in PASSES[:3]:
        assert_same_bits(problem.run(name, None), problem.run(name, "auto"))


def test_defaults():
    """No option given means: stride 1, no padding, dense, one group, NCHW, not flipped."""
    rng = np.random.default_rng(3)
    x, weight = (rng.integers(-9, 9, shape).astype(np.float32) for shape in ((2, 3, 6, 7), (4, 3, 3, 2)))
    spelled = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "layout": "NCHW", "flip": False}
    y = numbaconv.conv2d(x, weight)
    assert_same_bits(y, numbaconv.conv2d(x, weight, **spelled))
    dx = numbaconv.conv2d_input_grad(y, weight, x.shape)
    assert_same_bits(dx, numbaconv.conv2d_input_grad(y, weight, x.shape, **spelled))
    dw = numbaconv.conv2d_weight_grad(x, y, (3, 2))
    assert_same_bits(dw, numbaconv.conv2d_weight_grad(x, y, (3, 2), **spelled))
    assert_same_bits(numbaconv.conv2d_bias_grad(y), numbaconv.conv2d_bias_grad(y, layout="NCHW"))


@each_pass
def test_numpy_integers_and_lists_as_parameters(name):
    """Whatever `operator.index` takes is an int."""
    case = Case("", 2, 4, 9, 8, 6, 3, 2, (2, 1), ((1, 0), (2, 1)), (1, 2), 2)
    problem = Problem.integers(case)
    desired = problem.run(name, None)
    arguments = problem.arguments(name)
    if "input_shape" in arguments:
        arguments["input_shape"] = [np.int32(extent) for extent in arguments["input_shape"]]
    if "kernel_size" in arguments:
        arguments["kernel_size"] = [np.uint8(3), np.int16(2)]
    options = problem.options(name)
    if name != "conv2d_bias_grad":
        options |= {"stride": [np.int8(2), 1], "dilation": (np.int64(1), np.uint64(2)), "groups": np.int64(2)}
        options |= {"padding": [(np.int32(1), 0), [2, np.uint8(1)]]}
    assert_same_bits(getattr(numbaconv, name)(*arguments.values(), **options), desired)


def test_inner_products_above_are_in_range():
    """float32 problems keep |dy| |y| summed over all outputs far below what int64 holds."""
    problem = Problem.integers(Case("", 2, 9, 13, 14, 15, 7, 7, padding=3))
    assert inner(abs(problem.dy), problem.magnitude("conv2d")) < 2**62
