"""Winograd's algorithm: its algebra in exact fractions, its parts on vectors, and its rounding in every pass."""

from fractions import Fraction

import numba
import numpy as np
import pytest
from numba import njit

import numbaconv
from numbaconv.kernels import tiling
from numbaconv.kernels.product import ADD, BIASED, CONTINUE, FRESH, MR, VECTORS, product
from numbaconv.kernels.simd import pointer
from numbaconv.kernels.turn import turn
from numbaconv.kernels.winograd import algebra
from numbaconv.kernels.winograd.transforms import FILTER, INPUT, OUTPUT, line, matrix_of
from tests.cases import CASES, Case, each_dtype, each_layout
from tests.memory import pointer_like
from tests.problem import Problem, errors_of, every_variant_by_name

LANES = tiling.lanes(4)
THREE_PASSES = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")
each_winograd_pass = pytest.mark.parametrize("name", THREE_PASSES)


# -- the algebra -------------------------------------------------------------------------------------


def dot(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


@pytest.mark.parametrize(("outputs", "taps"), [(2, 3), (4, 3), (3, 2), (3, 4), (2, 5), (5, 2)])
def test_matrices_are_exact(outputs, taps):
    """A^T [(G g) * (B^T d)] is the filter slid over d, in fractions, for g and d of numbers without a pattern."""
    n = outputs + taps - 1
    points = algebra.POINTS[n]
    assert len(points) == n - 1
    rng = np.random.default_rng(0)
    g, d = ([Fraction(int(v), 7) for v in rng.integers(-99, 99, size)] for size in (taps, n))
    products = [
        a * b
        for a, b in zip(dot(algebra.filter_matrix(points, taps), g), dot(algebra.input_matrix(points), d), strict=True)
    ]
    expected = [sum(g[k] * d[i + k] for k in range(taps)) for i in range(outputs)]
    assert dot(algebra.output_matrix(points, outputs), products) == expected


@pytest.mark.parametrize(("m", "r"), algebra.VARIANTS)
def test_plain_algorithm(m, r):
    """The few lines of NumPy against the oracle."""
    problem = Problem.normals(Case("", 1, 3, 2 * m + r - 1, 3 * m + r - 1, 5, r, r), np.float64)
    y, dw = problem.expected("conv2d"), problem.expected("conv2d_weight_grad")
    bias = problem.bias[:, None, None]
    np.testing.assert_allclose(algebra.forward(problem.x[0], problem.weight, m) + bias, y[0], atol=1e-12)
    np.testing.assert_allclose(algebra.weight_grad(problem.x[0], problem.dy[0], m), dw, atol=1e-11)


@pytest.mark.parametrize(
    ("taps", "stride", "r", "m"), [(3, 2, 2, 5), (7, 2, 4, 3), (11, 4, 3, 4), (7, 1, 4, 3), (5, 3, 2, 5)]
)
def test_plain_parts_of_a_kernel(taps, stride, r, m):
    """Kernels on maps are the same convolution."""
    extents = (taps + (2 * m - 1) * stride, taps + (m - 1) * stride)
    problem = Problem.normals(Case("", 1, 3, *extents, 5, taps, taps, stride), np.float64)
    y = algebra.forward(*algebra.in_parts(problem.x[0], problem.weight, r, stride), m)
    np.testing.assert_allclose(y + problem.bias[:, None, None], problem.expected("conv2d")[0], atol=1e-11)


# -- the parts on vectors ----------------------------------------------------------------------------


TRANSFORMS = {
    transform
    for m, r in algebra.VARIANTS
    for n in (m + r - 1,)
    for transform in ((INPUT, n, n), (FILTER, n, r), (FILTER, n, m), (OUTPUT, n, m), (OUTPUT, n, r))
}


@pytest.mark.parametrize(("kind", "n", "size"), sorted(TRANSFORMS))
def test_transform_of_a_line(kind, n, size):
    """Each transform, with its steps, against its matrix in float64."""
    matrix = algebra.as_array(matrix_of(kind, n, size))

    @njit
    def run(source, destination):
        like = pointer_like(source)
        line(
            kind,
            n,
            size,
            pointer(np.int64(source.ctypes.data), like),
            2 * LANES,
            pointer(np.int64(destination.ctypes.data), like),
            3 * LANES,
        )
        return source[0, 0], destination[0, 0]

    rng = np.random.default_rng(n)
    source = rng.standard_normal((matrix.shape[1], 2 * LANES)).astype(np.float32)
    destination = np.full((matrix.shape[0], 3 * LANES), 7, np.float32)
    run(source, destination)
    expected = matrix @ source[:, :LANES].astype(np.float64)
    np.testing.assert_allclose(destination[:, :LANES], expected, rtol=1e-5, atol=1e-5)
    assert (destination[:, LANES:] == 7).all()


@njit
def run_product(a, b, c, bias, rows, vectors, depth, width, sizes, mode):
    a_row, a_block, a_step, b_block, c_block = sizes
    like = pointer_like(c)
    first, second, result, start = (
        pointer(np.int64(a.ctypes.data), like),
        pointer(np.int64(b.ctypes.data), like),
        pointer(np.int64(c.ctypes.data), like),
        pointer(np.int64(bias.ctypes.data), like),
    )
    product(
        rows, vectors, depth, width, first, a_row, a_block, a_step, second, b_block, result, LANES, c_block, mode, start
    )  # fmt: skip
    return a[0], b[0], c[0], bias[0]


@pytest.mark.parametrize("rows", range(1, 2 * MR + 2))
def test_product_on_all_tails(rows):
    """Every m <= MR and n <= NR and one tile more, with `a` along tiles and along filters, on integers."""
    rng = np.random.default_rng(rows)
    for vectors in range(1, VECTORS + 2):
        for depth, width in ((0, LANES), (5, 5), (LANES + 3, LANES)):
            room = -(-rows // MR) * MR
            blocks = -(-max(1, depth) // width)
            a = rng.integers(-4, 5, (blocks, room, width)).astype(np.float32)  # [k // width][row][k % width]
            b = rng.integers(-4, 5, (vectors, max(1, depth), LANES)).astype(np.float32)
            left = a.transpose(1, 0, 2).reshape(room, -1)[:rows, :depth]
            expected = np.einsum("rk,vki->vri", left, b[:, :depth])
            sizes = width, room * width, 1, b[0].size, room * LANES
            bias = rng.integers(-4, 5, (vectors, 1, LANES)).astype(np.float32)
            for mode, before, added in ((FRESH, np.nan, 0), (BIASED, np.nan, bias), (CONTINUE, 3, 3), (ADD, 3, 3)):
                c = np.full((vectors, room, LANES), before, np.float32)
                run_product(a.ravel(), b.ravel(), c.ravel(), bias.ravel(), rows, vectors, depth, width, sizes, mode)
                np.testing.assert_array_equal(c[:, :rows], expected + added)


# -- the passes --------------------------------------------------------------------------------------

WINOGRAD_CASES = tuple(case for case in CASES if case.supports("winograd"))


@each_winograd_pass
@each_dtype
@each_layout
@pytest.mark.parametrize("case", WINOGRAD_CASES, ids=str)
def test_small_integers_round_to_the_exact_result(case, layout, dtype, name):
    """Tails, groups, padding and empty extents, in an array that held NaN: errors stay far below a half."""
    problem = Problem.integers(case, dtype, layout, flip=layout == "NHWC").map(lambda a: np.fmod(a, 4))
    expected = problem.expected(name)
    out = np.full(expected.shape, np.nan, dtype)
    assert problem.run(name, "winograd", out=out) is out
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-2 if dtype is np.float32 else 1e-10)
    if name != "conv2d":
        problem.run(name, "winograd", out=out, accumulate=True)
        np.testing.assert_allclose(out, 2 * expected, rtol=0, atol=2e-2 if dtype is np.float32 else 1e-10)


# Large enough for an error that is no accident: short and long sums, maps of few and of many tiles, all blocks.
ROUNDING = (
    Case("one_channel", 2, 1, 30, 31, 32, 3, 3, padding=1),
    Case("few_channels", 2, 7, 20, 20, 40, 3, 3, padding=1),
    Case("eight_channels", 2, 8, 20, 20, 40, 3, 3, padding=1),
    Case("deep", 1, 300, 14, 14, 70, 3, 3, padding=1),
    Case("map_2", 8, 64, 2, 2, 64, 3, 3, padding=1),
    Case("map_4", 16, 64, 4, 4, 64, 3, 3, padding=1),
    Case("map_6", 4, 33, 6, 6, 65, 3, 3, padding=1),
    Case("map_7", 4, 80, 7, 7, 64, 3, 3, padding=1),
    Case("map_56", 1, 20, 56, 56, 24, 3, 3, padding=1),
    Case("grouped", 2, 64, 15, 17, 96, 3, 3, padding=2, groups=4),
    Case("map_8", 4, 64, 8, 8, 64, 3, 3, padding=1),
    Case("one_column", 8, 330, 12, 1, 24, 3, 3, padding=(1, 2)),
    Case("mostly_padding", 8, 100, 3, 3, 48, 3, 3, padding=2),
    Case("batch", 20, 16, 8, 9, 24, 3, 3),
)


@each_winograd_pass
@each_dtype
@each_layout
@pytest.mark.parametrize("case", ROUNDING, ids=str)
def test_error_is_at_most_three_times_that_of_direct(case, layout, dtype, name):
    """The contract on normal data, against long double for float64."""
    problem = Problem.normals(case, dtype, layout)
    direct, error = errors_of(problem, name, "direct", "winograd")
    assert error <= 3 * direct
    assert error < (1e-5 if dtype is np.float32 else 1e-5 * 2.0**-29)


LARGER_KERNELS = (
    Case("five_27", 1, 32, 27, 27, 48, 5, 5, padding=2),
    Case("five_map_8", 8, 32, 8, 8, 32, 5, 5, padding=2),
    Case("five_deep", 3, 200, 14, 14, 16, 5, 5, padding=2),
    Case("five_grouped", 3, 32, 15, 17, 64, 5, 5, padding=1, groups=2),
    Case("five_few", 4, 16, 24, 24, 24, 5, 5),
    Case("four", 4, 40, 18, 17, 40, 4, 4, padding=((1, 2), (1, 2))),
    Case("four_small", 8, 16, 12, 12, 32, 4, 4, padding=1),
    Case("five_dilated", 8, 32, 16, 16, 32, 5, 5, padding=4, dilation=2),
    Case("dilated", 4, 48, 20, 21, 48, 3, 3, padding=2, dilation=2),
    Case("dilated_map_8", 4, 128, 8, 8, 128, 3, 3, padding=2, dilation=2),
    Case("dilated_far", 4, 128, 16, 32, 128, 3, 3, padding=4, dilation=4),
    Case("dilated_rows", 2, 40, 24, 20, 32, 3, 3, padding=(3, 1), dilation=(3, 1)),
)


@each_winograd_pass
@each_dtype
@each_layout
@pytest.mark.parametrize("case", LARGER_KERNELS, ids=str)
def test_error_where_auto_takes_what_has_no_name(case, layout, dtype, name):
    """In dw, where direct's sums in many short parts are the most exact ones there are, somewhat above 3 times that."""
    problem = Problem.normals(case, dtype, layout)
    how = {"layout": layout, "dtype": dtype, **case.options()}
    plans = numbaconv.explain(case.input_shape(layout), case.weight_shape, **how).plans
    assert plans[THREE_PASSES.index(name)].algorithm == "winograd"
    direct, error = errors_of(problem, name, "direct", "auto")
    assert error <= (5 if name == "conv2d_weight_grad" else 3) * direct
    assert error < (1.2e-6 if dtype is np.float32 else 1.2e-6 * 2.0**-29)


# Kernels in parts, each on a map of its own.
MAPS = (
    Case("seven", 4, 32, 20, 21, 32, 7, 7, padding=3),
    Case("wide", 4, 64, 20, 20, 64, 3, 5),
    Case("seven_by_six", 2, 24, 31, 30, 48, 7, 6, padding=(2, 3), groups=2),
    Case("five_strided", 4, 32, 37, 38, 48, 5, 5, stride=2, padding=2),
    Case("five_strided_grouped", 4, 40, 32, 33, 48, 5, 5, stride=2, padding=1, groups=2),
    Case("seven_strided", 4, 32, 40, 33, 32, 7, 7, stride=(2, 1), padding=3),
    Case("first", 4, 3, 56, 57, 64, 7, 7, stride=2, padding=3),
    Case("first_by_four", 4, 3, 88, 84, 64, 11, 11, stride=4, padding=2),
    Case("first_large", 16, 3, 24, 24, 64, 7, 7, padding=3),
    Case("four_strided", 4, 64, 32, 34, 64, 4, 4, stride=2, padding=1),
    Case("three_strided", 4, 48, 60, 58, 96, 3, 3, stride=2, padding=1),
    Case("two", 2, 80, 26, 27, 64, 2, 2),
)


@each_winograd_pass
@each_dtype
@each_layout
@pytest.mark.parametrize("case", MAPS, ids=str)
def test_error_of_kernels_in_parts(case, layout, dtype, name):
    problem = Problem.normals(case, dtype, layout)
    direct, error = errors_of(problem, name, "direct", "winograd")
    assert error <= (5 if name == "conv2d_weight_grad" else 3) * direct
    assert error < (1.2e-6 if dtype is np.float32 else 1.2e-6 * 2.0**-29)


@pytest.mark.parametrize(
    ("case", "names"),
    (
        (Case("first", 4, 3, 224, 224, 64, 7, 7, stride=2, padding=3), ("forward", "weight_grad")),
        (Case("first_by_four", 4, 3, 224, 224, 64, 11, 11, stride=4, padding=2), ("forward", "weight_grad")),
        (Case("five_strided", 4, 64, 56, 56, 64, 5, 5, stride=2, padding=2), ("forward", "input_grad", "weight_grad")),
        (Case("seven", 4, 64, 27, 27, 96, 7, 7, padding=3), ("forward", "input_grad", "weight_grad")),
        (Case("three_strided", 4, 128, 56, 56, 128, 3, 3, stride=2, padding=1), ("forward",)),
    ),
    ids=str,
)
def test_auto_takes_kernels_in_parts(case, names):
    explained = numbaconv.explain(case.input_shape("NCHW"), case.weight_shape, **case.options())
    for name in names:
        plan = getattr(explained, name)
        assert plan.algorithm == "winograd"
        assert (" phases; " if name == "input_grad" and case.stride != 1 else " maps; ") in plan.reason


@pytest.mark.parametrize(
    "case",
    (
        Case("few_channels", 4, 8, 32, 32, 8, 5, 5, padding=2),
        Case("small_map", 32, 64, 5, 5, 64, 5, 5, padding=2),
        Case("mostly_padding", 32, 64, 6, 6, 64, 5, 5, padding=4),
        Case("dilated", 4, 64, 21, 21, 64, 5, 5, padding=4, dilation=4),
        Case("dilated_far", 4, 64, 40, 40, 64, 3, 3, padding=8, dilation=8),
        Case("strided_dilated", 4, 64, 40, 40, 64, 5, 5, stride=2, dilation=2),
        Case("short_sums", 4, 8, 48, 48, 8, 4, 4, stride=2),
        Case("one_row", 4, 64, 40, 40, 64, 1, 7, padding=(0, 3)),
        Case("apart", 4, 64, 40, 40, 64, 2, 2, stride=3),
        Case("wide_dilated", 4, 64, 20, 20, 64, 3, 5, dilation=2),
    ),
    ids=str,
)
def test_auto_takes_direct_where_winograd_would_round_more_or_cannot(case):
    plans = numbaconv.explain(case.input_shape("NCHW"), case.weight_shape, **case.options()).plans
    assert {plan.algorithm for plan in plans} == {"direct"}


@each_winograd_pass
@each_layout
@pytest.mark.parametrize(
    ("taps", "dilation", "stride"),
    [(3, 1, 1), (4, 1, 1), (5, 1, 1), (3, 2, 1), (7, 1, 1), (5, 1, 2), (3, 1, 2), (2, 1, 1)],
)
@pytest.mark.parametrize("value", (np.nan, np.inf), ids=str)
def test_nonfinite_values_never_vanish(value, taps, dilation, stride, layout, name):
    """Wherever the exact result is not finite, so is this one; it may spread over its tile, and no further."""
    options = {"padding": taps // 2 * dilation, "dilation": dilation, "stride": stride}
    case = Case("", 2, 9, 13 * stride, 14 * stride, 10, taps, taps, **options)
    problem = Problem.normals(case, np.float32, layout)
    for array in (problem.x, problem.dy):
        array[tuple(extent // 2 for extent in array.shape)] = value
    with np.errstate(invalid="ignore"):
        expected = problem.expected(name)
    result = problem.run(name, "winograd")
    assert not np.isfinite(result[~np.isfinite(expected)]).any()
    assert (~np.isfinite(expected)).any()
    if name != "conv2d_weight_grad":
        reached = np.argwhere(~np.isfinite(result))
        center = [extent // 2 for extent in result.shape]
        for axis, letter in enumerate(layout):
            if letter in "HW":
                most = 7 * dilation if taps <= 5 and stride == 1 else (taps + 3) * stride
                assert np.abs(reached[:, axis] - center[axis]).max() < most
            elif letter == "N":
                assert (reached[:, axis] == center[axis]).all()


# -- the plan ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("C", (4, 64))
@pytest.mark.parametrize("extent", (2, 7, 30))
def test_variant_does_not_depend_on_the_batch(C, extent):
    variants = {tuple(plan.reason.split(";")[0] for plan in explain(N, C, extent, 32).plans) for N in (1, 2, 16, 1000)}
    assert len(variants) == 1
    assert all(name.startswith("F(") for name in variants.pop())


def explain(N, C, extent, F, taps=3, dilation=1, stride=1, **options):
    with every_variant_by_name():
        how = {"padding": taps // 2 * dilation, "dilation": dilation, "stride": stride, **options}
        how["algorithm"] = "winograd"
        return numbaconv.explain((N, C, extent, extent), (F, C, taps, taps), **how)


@pytest.mark.parametrize(
    ("taps", "dilation", "stride"),
    [(3, 1, 1), (4, 1, 1), (5, 1, 1), (3, 2, 1), (3, 4, 1), (5, 4, 1), (7, 1, 1), (2, 1, 1), (3, 1, 2), (5, 1, 2)],
)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize(("C", "F"), [(3, 64), (64, 64), (512, 512), (64, 2048), (2048, 64), (40, 1000)])
def test_scratch_is_bounded(C, F, dtype, taps, dilation, stride):
    """8 MiB for all workers together, whatever the extents are; partial dw in at most 8 shares, or half a MiB."""
    how = {"taps": taps, "dilation": dilation, "stride": stride, "dtype": dtype}
    # Of every map that interleaves.
    extents = ((8, 28), (64, 112), (512, 448))
    small, large, huge = (explain(N, C, H * dilation * stride, F, **how).plans for N, H in extents)
    for plan in (*small, *large, *huge):
        workers = min(plan.program.workers, numba.config.NUMBA_NUM_THREADS)
        assert workers >= 1
        assert plan.scratch_bytes * workers <= 8 << 20, str(plan)
    for plan, larger in zip(large, huge, strict=True):
        assert larger.scratch_bytes <= plan.scratch_bytes * 1.25 + 65536
        in_parts = stride > 1 or taps not in (3, 4, 5)
        weight = C * F * (taps + stride * in_parts) ** 2  # with the taps that parts of a kernel lack
        assert larger.shared_bytes <= 8 * 1.5 * (np.dtype(dtype).itemsize * weight + 65536)


def test_choice_and_variant_do_not_depend_on_threads(monkeypatch):
    """Or the bits of "auto" would: blocks are smaller where there are many threads, and seem to pay less."""
    problems = [
        (8, 512, 5, 200),
        (8, 64, 5, 96),
        (4, 256, 5, 128),
        (4, 192, 13, 384),
        (2, 32, 28, 32),
        (16, 16, 14, 64),
    ]
    choices = set()
    for threads in (1, 2, 7, 64):
        monkeypatch.setattr(turn, "threads", lambda threads=threads: threads)
        explained = (numbaconv.explain((N, C, H, H), (F, C, 3, 3), padding=1) for N, C, H, F in problems)
        plans = [plan for one in explained for plan in one.plans]
        choices.add(tuple((plan.algorithm, plan.reason) for plan in plans))
    assert len(choices) == 1


def test_auto_says_what_it_expects():
    plan = numbaconv.explain((4, 64, 56, 56), (64, 64, 3, 3), padding=1).forward
    assert plan.algorithm == "winograd"
    assert "of direct's time" in str(plan)
    shallow = numbaconv.explain((4, 1, 56, 56), (4, 1, 3, 3), padding=1).forward
    assert shallow.algorithm == "direct"
    assert "of direct's time" in str(shallow)


@pytest.mark.parametrize("options", ({"stride": 2}, {"dilation": 2}, {"stride": (1, 2)}))
def test_other_problems_are_refused(options):
    x, weight = np.ones((1, 2, 9, 9), np.float32), np.ones((3, 2, 3, 3), np.float32)
    with pytest.raises(ValueError, match="winograd.*3 x 3 at stride 1 and dilation 1, got"):
        numbaconv.conv2d(x, weight, algorithm="winograd", **options)


def test_other_kernels_are_refused():
    """Those of 5 x 5 too, which "auto" may compute so."""
    x = np.ones((1, 2, 9, 9), np.float32)
    with pytest.raises(ValueError, match=r"3 x 3 at stride 1.*got kernel_size \(5, 5\)"):
        numbaconv.conv2d(x, np.ones((3, 2, 5, 5), np.float32), algorithm="winograd")
    with pytest.raises(ValueError, match=r"got kernel_size \(5, 3\)"):
        numbaconv.conv2d_weight_grad(x, np.ones((1, 3, 5, 7), np.float32), (5, 3), algorithm="winograd")
