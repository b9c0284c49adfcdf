"""NaN and infinity reach every result whose sum contains them, and no other.

Beside them the data are integers, so that every result is compared exactly: where the oracle has NaN or
an infinity the kernel has the same, and everywhere else the number is untouched.
"""

from dataclasses import replace

import numpy as np
import pytest

import numbaconv

from . import oracle
from .cases import (
    DTYPES,
    LIGHT_BLOCKS,
    PADDED,
    TAILS,
    Case,
    each_exact_algorithm,
    each_exact_gradient,
    each_exact_pass,
    each_layout,
)
from .problem import Problem, assert_exact

# Row ends, tails of every tile, shared padding, strides and groups: where a neighbour's NaN would leak in.
CASES = (
    Case("padded", 2, 3, 6, 7, 7, 3, 3, padding=1),
    Case("valid", 1, 5, 5, 19, 5, 3, 3),
    Case("asymmetric", 2, 2, 5, 9, 3, 2, 3, padding=((0, 1), (2, 0))),
    Case("strided", 2, 3, 9, 10, 4, 3, 3, stride=2, padding=1),
    Case("not_reached", 1, 2, 10, 11, 3, 2, 2, stride=(3, 4)),
    Case("dilated", 1, 3, 9, 8, 4, 3, 2, dilation=(2, 3), padding=(2, 1)),
    Case("dilated_strided", 1, 2, 12, 11, 3, 3, 3, stride=(2, 4), dilation=2, padding=2),
    Case("pointwise", 3, 9, 3, 5, 7, 1, 1),
    Case("grouped", 2, 6, 5, 6, 9, 3, 3, padding=1, groups=3),
    Case("depthwise", 2, 9, 6, 7, 9, 3, 3, stride=2, padding=1, groups=9),
    Case("only_padding", 1, 2, 2, 2, 3, 3, 3, padding=3),
    *PADDED,
)
cases = pytest.mark.parametrize("case", CASES, ids=str)

# nan beside inf of both signs: sums then hold inf - inf as well.
SPECIAL = (np.nan, np.inf, -np.inf)


def with_special(array, rng, count=3):
    """`array` with the special values in some places, among them the first and the last."""
    array = array.copy()
    if array.size:
        places = np.concatenate([[0, array.size - 1], rng.integers(0, array.size, count)])
        array.flat[places] = rng.choice(SPECIAL, places.size)
    return array


def sparse(array):
    """`array` with every third element zero, since zero times NaN or infinity is where hiding is easy."""
    array = array.copy()
    array.flat[::3] = 0
    return array


@each_exact_pass
@each_layout
@cases
@pytest.mark.parametrize("seed", range(3))
def test_same_nonfinite_results_as_the_oracle(algorithm, seed, case, layout, name):
    """x and dy hold them; the weight in y too."""
    problem = Problem.integers(case, DTYPES[seed % 2], layout, flip=seed == 2, seed=seed).map(sparse)
    check_against_oracle(problem, algorithm, name, seed)


def check_against_oracle(problem, algorithm, name, seed):
    rng = np.random.default_rng(seed)
    problem = replace(problem, x=with_special(problem.x, rng), dy=with_special(problem.dy, rng))
    if name == "conv2d":
        problem = replace(problem, weight=with_special(problem.weight, rng, 0))
    out = np.zeros_like(problem.run(name, algorithm))
    with np.errstate(invalid="ignore"):
        expected = problem.expected(name)
    assert_exact(problem.run(name, algorithm, out=out), expected, problem.x.dtype)


@each_exact_pass
@each_layout
@pytest.mark.parametrize("case", TAILS + LIGHT_BLOCKS, ids=str)
def test_same_nonfinite_results_across_tiles_and_blocks(algorithm, case, layout, name):
    check_against_oracle(Problem.integers(case, np.float32, layout).map(sparse), algorithm, name, seed=7)


