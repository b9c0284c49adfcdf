"""More than 2**31 elements, sizes that no memory holds, and memory that must not grow."""

import sys
import tracemalloc
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import numbaconv
from numbaconv.kernels.tiling import FAR_BYTES

from .cases import (
    COMMON,
    EXACT_ALGORITHMS,
    PASSES,
    Case,
    each_exact_algorithm,
    each_layout,
    each_pass,
    each_pass_and_algorithm,
    in_layout,
)
from .errors import valid_arguments
from .problem import Problem, assert_same_bits
from .process import run_python

# One image of one channel; its last rows lie beyond element 2**31.
H, W = 2**16, 2**15 + 64
assert H * W > 2**31


def lazy_zeros(layout):
    """An image of zeros that only takes the memory of what is written to it."""
    try:
        return np.zeros(in_layout(layout, 1, 1, H, W), np.float32)
    except MemoryError:
        pytest.skip(f"no room for {4 * H * W:,} bytes, not even to promise them")


def peak_bytes(function):
    """What `function` returns, and the most memory that NumPy and Python held meanwhile."""
    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@each_exact_algorithm
@each_layout
@pytest.mark.parametrize("taps", (1, 3))
def test_elements_beyond_2_to_the_31(algorithm, layout, taps):
    """Stride 64, one element that is not zero and lies under the last tap of the last pixel; x is not copied."""
    x = lazy_zeros(layout)
    OH, OW = (H - taps) // 64 + 1, (W - taps) // 64 + 1
    h, w = (OH - 1) * 64 + taps - 1, (OW - 1) * 64 + taps - 1
    x[in_layout(layout, 0, 0, h, w)] = 3
    assert h * W + w > 2**31
    options = {"stride": 64, "layout": layout, "algorithm": algorithm}
    weight = np.arange(2 * taps * taps, dtype=np.float32).reshape(2, 1, taps, taps) + 1
    y, peak = peak_bytes(lambda: numbaconv.conv2d(x, weight, **options))
    expected = np.zeros(in_layout(layout, 1, 2, OH, OW), np.float32)
    expected[in_layout(layout, 0, slice(None), OH - 1, OW - 1)] = 3 * weight[:, 0, -1, -1]
    assert np.array_equal(y, expected)
    assert peak < 2**25
    dy = np.arange(y.size, dtype=np.float32).reshape(y.shape)
    dw, peak = peak_bytes(lambda: numbaconv.conv2d_weight_grad(x, dy, taps, **options))
    expected = np.zeros(weight.shape, np.float32)
    expected[:, 0, -1, -1] = 3 * dy[in_layout(layout, 0, slice(None), OH - 1, OW - 1)]
    assert np.array_equal(dw, expected)
    assert peak < 2**25


