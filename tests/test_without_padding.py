"""Which problems are computed without products with the padding: among others those that many tests have for it."""

from dataclasses import replace

import numpy as np
import pytest

import numbaconv

from .cases import PADDED, Case, each_layout, in_layout
from .problem import every_variant_by_name


def explain(case, layout, algorithm="direct"):
    shape = in_layout(layout, case.N, case.C, case.H, case.W)
    options = {"stride": case.stride, "padding": case.padding, "dilation": case.dilation, "groups": case.groups}
    weight = case.F, case.C // case.groups, case.KH, case.KW
    with every_variant_by_name():  # as in all tests, since plans are kept
        return numbaconv.explain(shape, weight, layout=layout, algorithm=algorithm, **options).plans


def without_padding(chosen):
    """How a plan leaves the padding out, or None; by columns each product is one of an output."""
    return next((way for way in ("tap by tap", "padding skipped", "by columns") if way in chosen.reason), None)


@each_layout
@pytest.mark.parametrize("case", PADDED, ids=str)
def test_cases_of_the_suite_leave_the_padding_out(case, layout):
    ways = {without_padding(chosen) for chosen in explain(case, layout)}
    # In HWCN dx by columns is faster in two of the cases than what they are of in other layouts.
    assert ways & ({"tap by tap", "padding skipped"} | ({"by columns"} if layout == "HWCN" else set()))


@each_layout
def test_a_layer_that_looks_far_around_it_has_bounded_scratch(layout):
    """Three rows of x, and what lies between them, have no room in a worker's scratch."""
    for chosen in explain(Case("far", 2, 256, 120, 120, 64, 3, 3, padding=50, dilation=50), layout):
        assert chosen.scratch_bytes <= 1 << 20, str(chosen)


@each_layout
def test_the_batch_decides_nothing_in_y_and_dx(layout):
    """The order of a sum, and with it the bits of an image, are those that it has alone."""
    for case in PADDED:
        ways = [
            [without_padding(chosen) for chosen in explain(replace(case, N=N), layout)[:2]] for N in (1, case.N, 64)
        ]
        assert ways[0] == ways[1] == ways[2]


def test_an_accumulated_dx_is_one_addition():
    """Tap by tap it would be nine: `out` gets the sum of all."""
    rng = np.random.default_rng(0)
    dy, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, 40, 9, 9), (40, 40, 3, 3)))
    out = np.full((1, 40, 9, 9), 2.0**24, np.float32)
    options = {"padding": 8, "dilation": 8, "algorithm": "direct"}
    dx = numbaconv.conv2d_input_grad(dy.astype(np.float64), weight.astype(np.float64), out.shape, **options)
    numbaconv.conv2d_input_grad(dy, weight, out.shape, out=out, accumulate=True, **options)
    assert np.abs(out - (dx + 2.0**24)).max() <= 1.5


@each_layout
def test_an_accumulated_dx_that_no_output_reads(layout):
    """The only row of dy looks at the padding: `out` stays as it is."""
    case = Case("no_phase", 1, 2, 2, 5, 37, 1, 2, stride=4, padding=((2, 0), (0, 2)))
    dy, weight = np.ones(case.output_shape(layout), np.float32), np.ones(case.weight_shape, np.float32)
    out = np.full(case.input_shape(layout), 3, np.float32)
    options = case.options() | {"layout": layout, "algorithm": "direct"}
    numbaconv.conv2d_input_grad(dy, weight, out.shape, out=out, accumulate=True, **options)
    assert (out == 3).all()