@pytest.mark.parametrize("value", (np.nan, np.inf), ids=str)
@each_layout
@cases
@each_exact_algorithm
def test_one_value_in_x_reaches_just_its_sums(algorithm, case, layout, value):
    """The promise without the oracle's NaN arithmetic: count in whose sums the element is."""
    ones = Problem.integers(case, layout=layout).map(np.ones_like)
    for place in (0, ones.x.size // 2, ones.x.size - 1):
        marks, special = np.zeros_like(ones.x), ones.x.copy()
        marks.flat[place], special.flat[place] = 1, value
        counts = replace(ones, x=marks, bias=np.zeros_like(ones.bias))
        for name in ("conv2d", "conv2d_weight_grad"):
            result = replace(ones, x=special).run(name, algorithm)
            assert np.array_equal(~np.isfinite(result), counts.expected(name) > 0)


@pytest.mark.parametrize("value", (np.nan, np.inf), ids=str)
@each_layout
@cases
@each_exact_algorithm
def test_one_value_in_dy_reaches_just_its_sums(algorithm, case, layout, value):
    ones = Problem.integers(case, layout=layout).map(np.ones_like)
    for place in (0, ones.dy.size // 2, ones.dy.size - 1):
        marks, special = np.zeros_like(ones.dy), ones.dy.copy()
        marks.flat[place], special.flat[place] = 1, value
        problem, counts = replace(ones, dy=special), replace(ones, dy=marks)
        for name in ("conv2d_input_grad", "conv2d_bias_grad"):
            result = problem.run(name, algorithm)
            assert np.array_equal(~np.isfinite(result), counts.expected(name) > 0)
        # In dw it is part of every sum of its filter: padding counts as zeros, and 0 * inf is NaN.
        dw = problem.run("conv2d_weight_grad", algorithm)
        f = np.unravel_index(place, marks.shape)[layout.index("C")]
        reached = np.arange(case.F) == f
        assert np.array_equal(~np.isfinite(dw), np.broadcast_to(reached[:, None, None, None], dw.shape))


@pytest.mark.parametrize("value", (np.nan, np.inf), ids=str)
@each_layout
@cases
@each_exact_algorithm
def test_one_value_in_weight_reaches_its_filter(algorithm, case, layout, value):
    """Each tap meets every output of its filter, if only with the zeros of the padding."""
    ones = Problem.integers(case, layout=layout).map(np.ones_like)
    for place in (0, ones.weight.size // 2, ones.weight.size - 1):
        special = ones.weight.copy()
        special.flat[place] = value
        y = oracle.to_nchw(replace(ones, weight=special).run("conv2d", algorithm), layout)
        reached = np.arange(case.F) == place // special[0].size
        assert np.array_equal(~np.isfinite(y), np.broadcast_to(reached[:, None, None], y.shape))


@pytest.mark.parametrize("value", (np.nan, np.inf), ids=str)
@each_layout
@cases
@each_exact_algorithm
def test_one_value_in_weight_reaches_dx(algorithm, case, layout, value):
    """It reaches each dx whose sum has it, and stays out of those between two strides.

    Next to a border the tap may also be taken to meet a zero outside of dy: there either is allowed.
    """
    ones = Problem.integers(case, layout=layout).map(np.ones_like)
    for place in (0, ones.weight.size // 2, ones.weight.size - 1):
        marks, special = np.zeros_like(ones.weight), ones.weight.copy()
        marks.flat[place], special.flat[place] = 1, value
        dx = oracle.to_nchw(replace(ones, weight=special).run("conv2d_input_grad", algorithm), layout)
        counts = oracle.to_nchw(replace(ones, weight=marks).expected("conv2d_input_grad"), layout)
        _, _, kh, kw = np.unravel_index(place, marks.shape)
        taps = oracle.Taps((case.H, case.W), (case.KH, case.KW), case.stride, case.padding, case.dilation)
        on_stride = np.logical_and.outer(
            *(
                (np.arange(size) + pads[0] - tap * d) % s == 0
                for size, pads, tap, d, s in zip(
                    taps.extents, taps.pads, (kh, kw), taps.dilation, taps.stride, strict=True
                )
            )
        )
        nonfinite = ~np.isfinite(dx)
        assert nonfinite[counts > 0].all()
        assert not nonfinite[..., ~on_stride].any()
        f = place // special[0].size
        group = np.arange(case.C) // (case.C // case.groups) == f // (case.F // case.groups)
        assert not nonfinite[:, ~group].any()


@each_exact_gradient
@pytest.mark.parametrize("value", SPECIAL, ids=str)
def test_accumulate_onto_nonfinite(algorithm, value, name):
    """What `out` held takes part in its own element only."""
    problem = Problem.integers(CASES[0])
    expected = problem.expected(name)
    out = np.zeros(expected.shape, np.float32)
    out.flat[::5] = value
    expected.flat[::5] = value
    problem.run(name, algorithm, out=out, accumulate=True)
    assert_exact(out, expected, np.float32)


@each_exact_algorithm
def test_zero_times_infinity_in_the_padding(algorithm):
    """An infinite tap that meets only padding, and an infinite dy whose tap does."""
    x = np.ones((1, 1, 1, 3), np.float32)
    weight = np.array([np.inf, 1, 1], np.float32).reshape(1, 1, 1, 3)
    options = {"padding": (0, 1), "algorithm": algorithm}
    y = numbaconv.conv2d(x, weight, **options)
    assert np.array_equal(y.ravel(), [np.nan, np.inf, np.inf], equal_nan=True)
    dy = np.array([np.inf, 1, 1], np.float32).reshape(1, 1, 1, 3)
    dw = numbaconv.conv2d_weight_grad(x, dy, (1, 3), **options)
    assert np.array_equal(dw.ravel(), [np.nan, np.inf, np.inf], equal_nan=True)


@each_exact_algorithm
def test_bias_that_is_not_finite(algorithm):
    problem = Problem.integers(CASES[0])
    problem.bias[1:4] = SPECIAL
    assert_exact(problem.run("conv2d", algorithm), problem.expected("conv2d"), np.float32)
