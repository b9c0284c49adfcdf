"""The error bound on data that are no integers, and numbers near the smallest and the largest."""

from dataclasses import replace

import numpy as np
import pytest

from . import oracle
from .cases import (
    COMMON,
    LIGHT_BLOCKS,
    PASSES,
    SHAPES,
    Case,
    each_dtype,
    each_exact_algorithm,
    each_exact_pass,
    each_layout,
)
from .problem import UNIT_ROUNDOFF, Problem, assert_exact, errors_of, to_fractions

# Small enough for sums of fractions.
FEW = (
    COMMON,
    Case("strided", 2, 3, 7, 8, 4, 3, 3, stride=2, padding=1),
    Case("deep", 1, 40, 3, 4, 3, 3, 3, padding=1),
    Case("wide", 1, 2, 3, 35, 2, 2, 3),
    Case("dilated", 1, 3, 9, 6, 4, 3, 2, dilation=(3, 2), padding=(2, 1)),
)


def assert_within_bound(result, exact, problem, name):
    """|result - exact| <= (n + 2) u S + n * smallest subnormal, n and S being those of each element."""
    terms, magnitude = problem.terms(name), problem.magnitude(name)
    smallest = float(np.finfo(result.dtype).smallest_subnormal)
    bound = (terms + 2) * UNIT_ROUNDOFF[result.dtype] * magnitude + terms * smallest
    comparable = to_fractions(result) if exact.dtype == object else result.astype(exact.dtype)
    error = np.abs(comparable - exact).astype(np.float64)
    assert result.dtype == problem.x.dtype
    assert result.shape == exact.shape
    assert (error <= bound).all(), f"{(error > bound).sum()} of {error.size} results are beyond the bound"


@each_exact_pass
@each_layout
@pytest.mark.parametrize("case", SHAPES + LIGHT_BLOCKS, ids=str)
def test_float32_against_float64(algorithm, case, layout, name):
    """float64 is 2**29 times finer, and its products of float32 numbers are exact."""
    problem = Problem.normals(case, np.float32, layout)
    assert_within_bound(problem.run(name, algorithm), problem.expected(name), problem, name)


@each_layout
@pytest.mark.parametrize("name", PASSES[:2])
def test_long_sums_are_cut(layout, name):
    """4608 products added in order would have an error of 1.1e-6."""
    C, F = (512, 48) if name == PASSES[0] else (48, 512)
    problem = Problem.normals(Case("long", 1, C, 18, 18, F, 3, 3, padding=1), np.float32, layout)
    [error] = errors_of(problem, name, "direct")
    assert error < 8e-7


@each_exact_pass
@each_layout
@each_dtype
@pytest.mark.parametrize("case", FEW, ids=str)
def test_against_fractions(algorithm, case, dtype, layout, name):
    problem = Problem.normals(case, dtype, layout, flip=layout != "NCHW")
    exact = problem.fractions().evaluate(oracle, name)
    assert_within_bound(problem.run(name, algorithm), exact, problem, name)


@each_exact_pass
@each_dtype
@pytest.mark.parametrize("exponents", ((-40, 40), (-77, -70)), ids=("mixed", "near_smallest"))
def test_numbers_of_unlike_size(algorithm, exponents, dtype, name):
    """Sums that cancel, and sums whose products are rounded to subnormals."""
    rng = np.random.default_rng(4)
    scale = 7 if dtype is np.float64 and exponents[0] < -40 else 1  # down to float64's own smallest numbers

    def draw(shape):
        return np.ldexp(rng.standard_normal(shape), scale * rng.integers(*exponents, shape, endpoint=True))

    problem = Problem.draw(COMMON, dtype, "NCHW", False, draw)
    exact = problem.fractions().evaluate(oracle, name)
    assert_within_bound(problem.run(name, algorithm), exact, problem, name)


@each_exact_pass
@each_layout
@each_dtype
def test_subnormals_are_kept(algorithm, dtype, layout, name):
    """Integers times the smallest subnormal stay exact unless something flushes them to zero."""
    smallest = np.finfo(dtype).smallest_subnormal
    problem = Problem.integers(COMMON, np.float32, layout).map(lambda array: array % 8 - 4).astype(dtype)
    tiny = replace(problem, x=problem.x * smallest, bias=problem.bias * smallest, dy=problem.dy * smallest)
    if name == "conv2d_weight_grad":
        tiny = replace(tiny, x=problem.x)
    expected = problem.expected(name)
    assert (expected != 0).any()
    assert_exact(tiny.run(name, algorithm), expected * np.float64(smallest), dtype)
    assert np.multiply(smallest, dtype(1)) != 0, "the call has left the caller flushing subnormals to zero"


@pytest.mark.parametrize("name", PASSES[:2])
@each_dtype
@each_exact_algorithm
def test_subnormal_weights_are_kept(algorithm, dtype, name):
    smallest = np.finfo(dtype).smallest_subnormal
    problem = Problem.integers(COMMON, np.float32).map(lambda array: array % 8 - 4).astype(dtype)
    tiny = replace(problem, weight=problem.weight * smallest, bias=problem.bias * smallest)
    assert_exact(tiny.run(name, algorithm), problem.expected(name) * np.float64(smallest), dtype)


@each_exact_pass
@each_dtype
def test_largest_numbers_do_not_overflow_early(algorithm, dtype, name):
    """Sums of non-negative numbers just below the largest: no intermediate may exceed the result."""
    problem = Problem.integers(COMMON, np.float32).map(lambda array: array % 4).astype(dtype)
    top = np.finfo(dtype).maxexp - 16  # each sum is below 2**16
    large = replace(problem, **{n: np.ldexp(getattr(problem, n), top) for n in ("x", "bias", "dy")})
    if name == "conv2d_weight_grad":
        large = replace(large, x=problem.x)
    expected = problem.expected(name)
    assert expected.max() < 2**16
    assert_exact(large.run(name, algorithm), np.ldexp(expected, top), dtype)