@pytest.mark.slow
@each_pass_and_algorithm
@each_layout
def test_strides_beyond_2_to_the_31(algorithm, layout, name):
    """x, dy and the result as every 8192nd pixel of huge images, read and written in place."""
    case = Case("", 1, 1, H // 8192, W // 8192 + 1, 1, 3, 3, padding=1)
    problem = Problem.normals(case, layout=layout)
    desired = problem.run(name, algorithm)
    every = in_layout(layout, slice(None), slice(None), slice(None, None, 8192), slice(None, None, 8192))

    def place(array):
        view = lazy_zeros(layout)[every]
        view[...] = array
        return view

    other = replace(problem, x=place(problem.x), dy=place(problem.dy))
    if name in PASSES[:2]:
        out = place(np.full_like(desired, np.nan))
        assert other.run(name, algorithm, out=out) is out
        assert_same_bits(out, desired)
    result, peak = peak_bytes(lambda: other.run(name, algorithm))
    assert_same_bits(result, desired)
    assert peak < 2**25


HUGE = 2**62
OVERFLOWING = {
    "padding": ("conv2d", {"padding": HUGE}),
    "padding of 63 bits": ("conv2d", {"padding": ((0, 2**63), (0, 0))}),
    "padding beside dy": ("conv2d_input_grad", {"padding": HUGE}),
    "padding beside x": ("conv2d_weight_grad", {"padding": HUGE}),
    "input_shape": ("conv2d_input_grad", {"input_shape": (2, 4, 2**40, 2**40), "stride": 2**40}),
    "kernel_size": ("conv2d_weight_grad", {"kernel_size": 2**40, "padding": 2**39}),
}


@pytest.mark.parametrize(("name", "changes"), OVERFLOWING.values(), ids=OVERFLOWING)
def test_overflow_is_an_error_before_anything_is_allocated(name, changes):
    arguments = valid_arguments(name) | changes | {"out": None}

    def call():
        with pytest.raises(ValueError, match="overflow"):
            getattr(numbaconv, name)(**arguments)

    _, peak = peak_bytes(call)
    assert peak < 2**20


# Results of 2**47 bytes and more: sizes that are no overflow, and that no address space of a process has.
TOO_LARGE = {
    "y": ("conv2d", {"padding": 2**22}),
    "dx": ("conv2d_input_grad", {"input_shape": (2, 4, 6 * 2**21, 8 * 2**21), "stride": 2**21}),
    "dw": ("conv2d_weight_grad", {"kernel_size": (2**22 + 3, 2**22 + 2), "padding": 2**21}),
}


@pytest.mark.parametrize(("name", "changes"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_memory_error_leaves_everything_usable(name, changes):
    problem = Problem.normals(COMMON)
    runs = [(pass_, algorithm) for pass_ in ("conv2d", name) for algorithm in EXACT_ALGORITHMS]
    desired = [problem.run(*run) for run in runs]
    for _ in range(3):
        with pytest.raises(MemoryError):
            getattr(numbaconv, name)(**valid_arguments(name) | changes | {"out": None})
        for run, result in zip(runs, desired, strict=True):
            assert_same_bits(problem.run(*run), result)


@each_pass
def test_memory_error_for_scratch_leaves_everything_usable(name, monkeypatch):
    """The result has found room and the kernel's memory does not: nothing is written, and no lock is held."""
    from numbaconv.kernels import launch

    class Full:
        """NumPy without memory."""

        uint8 = np.uint8

        @staticmethod
        def empty(*_):
            raise MemoryError

    problem = Problem.normals(COMMON)
    desired = problem.run(name, "direct")
    out = np.empty_like(desired)
    problem.run(name, "direct", out=out)  # planned: what is left to fail is the call
    out[...] = np.nan
    with monkeypatch.context() as patch:
        patch.setattr(launch, "np", Full)
        with pytest.raises(MemoryError):
            problem.run(name, "direct", out=out)
    assert np.isnan(out).all()
    assert_same_bits(problem.run(name, "direct", out=out), desired)


def test_plan_of_a_large_stride_is_small():
    """Stride 40, two taps on each axis: four products would do."""
    explain = partial(numbaconv.explain, (1, 1, 120, 120), (1, 1, 2, 2), stride=40, algorithm="direct")
    assert peak_bytes(explain)[1] < 2**20


GROWTH = """
import gc, threading
import numpy as np
import numbaconv
from tests import parallel
from tests.arrays import VARIANTS
from tests.cases import ALGORITHMS, LAYOUTS, MEMORY, PASSES
from tests.problem import Problem

parallel.always()
problems = [Problem.normals(case, np.float32, layout) for case in MEMORY for layout in LAYOUTS]
problems += [problems[0].map(variant) for variant in VARIANTS]
runs = [(problem, name, algorithm) for problem in problems for name in PASSES for algorithm in ALGORITHMS]
out = [problem.run(name, algorithm) for problem, name, algorithm in runs]
layer = numbaconv.Conv2D(4, 6, 3, padding=1, groups=2)

def call(i):
    problem, name, algorithm = runs[i % len(runs)]
    if i % 3:
        problem.run(name, algorithm)
    else:
        problem.run(name, algorithm, out=out[i % len(runs)])
    if i % 10 == 0:
        layer(problems[0].x)
        layer.backward(problems[0].dy)
    if i % 10 == 5:
        try:
            problem.run(name, algorithm, out=problem.x)
        except (TypeError, ValueError):
            pass

def many(count):
    for i in range(count):
        call(i)
    for i in range(50):
        thread = threading.Thread(target=call, args=(i,))
        thread.start()
        thread.join()
    gc.collect()
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["VmRSS"].split()[0]), int(lines["Threads"])

many(2000)
before = many(500)
after = many(10_000)
print(after[0] - before[0], after[1] - before[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ten_thousand_calls_do_not_grow():
    """All kinds of arrays, passes and layers, errors, threads that come and go: 0.4 KiB a call would be seen."""
    kibibytes, threads = map(int, run_python(GROWTH, NUMBA_NUM_THREADS="2", NUMBA_THREADING_LAYER="workqueue").split())
    assert kibibytes < 4096
    assert threads <= 0


@each_layout
@pytest.mark.parametrize("bias", (False, True))
def test_an_output_that_no_cache_holds(layout, bias):
    """Written around the caches where vectors begin with it: the same bits as elsewhere, and nothing beside it."""
    rng = np.random.default_rng(0)
    N, C, F, H, W = 2, 3, 64, 256, 272
    x = rng.standard_normal(in_layout(layout, N, C, H, W), np.float32)
    weight = rng.standard_normal((F, C, 3, 3), np.float32)
    bias = rng.standard_normal(F, np.float32) if bias else None
    shape = in_layout(layout, N, F, H, W)
    line = 16
    memory = np.full(np.prod(shape) + 4 * line, np.nan, np.float32)
    first = -memory.ctypes.data % 64 // 4 + line
    results = []
    for offset in (0, 4):
        memory[:] = np.nan
        y = memory[first + offset :][: np.prod(shape)].reshape(shape)
        assert y.nbytes > FAR_BYTES and y.ctypes.data % 64 == 4 * offset
        numbaconv.conv2d(x, weight, bias, padding=1, layout=layout, algorithm="direct", out=y)
        assert np.isnan(memory[: first + offset]).all() and np.isnan(memory[first + offset + y.size :]).all()
        results.append(y.copy())
    assert_same_bits(*results)
    y = numbaconv.conv2d(x, weight, bias, padding=1, layout=layout, algorithm="direct")
    assert y.ctypes.data % 64 == 0
    assert_same_bits(y, results[0])
