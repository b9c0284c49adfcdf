"""Padding in all its forms, "same" by its formula, and flip and "same_lower" as SciPy has them."""

import math

import numpy as np
import pytest
from scipy import signal

import numbaconv

from .cases import Case, each_exact_algorithm, each_layout, each_pass
from .problem import Problem, assert_exact, assert_same_bits

EQUAL_FORMS = (
    (0, (0, 0), ((0, 0), (0, 0)), [0, 0], "valid"),
    (2, (2, 2), ((2, 2), (2, 2)), [2, 2], [[2, 2], [2, 2]], ((2, 2), [2, 2]), np.int64(2)),
    ((1, 3), ((1, 1), (3, 3)), [1, 3], [(1, 1), (3, 3)], (np.int8(1), np.uint16(3))),
    (((1, 0), (2, 3)), [(1, 0), (2, 3)], ([1, 0], [2, 3]), [[1, 0], [2, 3]]),
)


@each_pass
@pytest.mark.parametrize("forms", EQUAL_FORMS, ids=lambda forms: str(forms[0]))
def test_forms_that_mean_the_same(forms, name):
    first, *others = (Problem.normals(Case("", 2, 3, 6, 7, 4, 3, 2, padding=form)) for form in forms)
    desired = first.run(name, None)
    for problem in others:
        assert_same_bits(problem.run(name, None), desired)


def test_order_of_the_four_sides():
    """((top, bottom), (left, right)): the one pixel of x shows where it lies in the padding."""
    one = np.ones((1, 1, 1, 1), np.float32)
    y = numbaconv.conv2d(one, one, padding=((1, 2), (3, 4)))
    assert y.shape == (1, 1, 1 + 1 + 2, 3 + 1 + 4)
    assert np.argwhere(y).tolist() == [[0, 0, 1, 3]]


# TensorFlow's figures for "SAME": H, kernel, stride, dilation, (before, after).
KNOWN_SAME = (
    (5, 3, 1, 1, (1, 1)),
    (5, 2, 1, 1, (0, 1)),
    (5, 4, 1, 1, (1, 2)),
    (5, 3, 2, 1, (1, 1)),
    (6, 3, 2, 1, (0, 1)),
    (224, 7, 2, 1, (2, 3)),
    (7, 2, 3, 1, (0, 1)),
    (6, 2, 3, 1, (0, 0)),
    (4, 1, 2, 1, (0, 0)),
    (8, 3, 1, 2, (2, 2)),
    (8, 2, 1, 3, (1, 2)),
    (1, 5, 1, 1, (2, 2)),
)


@each_pass
@pytest.mark.parametrize(("size", "kernel", "stride", "dilation", "pads"), KNOWN_SAME)
def test_same_by_known_figures(size, kernel, stride, dilation, pads, name):
    """The rule is that of one axis; the other axis has none of it."""
    for rule, expected in (("same", pads), ("same_lower", pads[::-1])):
        vertical = Case("", 1, 2, size, 1, 2, kernel, 1, (stride, 1), rule, (dilation, 1))
        spelled = Case("", 1, 2, size, 1, 2, kernel, 1, (stride, 1), (expected, (0, 0)), (dilation, 1))
        assert_same_bits(Problem.normals(vertical).run(name, None), Problem.normals(spelled).run(name, None))
        horizontal = Case("", 1, 2, 1, size, 2, 1, kernel, (1, stride), rule, (1, dilation))
        spelled = Case("", 1, 2, 1, size, 2, 1, kernel, (1, stride), ((0, 0), expected), (1, dilation))
        assert_same_bits(Problem.normals(horizontal).run(name, None), Problem.normals(spelled).run(name, None))


@each_layout
@pytest.mark.parametrize("rule", ("same", "same_lower"))
def test_same_by_formula(rule, layout):
    """OH = ceil(H / stride), whatever the kernel, and y is that of the explicit padding."""
    for H in range(1, 8):
        for kernel in range(1, 6):
            for stride in range(1, 5):
                for dilation in (1, 2):
                    OH = math.ceil(H / stride)
                    total = max(0, (OH - 1) * stride + dilation * (kernel - 1) + 1 - H)
                    half = total // 2
                    pads = (half, total - half) if rule == "same" else (total - half, half)
                    case = Case("", 1, 1, H, 3, 1, kernel, 3, (stride, 1), rule, (dilation, 1))
                    problem = Problem.integers(case, layout=layout)
                    y = problem.run("conv2d", None)
                    assert y.shape[layout.index("H")] == OH
                    assert y.shape[layout.index("W")] == 3
                    options = problem.options("conv2d") | {"padding": (pads, (1, 1))}
                    assert_same_bits(y, numbaconv.conv2d(problem.x, problem.weight, problem.bias, **options))


