"""NaN and infinity where a tile may spread them, as Winograd's does: never lost, and never further than that."""

from dataclasses import replace

import numpy as np
import pytest

from .cases import COMMON, Case, each_algorithm, each_layout
from .oracle import to_nchw
from .problem import Problem

CASES = (
    COMMON,
    Case("tiles", 3, 6, 17, 23, 8, 3, 3, padding=1, groups=2),
    Case("valid", 2, 20, 7, 31, 17, 3, 3),
    Case("depthwise", 2, 9, 13, 12, 9, 3, 3, padding=1, groups=9),
)
cases = pytest.mark.parametrize("case", CASES, ids=str)
values = pytest.mark.parametrize("value", (np.nan, np.inf, -np.inf), ids=str)


def with_one(problem, argument, value, place):
    """The problem with one such element, and the one that counts in whose sums it is."""
    ones = problem.map(np.ones_like)
    special, marks = getattr(problem, argument).copy(), np.zeros_like(getattr(ones, argument))
    special.flat[place], marks.flat[place] = value, 1
    counts = replace(ones, **{argument: marks}, bias=np.zeros_like(ones.bias))
    return replace(problem, **{argument: special}), counts


def places(array):
    return 0, array.size // 2, array.size - 1


@values
@cases
@each_layout
@each_algorithm
@pytest.mark.parametrize(("argument", "name"), (("x", "conv2d"), ("dy", "conv2d_input_grad")))
def test_in_an_image(argument, name, algorithm, layout, case, value):
    """Each sum with it is not finite; other images and other groups are untouched, and so are far pixels."""
    problem = Problem.normals(case, layout=layout)
    for place in places(getattr(problem, argument)):
        spoiled, counts = with_one(problem, argument, value, place)
        nonfinite = ~np.isfinite(to_nchw(spoiled.run(name, algorithm), layout))
        reached = to_nchw(counts.expected(name), layout) > 0
        assert nonfinite[reached].all()
        allowed = reached.any(axis=(2, 3))[:, :, None, None] & near(reached)
        assert not nonfinite[~allowed].any()


def near(reached):
    """The rows and columns within a tile of 8 x 8 pixels of those that are reached."""
    spread = np.zeros(reached.shape, bool)
    rows, columns = np.flatnonzero(reached.any(axis=(0, 1, 3))), np.flatnonzero(reached.any(axis=(0, 1, 2)))
    spread[..., max(0, rows.min() - 9) : rows.max() + 10, max(0, columns.min() - 9) : columns.max() + 10] = True
    return spread


@values
@cases
@each_layout
@each_algorithm
@pytest.mark.parametrize("argument", ("x", "dy"))
def test_in_the_weight_gradient(argument, algorithm, layout, case, value):
    """Each sum with it is not finite; other channels, filters and groups are untouched."""
    problem = Problem.normals(case, layout=layout)
    for place in places(getattr(problem, argument)):
        spoiled, counts = with_one(problem, argument, value, place)
        nonfinite = ~np.isfinite(spoiled.run("conv2d_weight_grad", algorithm))
        reached = counts.expected("conv2d_weight_grad") > 0
        assert nonfinite[reached].all()
        assert not nonfinite[~reached.any(axis=(2, 3))].any()


@values
@cases
@each_layout
@each_algorithm
@pytest.mark.parametrize("name", ("conv2d", "conv2d_input_grad"))
def test_in_the_weight(name, algorithm, layout, case, value):
    """Each sum with it is not finite; other filters, or channels in dx, are untouched."""
    problem = Problem.normals(case, layout=layout)
    for place in places(problem.weight):
        spoiled, counts = with_one(problem, "weight", value, place)
        nonfinite = ~np.isfinite(to_nchw(spoiled.run(name, algorithm), layout))
        reached = to_nchw(counts.expected(name), layout) > 0
        assert nonfinite[reached].all()
        assert not nonfinite[:, ~reached.any(axis=(0, 2, 3))].any()
