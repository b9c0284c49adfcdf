"""How `python -m bench` checks and times, on functions that do next to nothing, and how it finds the peak."""

import threading
import time

import numpy as np
import pytest

from bench import compare, peak, shapes, sides
from bench.compare import WrongResultError
from numbaconv.kernels import tiling

LAYER = shapes.parse_shape("2,4,7,6,6,3,2,2x1,1x0,1,2")
FLOAT = np.dtype(np.float32)


def make_side(name, result, calls=None):
    """A side whose passes only say that they were called."""

    def run():
        if calls is not None:
            calls.append(name)
        return result

    return sides.Side(name, dict.fromkeys(shapes.PASSES, run), lambda key, array: array)


# -- the two sides -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ("NCHW", "NHWC", "HWCN"))
def test_sides_of_every_layout_agree(layout):
    arrays = sides.make_arrays(LAYER, FLOAT)
    arranged = sides.arrange(arrays, layout)
    assert all(arranged[name].flags.c_contiguous for name in ("x", "dy"))
    plain = sides.numbaconv_side("loops", LAYER, arrays, "NCHW", "loops")
    side = sides.numbaconv_side("ours", LAYER, arranged, layout, "auto")
    for name in shapes.PASSES:
        assert compare.check(LAYER, name, side, plain) < 1e-5
    assert list(sides.algorithms(LAYER, layout, "loops", FLOAT).values())[:3] == ["loops"] * 3


@pytest.mark.parametrize("layout", ("NCHW", "NHWC"))
def test_torch_side_agrees_and_shares_memory(layout):
    torch = pytest.importorskip("torch")
    arrays = sides.arrange(sides.make_arrays(LAYER, FLOAT), layout)
    theirs = sides.torch_side(LAYER, arrays, layout)
    ours = sides.numbaconv_side("ours", LAYER, arrays, layout, "auto")
    for name in shapes.PASSES:
        assert compare.check(LAYER, name, ours, theirs) < 1e-5
    x = theirs.passes["y"].args[0]
    assert x.data_ptr() == arrays["x"].ctypes.data
    if layout == "NHWC":
        assert all(t.is_contiguous(memory_format=torch.channels_last) for t in theirs.passes["y"].args[:2])


# -- checking and timing -----------------------------------------------------------------------------


def test_relative_error():
    expected = np.array([1, -4], np.float32)
    assert compare.relative_error(expected, expected) == 0
    assert compare.relative_error(expected + np.float32(0.5), expected) == 0.125
    assert compare.relative_error(0 * expected, 0 * expected) == 0
    assert compare.relative_error(expected, 0 * expected) == np.inf


@pytest.mark.parametrize(
    "actual",
    (
        np.array([1, 2.001], np.float32),
        np.array([1, np.nan], np.float32),
        np.array([[1, 2]], np.float32),
        np.array([1, 2], np.float64),
    ),
    ids=("value", "nan", "shape", "dtype"),
)
def test_wrong_results_are_refused(actual):
    expected = make_side("them", np.array([1, 2], np.float32))
    with pytest.raises(WrongResultError, match="dx of 2 of 4>6"):
        compare.check(LAYER, "dx", make_side("us", actual), expected)


def test_sides_alternate_and_the_order_is_swapped(monkeypatch):
    turns = []

    def take_turn(run, calls):
        turns.append(run())
        return 1.0

    monkeypatch.setattr(compare, "take_turn", take_turn)
    ours, theirs = make_side("us", "us"), make_side("them", "them")
    result = compare.measure(LAYER, "y", ours, theirs, "direct", 0.0, 3, np.inf)
    assert turns[-6:] == ["us", "them", "them", "us", "us", "them"]
    assert (result.rounds, len(result.theirs), result.calls) == (3, 3, 1)


def test_budget_ends_the_rounds_of_both_sides():
    result = compare.measure(LAYER, "y", make_side("us", 0), make_side("them", 0), "direct", 0.0, 50, 1e-9)
    assert result.rounds == len(result.theirs) == compare.FEWEST_ROUNDS
    assert 1 < result.calls <= compare.MOST_CALLS


def test_without_the_other_side_there_is_no_ratio(monkeypatch):
    monkeypatch.setattr(compare, "WARM_SECONDS", 0)
    calls = []
    result = compare.measure(LAYER, "y", make_side("us", 0, calls), None, "direct", 0.0, 4, np.inf)
    assert (result.rounds, result.theirs, result.ratio, result.ratio_of_medians) == (4, [], None, None)
    assert len(calls) == 4 + 4 * 2 * result.calls  # two turns to warm up; half of all calls are not timed


def test_cores_are_warm_before_calls_are_timed(monkeypatch):
    monkeypatch.setattr(compare, "WARM_SECONDS", 0.02)
    calls = []
    begin = time.perf_counter()
    compare.take_turn(lambda: calls.append(time.perf_counter()), 2)
    assert len(calls) > 4
    assert calls[-3] - begin >= 0.02


@pytest.mark.skipif(not compare.TASKS.is_dir(), reason="reads Linux's /proc")
def test_state_of_a_thread():
    assert compare._state(str(threading.get_native_id())) == "R"
    assert compare._state("0") == ""
    assert str(threading.get_native_id()) not in compare.running_threads()


# -- the peak ----------------------------------------------------------------------------------------


def test_combined_rate():
    assert peak.combined_rate(6, [(0, 2)]) == 3
    assert peak.combined_rate(6, [(0, 2), (0.1, 2.1)]) == pytest.approx(6)
    assert peak.combined_rate(6, [(0, 2), (2, 4)]) == 3, "one after the other on one core"


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_chains_are_computed_in_registers(dtype):
    dtype = np.dtype(dtype)
    machine = peak.Peak(dtype, 1)
    machine.reset()
    expected = machine.tiles[0].copy()
    chains = slice(0, peak.CHAINS * tiling.lanes(dtype.itemsize))
    for _ in range(5):
        expected[chains] = expected[chains] * peak.SCALE + peak.OFFSET
    machine.run(0, 5)
    np.testing.assert_array_equal(machine.tiles[0], expected)
    if tiling.AVX2 or tiling.AVX512:
        lines = [line for line in machine.compiled._library.get_asm_str().split("\n") if "vfmadd" in line]
        assert len(lines) >= peak.CHAINS
        # With the operands in memory there would be an address in brackets.
        assert all("(" not in line and ("ps" in line or "pd" in line) for line in lines)


def test_a_kernel_above_the_peak_is_an_error(monkeypatch):
    machine = peak.Peak(FLOAT, 2)
    assert machine.measure(3) > 0
    monkeypatch.setattr(machine, "measure", lambda rounds: machine.flops)
    machine.check(1.02 * machine.flops, "a kernel")
    with pytest.raises(peak.PeakError, match="a kernel ran at .* 2 threads: the peak is wrong"):
        machine.check(1.04 * machine.flops, "a kernel")