def test_rows_that_the_stride_does_not_reach():
    """They take part in nothing: neither in y, nor in dw, and their gradient is 0."""
    case = Case("", 1, 2, 10, 9, 3, 2, 2, stride=(4, 5))
    problem = Problem.integers(case)
    rows = np.zeros(10, bool)
    rows[[0, 1, 4, 5, 8, 9]] = True
    columns = np.zeros(9, bool)
    columns[[0, 1, 5, 6]] = True
    reached = np.logical_and.outer(rows, columns)
    dx = problem.run("conv2d_input_grad", None)
    assert (dx[..., ~reached] == 0).all()
    assert (dx[..., reached] != 0).any()
    before = [problem.run(name, None) for name in ("conv2d", "conv2d_weight_grad")]
    problem.x[..., ~reached] = np.nan
    after = [problem.run(name, None) for name in ("conv2d", "conv2d_weight_grad")]
    for old, new in zip(before, after, strict=True):
        assert_same_bits(new, old)


SIZES = ((6, 7, 3, 3), (6, 7, 2, 2), (7, 6, 4, 3), (5, 5, 5, 4), (8, 9, 1, 2), (9, 8, 5, 1))


@pytest.mark.parametrize("flip", (False, True), ids=("correlate2d", "convolve2d"))
@pytest.mark.parametrize("mode", ("valid", "full", "same"))
@pytest.mark.parametrize("size", SIZES, ids=str)
@each_exact_algorithm
def test_as_scipy(algorithm, size, mode, flip):
    """In mode "same" convolve2d has the odd row and column at the top and left, correlate2d has not."""
    H, W, KH, KW = size
    same = "same_lower" if flip else "same"
    padding = {"valid": "valid", "full": (KH - 1, KW - 1), "same": same}[mode]
    problem = Problem.integers(Case("", 1, 1, H, W, 1, KH, KW, padding=padding), np.float64, flip=flip)
    function = signal.convolve2d if flip else signal.correlate2d
    expected = function(problem.x[0, 0], problem.weight[0, 0], mode)
    y = numbaconv.conv2d(problem.x, problem.weight, padding=padding, flip=flip, algorithm=algorithm)
    assert_exact(y[0, 0], expected, np.float64)


@each_layout
@each_exact_algorithm
def test_flip_turns_the_kernel_and_nothing_else(algorithm, layout):
    """Padding, however asymmetric, stays where it is; dw is the gradient of the weight as passed."""
    case = Case("", 2, 4, 7, 6, 6, 3, 2, (2, 1), ((2, 0), (1, 3)), (1, 2), 2)
    problem = Problem.integers(case, layout=layout, flip=True)
    turned = np.ascontiguousarray(problem.weight[:, :, ::-1, ::-1])
    options = problem.options("conv2d") | {"flip": False, "algorithm": algorithm}
    y = numbaconv.conv2d(problem.x, turned, problem.bias, **options)
    assert_same_bits(problem.run("conv2d", algorithm), y)
    dx = numbaconv.conv2d_input_grad(problem.dy, turned, problem.x.shape, **options)
    assert_same_bits(problem.run("conv2d_input_grad", algorithm), dx)
    dw = numbaconv.conv2d_weight_grad(problem.x, problem.dy, (3, 2), **options)
    assert_same_bits(problem.run("conv2d_weight_grad", algorithm), dw[:, :, ::-1, ::-1])


def test_input_shape_settles_what_the_stride_leaves_open():
    """Several H give the same OH."""
    dy, weight = np.ones((1, 1, 2, 2), np.float32), np.ones((1, 1, 2, 2), np.float32)
    for size in (5, 6, 7):
        dx = numbaconv.conv2d_input_grad(dy, weight, (1, 1, size, size), stride=3)
        assert dx.shape == (1, 1, size, size)
        assert dx.sum() == 16
