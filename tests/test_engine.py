"""What the direct engine promises beyond right results: bounded scratch, plans that print, code without spills."""

import math
import re
import sys

import numpy as np
import pytest
from numba import njit, types

import numbaconv
from numbaconv import plan
from numbaconv.kernels import gemm, tiling
from numbaconv.kernels.launch import NestKernel
from numbaconv.kernels.simd import pointer
from tests.cases import in_layout
from tests.memory import pointer_like
from tests.process import run_python

MIB = 1 << 20

SHAPES = {
    "large 3x3": ((8, 64, 224, 224), (64, 64, 3, 3), {"padding": 1}),
    "wide rows": ((1, 16, 8, 8000), (32, 16, 3, 3), {}),
    "deep": ((4, 2048, 7, 7), (512, 2048, 3, 3), {"padding": 1}),
    "1x1": ((4, 1024, 14, 14), (2048, 1024, 1, 1), {"stride": 2}),
    "first layer": ((4, 3, 224, 224), (64, 3, 11, 11), {"stride": 4, "padding": 2}),
    "dilated": ((2, 32, 64, 64), (32, 32, 3, 3), {"dilation": 16, "padding": 16}),
    "columns": ((32, 64, 14, 14), (256, 64, 5, 5), {}),
    "depthwise": ((4, 512, 224, 224), (512, 1, 3, 3), {"groups": 512, "padding": 1}),
    "multiplier": ((4, 16, 112, 112), (48, 1, 3, 3), {"groups": 16, "padding": 1}),
    "one channel": ((32, 1, 224, 224), (8, 1, 5, 5), {}),
    "wide depthwise": ((1, 64, 4, 20000), (64, 1, 3, 3), {"groups": 64}),
    "depthwise, channels last": ((4, 112, 112, 512), (512, 1, 3, 3), {"groups": 512, "layout": "NHWC"}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SHAPES)
def test_scratch_is_bounded(name, dtype):
    """A worker has at most 1 MiB and a little, whatever N, H and W are."""
    shape, weight_shape, options = SHAPES[name]
    explained = numbaconv.explain(shape, weight_shape, dtype=dtype, algorithm="direct", **options)
    for chosen in explained.plans:
        assert 0 < chosen.scratch_bytes <= MIB + 16 * 1024, str(chosen)


@pytest.mark.parametrize("name", SHAPES)
def test_shared_scratch_does_not_grow_with_the_images(name):
    """Packed weights and partial sums: four times the images and eight times the pixels need no more."""
    shape, weight_shape, options = SHAPES[name]

    def scaled(n, h, w):
        factors = {"N": n, "H": h, "W": w}
        layout = options.get("layout", "NCHW")
        larger = tuple(size * factors.get(axis, 1) for axis, size in zip(layout, shape, strict=True))
        return numbaconv.explain(larger, weight_shape, algorithm="direct", **options)

    small, large = scaled(2, 2, 2), scaled(8, 8, 4)
    weight_bytes = 4 * np.prod(weight_shape)
    for before, after in zip(small.plans, large.plans, strict=True):
        # Where the larger image is cut into more blocks, the weight may be packed ahead for all, in whole tiles.
        assert after.shared_bytes <= max(before.shared_bytes, 5 * weight_bytes // 4) + 64 * 4
        # Sixteen shares of partial sums, whose lines are padded to whole vectors and tiles.
        assert after.shared_bytes <= 16 * (4 * weight_bytes + 64 * 1024)


def test_memory_of_a_call_is_what_explain_says():
    """tracemalloc sees NumPy's allocations, scratch included: y, and what the plan printed."""
    import tracemalloc

    x = np.ones((2, 16, 64, 64), np.float32)
    weight = np.ones((16, 16, 3, 3), np.float32)
    chosen = numbaconv.explain(x.shape, weight.shape, padding=1).forward
    numbaconv.conv2d(x, weight, padding=1)
    tracemalloc.start()
    y = numbaconv.conv2d(x, weight, padding=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    import numba

    workers = numba.get_num_threads()
    assert peak <= y.nbytes + chosen.shared_bytes + workers * chosen.scratch_bytes + 64 * 1024


def test_explanation_names_algorithm_tile_blocks_bytes_and_flops():
    text = str(numbaconv.explain((4, 64, 56, 56), (64, 64, 3, 3), padding=1, algorithm="direct"))
    for pass_ in ("forward", "input gradient", "weight gradient"):
        assert f"{pass_}: direct (" in text
    lanes = tiling.lanes(4)
    assert f"register tile {tiling.MR} x {tiling.VECTORS * lanes}" in text
    assert re.search(r"scratch: [\d,]+ bytes a thread, [\d,]+ shared", text)
    assert f"{2 * 4 * 64 * 64 * 56 * 56 * 9:,} floating-point operations" in text
    assert "loops (asked for by name)" in str(numbaconv.explain((1, 1, 4, 4), (1, 1, 3, 3), algorithm="loops"))


def test_weight_gradient_of_few_channels_has_another_index_in_the_vector():
    """Where channels would fill a small part of a vector; and not where they fill it."""
    if tiling.lanes(4) < 8:
        pytest.skip("vectors of 4 are soon full")
    for layout, C, F, groups, found in (
        ("NCHW", 1, 6, 1, "pixels in the vector"),
        ("NCHW", 8, 24, 8, "pixels in the vector"),
        ("NCHW", 64, 64, 1, "by name)"),
        ("NHWC", 1, 3 * tiling.lanes(4) // 8, 1, "pixels in the vector"),
        ("NHWC", 3, 64, 1, "filters in the vector"),
        ("NHWC", 64, 64, 1, "by name)"),
    ):
        options = {"padding": 1, "groups": groups, "layout": layout, "algorithm": "direct"}
        plans = numbaconv.explain(in_layout(layout, 4, C, 64, 64), (F, C // groups, 3, 3), **options)
        assert found in str(plans.weight_grad)


def test_input_gradient_goes_by_columns():
    """Where few channels are a register tile with all their taps, whatever the batch; and not where many are."""
    if tiling.lanes(4) < 8:
        pytest.skip("channels soon fill vectors of 4")
    for layout, C, H, W, weight, options, found in (
        ("NCHW", 1, 45, 45, (260, 1, 4, 2), {}, True),
        ("NCHW", 3, 224, 224, (64, 3, 7, 7), {"stride": 2, "padding": 3}, True),
        ("NHWC", 3, 114, 114, (78, 3, 3, 3), {"stride": 2}, True),
        ("NCHW", 256, 28, 28, (256, 256, 3, 3), {"stride": 2, "padding": 1}, False),
        # Winograd's algorithm, which is to have 3 times direct's rounding at most.
        ("NCHW", 64, 56, 56, (64, 64, 5, 5), {"stride": 2, "padding": 2}, False),
        ("NCHW", 64, 28, 28, (64, 64, 3, 3), {"padding": 1}, False),
    ):
        for N in (1, 64):
            plans = numbaconv.explain(
                in_layout(layout, N, C, H, W), weight, layout=layout, algorithm="direct", **options
            )
            assert ("by columns" in str(plans.input_grad)) == found


def test_filters_go_to_the_vector_where_they_fill_it_better():
    """Small maps, and many channels, whatever the batch; not few channels, or filters that fill no vectors."""
    if tiling.lanes(4) < 8:
        pytest.skip("vectors of 4 are soon full")
    for layout, C, H, weight, options, found in (
        ("NCHW", 266, 6, (15, 266, 3, 3), {"padding": 1}, True),
        ("NCHW", 150, 7, (45, 150, 5, 5), {"padding": 2}, True),
        ("NCHW", 128, 28, (128, 128, 3, 3), {"padding": 1}, True),
        ("NCHW", 8, 90, (16, 8, 3, 3), {"stride": 2}, False),
        ("NCHW", 8, 96, (9, 8, 3, 3), {}, False),
        ("NCHW", 64, 7, (64, 64, 1, 1), {}, False),
        ("NHWC", 128, 28, (128, 128, 3, 3), {"padding": 1}, True),
        ("HWCN", 150, 7, (45, 150, 5, 5), {"padding": 2}, False),
    ):
        for N in (1, 64):
            shape = in_layout(layout, N, C, H, H)
            plans = numbaconv.explain(shape, weight, layout=layout, algorithm="direct", **options)
            assert ("filters in the vector" in str(plans.forward)) == found, (shape, weight)


def test_phases_of_the_input_gradient_are_one_problem():
    """Where their pixels are written together, on few channels a group and small maps, and phases are not too many."""
    if tiling.lanes(4) < 8:
        pytest.skip("vectors of 4 are soon full")
    for layout, C, H, weight, options, found in (
        ("NCHW", 512, 28, (512, 16, 3, 3), {"stride": 2, "padding": 1, "groups": 32}, True),
        ("NCHW", 512, 14, (512, 16, 3, 3), {"stride": (2, 1), "padding": 1, "groups": 32}, True),
        ("NHWC", 256, 28, (256, 256, 3, 3), {"stride": 2, "padding": 1}, True),
        ("NCHW", 64, 60, (32, 16, 6, 6), {"stride": 5, "groups": 4}, False),
        ("HWCN", 512, 28, (512, 16, 3, 3), {"stride": 2, "padding": 1, "groups": 32}, False),
    ):
        for N in (1, 64):
            shape = in_layout(layout, N, C, H, H)
            plan = numbaconv.explain(shape, weight, layout=layout, algorithm="direct", **options).input_grad
            assert ("filters in the vector" in str(plan)) == found, (shape, weight)
            # The weights of all phases are packed, not those of the largest one.
            assert not found or plan.shared_bytes >= 4 * math.prod(weight)


def test_one_share_of_the_weight_gradient_stays_in_scratch():
    """Its sums are not written to memory that is read again to turn them."""
    plans = numbaconv.explain((4, 512, 14, 14), (512, 512, 3, 3), stride=2, padding=1, algorithm="direct")
    assert "shares 1," in str(plans.weight_grad)
    assert plans.weight_grad.shared_bytes < 1024


def test_threads_share_the_rows_of_one_map(set_threads, every_call_parallel):
    """As segments of dx by columns, where there are no more images or channels to share."""
    set_threads(2)
    plans = numbaconv.explain((1, 1, 200, 190), (5, 1, 3, 3), stride=2, padding=1, algorithm="direct")
    assert "by columns" in str(plans.input_grad)
    assert plans.input_grad.program.pieces >= 2


def test_layer_explains_itself():
    layer = numbaconv.Conv2D(3, 8, 3, stride=2, layout="NHWC", algorithm="direct")
    assert layer.explain((2, 9, 9, 3)).geometry.output_shape == (2, 8, 4, 4)
    with pytest.raises(ValueError, match="input_shape"):
        layer.explain((9, 9, 3))


@njit
def run_panel(a, a_row, a_step, table, b, c, bias, rows, columns, depth, mode):
    like = pointer_like(c)
    gemm.multiply_panel(
        rows,
        columns,
        depth,
        table.size,
        pointer(np.int64(table.ctypes.data), pointer_like(table)),
        pointer(np.int64(a.ctypes.data), like),
        a_row,
        a_step,
        pointer(np.int64(b.ctypes.data), like),
        b.shape[1],
        pointer(np.int64(c.ctypes.data), like),
        c.shape[1],
        mode,
        pointer(np.int64(bias.ctypes.data), like),
        1,
    )
    return a[0, 0], table[0], b[0, 0], c[0, 0], bias[0]  # a last use of each, after which Numba may free it


@pytest.mark.parametrize("packed", (True, False), ids=("packed", "in_place"))
@pytest.mark.parametrize("table", ((0,), (3, 0, 7)), ids=("one_distance", "table"))
@pytest.mark.parametrize("rows", range(1, gemm.MR + 1))
def test_panel_on_all_tails(rows, table, packed):
    """Every m <= MR and n <= NR and one tile more, against NumPy, on integers; other elements of c stay."""
    rng = np.random.default_rng(rows)
    lanes = tiling.lanes(4)
    depth, taps = 5, len(table)
    for columns in range(1, 2 * tiling.VECTORS * lanes + 2, 3):
        whole = -(-columns // lanes) * lanes
        room = whole + 2 * lanes
        a = rng.integers(-4, 5, (gemm.MR, depth * taps)).astype(np.float32)
        b = rng.integers(-4, 5, (depth + 1, room)).astype(np.float32)
        bias = rng.integers(-4, 5, gemm.MR).astype(np.float32)
        rows_of_b = np.array([b[d, start : start + columns] for d in range(depth) for start in table])
        given = (np.ascontiguousarray(a.T), 1, gemm.MR) if packed else (a, depth * taps, 1)
        product = a[:rows] @ rows_of_b
        c = np.full((gemm.MR + 1, room), 7, np.float32)
        for mode, expected in (
            (gemm.FRESH, product),
            (gemm.ADD, 2 * product),
            (gemm.BIASED, product + bias[:rows, None]),
        ):
            run_panel(*given, np.array(table), b, c, bias, rows, columns, depth, mode)
            np.testing.assert_array_equal(c[:rows, :columns], expected)
        written = rows if rows in gemm.EXACT_ROWS else gemm.MR
        assert (c[written:] == 7).all()
        assert (c[:, whole:] == 7).all()


def test_inner_loop_is_packed_multiply_adds_without_spills():
    """The assembly of the full register tile: its loop has MR x VECTORS packed FMAs and touches no stack."""
    if not tiling.FMA or tiling.NEON:
        pytest.skip("the names of the instructions are those of x86 with FMA")
    micro_kernel = gemm.micro_full_wide
    address = types.CPointer(types.float32)
    kinds = (
        types.int64,
        types.int64,
        types.CPointer(types.int64),
        *(address, types.int64, types.int64),
        *(address, types.int64),
        *(address, types.int64, types.int64),
        *(address, types.int64),
    )
    micro_kernel.compile(kinds)
    assembly = micro_kernel.inspect_asm(kinds)  # a kernel that was compiled before it may have left others
    # A loop goes from a label to the jump back to it.
    loops = re.findall(r"\n(\.L\w+):((?:(?!\n\.L\w+:).)*?)\n\tj\w+\t\1\n", assembly, re.DOTALL)
    inner = [block for _, block in loops if block.count("vfmadd") >= gemm.MR * tiling.VECTORS]
    assert len(inner) == 2, "a loop for one tap and one for a table of them hold the whole tile's multiply-adds"
    for block in inner:
        fused = re.findall(r"vfmadd\w*ps", block)
        assert len(fused) % (gemm.MR * tiling.VECTORS) == 0
        assert not re.search(r"\bcall", block)
        assert not re.search(r"\(%rsp|\[rsp", block), "a spill in the inner loop"


@pytest.mark.slow
def test_same_bits_in_processes_of_any_number_of_threads():
    """NUMBA_NUM_THREADS of 1, 2, 3, 7 and 16, all passes, shapes that are cut into many pieces."""
    code = """
import hashlib
import numpy as np
import numbaconv as nc
rng = np.random.default_rng(0)
digest = hashlib.sha256()
problems = (37, 51, 40, 3, 1, 1), (1, 6, 70, 5, 1, 1), (3, 16, 70, 7, 2, 1), (48, 48, 40, 3, 2, 48)
problems += ((64, 72, 30, 1, 1, 1),)
for C, F, H, K, s, g in problems:
    x = rng.normal(size=(3, C, H, H)).astype("f")
    w = rng.normal(size=(F, C // g, K, K)).astype("f")
    o = {"stride": s, "padding": K // 2, "groups": g}
    y = nc.conv2d(x, w, **o)
    dy = rng.normal(size=y.shape).astype("f")
    dx, dw = nc.conv2d_input_grad(dy, w, x.shape, **o), nc.conv2d_weight_grad(x, dy, K, **o)
    for result in (y, dx, dw, nc.conv2d_bias_grad(dy)):
        digest.update(result.tobytes())
print(digest.hexdigest())
"""
    digests = {run_python(code, NUMBA_NUM_THREADS=str(threads)).strip() for threads in (1, 2, 3, 7, 16)}
    assert len(digests) == 1


@pytest.mark.slow
def test_work_is_cut_for_the_threads_in_use():
    """By `set_num_threads`, calls known and new; the same bits. Work for one thread alone does not start the others."""
    code = """
import numba, numpy as np, numbaconv as nc
from numbaconv.kernels.turn import turn
def passes(C, F, H, K, s, algorithm):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, C, H, H)).astype("f")
    w = rng.normal(size=(F, C, K, K)).astype("f")
    o = {"stride": s, "padding": K // 2, "algorithm": algorithm}
    y = nc.conv2d(x, w, **o)
    results = y, nc.conv2d_input_grad(y, w, x.shape, **o), nc.conv2d_weight_grad(x, y, K, **o)
    return [result.tobytes() for result in results], [str(p) for p in nc.explain(x.shape, w.shape, **o).plans]
problems = [(64, 96, 40, 3, 2, "direct"), (64, 96, 40, 3, 1, "winograd"), (128, 40, 40, 1, 1, "direct")]
for problem in problems:
    seen = []
    for threads in (8, 1, 3, 8):
        numba.set_num_threads(threads)
        seen.append(passes(*problem))
    bits, plans = zip(*seen)
    assert all(one == bits[0] for one in bits), problem
    assert plans[0] == plans[3], problem
    assert plans[0] != plans[1], problem
turn.threads = None  # not to be called
passes(8, 8, 8, 3, 1, "auto")
"""
    run_python(code, NUMBA_NUM_THREADS="8")


def test_warmup_compiles_everything_and_refuses_other_dtypes():
    names = [name for name, _ in plan.kernels()]
    modules = [module for name, module in sys.modules.items() if name.startswith("numbaconv.kernels.")]
    nests = {
        kernel.__name__ for module in modules for kernel in vars(module).values() if isinstance(kernel, NestKernel)
    }
    assert len(nests) > 15
    assert nests <= set(names)
    numbaconv.warmup(["float32"], progress=False)
    with pytest.raises(TypeError, match="float16"):
        numbaconv.warmup([np.float16])


def test_direct_needs_the_compiler():
    """Under NUMBA_DISABLE_JIT auto is loops and direct by name a ValueError."""
    code = """
import numpy as np
import numbaconv as nc
x = np.ones((1, 1, 3, 3), np.float32)
assert nc.conv2d(x, x[:, :, :2, :2]).tolist() == [[[[4, 4], [4, 4]]]]
try:
    nc.conv2d(x, x, algorithm="direct")
except ValueError as error:
    assert "NUMBA_DISABLE_JIT" in str(error)
else:
    raise AssertionError
"""
    run_python(code, NUMBA_DISABLE_JIT="1")
