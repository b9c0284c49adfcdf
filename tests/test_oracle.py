"""The two oracles, plain loops and tap loops, against each other and against sums done by hand."""

import numpy as np
import pytest

from numbaconv import reference

from . import oracle
from .cases import CASES, PASSES, Case, each_layout
from .problem import Problem, assert_exact

# The plain loops take a microsecond a product: the small cases only, which is most of them.
TINY = [case for case in CASES if case.products < 15000]


@pytest.mark.parametrize("flip", (False, True))
@each_layout
@pytest.mark.parametrize("case", TINY, ids=str)
def test_oracles_agree(case, layout, flip):
    problem = Problem.integers(case, np.float64, layout, flip)
    for name in PASSES:
        assert_exact(problem.evaluate(reference, name), problem.expected(name), np.float64)


def test_oracles_agree_on_nan_and_infinity():
    """BLAS and the plain loops treat 0 * inf and inf - inf alike, so the tap oracle may use BLAS."""
    problem = Problem.integers(Case("", 2, 4, 6, 7, 6, 3, 2, (2, 1), 1, (1, 2), 2), np.float64)
    for array, values in ((problem.x, [np.nan, np.inf]), (problem.dy, [-np.inf, np.nan])):
        array.flat[[3, -5]] = values
        array.flat[::4] *= 0
    with np.errstate(invalid="ignore"):
        for name in PASSES:
            assert_exact(problem.evaluate(reference, name), problem.expected(name), np.float64)


@pytest.mark.parametrize("dtype", (np.int64, object))
def test_tap_oracle_in_other_arithmetic(dtype):
    problem = Problem.integers(Case("", 2, 4, 6, 7, 6, 3, 2, 2, 1, 1, 2))
    for name in PASSES:
        result = problem.astype(np.int64).astype(dtype).evaluate(oracle, name)
        assert result.dtype == dtype
        assert np.array_equal(result, problem.expected(name))


@pytest.mark.parametrize("module", (reference, oracle))
def test_by_hand(module):
    """One row of four pixels, two taps: each pass is short enough to be written out."""
    x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    weight = np.array([5.0, 7.0]).reshape(1, 1, 1, 2)
    dy = np.array([1.0, 10.0, 100.0]).reshape(1, 1, 1, 3)
    bias = np.array([1000.0])
    y = module.conv2d(x, weight, bias)
    assert y.ravel().tolist() == [1 * 5 + 2 * 7 + 1000, 2 * 5 + 3 * 7 + 1000, 3 * 5 + 4 * 7 + 1000]
    y = module.conv2d(x, weight, flip=True)
    assert y.ravel().tolist() == [1 * 7 + 2 * 5, 2 * 7 + 3 * 5, 3 * 7 + 4 * 5]
    dx = module.conv2d_input_grad(dy, weight, x.shape)
    assert dx.ravel().tolist() == [1 * 5, 1 * 7 + 10 * 5, 10 * 7 + 100 * 5, 100 * 7]
    dw = module.conv2d_weight_grad(x, dy, (1, 2))
    assert dw.ravel().tolist() == [1 * 1 + 10 * 2 + 100 * 3, 1 * 2 + 10 * 3 + 100 * 4]
    dw = module.conv2d_weight_grad(x, dy, (1, 2), flip=True)
    assert dw.ravel().tolist() == [1 * 2 + 10 * 3 + 100 * 4, 1 * 1 + 10 * 2 + 100 * 3]
    assert module.conv2d_bias_grad(dy).tolist() == [111]


@pytest.mark.parametrize("module", (reference, oracle))
def test_stride_and_padding_by_hand(module):
    x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    weight = np.array([5.0, 7.0, 9.0]).reshape(1, 1, 1, 3)
    options = {"stride": (1, 2), "padding": ((0, 0), (1, 0))}
    y = module.conv2d(x, weight, **options)
    assert y.ravel().tolist() == [0 * 5 + 1 * 7 + 2 * 9, 2 * 5 + 3 * 7 + 4 * 9]
    dy = np.array([1.0, 10.0]).reshape(1, 1, 1, 2)
    dx = module.conv2d_input_grad(dy, weight, x.shape, **options)
    assert dx.ravel().tolist() == [1 * 7, 1 * 9 + 10 * 5, 10 * 7, 10 * 9]
    dw = module.conv2d_weight_grad(x, dy, (1, 3), **options)
    assert dw.ravel().tolist() == [1 * 0 + 10 * 2, 1 * 1 + 10 * 3, 1 * 2 + 10 * 4]


@pytest.mark.parametrize("module", (reference, oracle))
def test_groups_and_layout_by_hand(module):
    """Two groups of one channel and two filters, on a single pixel in MATLAB's order of axes."""
    x = np.array([2.0, 3.0]).reshape(1, 1, 2, 1)
    weight = np.array([1.0, 10.0, 100.0, 1000.0]).reshape(4, 1, 1, 1)
    options = {"groups": 2, "layout": "HWCN"}
    y = module.conv2d(x, weight, **options)
    assert y.shape == (1, 1, 4, 1)
    assert y.ravel().tolist() == [2, 20, 300, 3000]
    dy = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 4, 1)
    dx = module.conv2d_input_grad(dy, weight, x.shape, **options)
    assert dx.ravel().tolist() == [1 * 1 + 2 * 10, 3 * 100 + 4 * 1000]
    dw = module.conv2d_weight_grad(x, dy, 1, **options)
    assert dw.ravel().tolist() == [1 * 2, 2 * 2, 3 * 3, 4 * 3]
