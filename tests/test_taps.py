"""Which problems are computed tap by tap, and that it is those that the tests of this path have."""

import numpy as np
import pytest

import numbaconv

from .cases import TAPS_APART, Case, each_layout, in_layout


def explain(case, layout, algorithm="direct"):
    shape = in_layout(layout, case.N, case.C, case.H, case.W)
    options = {"stride": case.stride, "padding": case.padding, "dilation": case.dilation, "groups": case.groups}
    weight = case.F, case.C // case.groups, case.KH, case.KW
    return numbaconv.explain(shape, weight, layout=layout, algorithm=algorithm, **options).plans


@each_layout
@pytest.mark.parametrize("case", TAPS_APART, ids=str)
def test_cases_of_the_suite_are_computed_tap_by_tap(case, layout):
    assert ["tap by tap" in chosen.reason for chosen in explain(case, layout)] == [True, True, True]


@each_layout
def test_a_layer_that_looks_far_around_it_has_bounded_scratch(layout):
    """Three rows of x, and what lies between them, have no room in a worker's scratch."""
    for chosen in explain(Case("far", 2, 256, 120, 120, 64, 3, 3, padding=50, dilation=50), layout):
        assert chosen.scratch_bytes <= 1 << 20, str(chosen)


@each_layout
@pytest.mark.parametrize("N", (1, 64))
def test_the_batch_decides_nothing_in_y_and_dx(layout, N):
    case = Case("batch", N, 64, 20, 20, 64, 3, 3, padding=6, dilation=6)
    assert ["tap by tap" in chosen.reason for chosen in explain(case, layout)[:2]] == [True, True]


def test_an_accumulated_dx_is_one_addition():
    """Tap by tap it would be nine: `out` gets the sum of all."""
    rng = np.random.default_rng(0)
    dy, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, 40, 9, 9), (40, 40, 3, 3)))
    out = np.full((1, 40, 9, 9), 2.0**24, np.float32)
    options = {"padding": 8, "dilation": 8, "algorithm": "direct"}
    dx = numbaconv.conv2d_input_grad(dy.astype(np.float64), weight.astype(np.float64), out.shape, **options)
    numbaconv.conv2d_input_grad(dy, weight, out.shape, out=out, accumulate=True, **options)
    assert np.abs(out - (dx + 2.0**24)).max() <= 1.5
