"""One test for each ValueError: the argument named with what it got, and nothing written."""

import numpy as np
import pytest

import numbaconv

from .cases import PASSES
from .errors import assert_refused, assert_says, valid_arguments

CONVOLUTIONS = PASSES[:3]


def array(*shape):
    return np.ones(shape, np.float32)


# name of the pass, what is changed in a valid call, what the message says
SHAPES = {
    "x of rank 3": ("conv2d", {"x": array(4, 8, 9)}, ["x", (4, 8, 9), "x[None]"]),
    "x of rank 5": ("conv2d", {"x": array(1, 2, 4, 8, 9)}, ["x", (1, 2, 4, 8, 9)]),
    "x of rank 0": ("conv2d", {"x": array()}, ["x", ()]),
    "x of rank 3 in dw": ("conv2d_weight_grad", {"x": array(4, 8, 9)}, ["x", (4, 8, 9), "x[None]"]),
    "weight of rank 2": ("conv2d", {"weight": array(3, 2)}, ["weight", (3, 2)]),
    "weight of rank 5": ("conv2d", {"weight": array(1, 6, 4, 3, 2)}, ["weight", (1, 6, 4, 3, 2)]),
    "weight of rank 3 in dx": ("conv2d_input_grad", {"weight": array(4, 3, 2)}, ["weight", (4, 3, 2)]),
    "bias of rank 2": ("conv2d", {"bias": array(6, 1)}, ["bias", (6, 1)]),
    "bias of rank 0": ("conv2d", {"bias": array()}, ["bias", ()]),
    "bias too short": ("conv2d", {"bias": array(5)}, ["bias", 6, 5]),
    "bias too long": ("conv2d", {"bias": array(7)}, ["bias", 6, 7]),
    "bias of one": ("conv2d", {"bias": array(1)}, ["bias", 6, 1]),
    "bias of none": ("conv2d", {"bias": array(0)}, ["bias", 6, 0]),
    "dy of rank 3 in dx": ("conv2d_input_grad", {"dy": array(6, 6, 8)}, ["dy", (6, 6, 8)]),
    "dy of rank 3 in dw": ("conv2d_weight_grad", {"dy": array(6, 6, 8)}, ["dy", (6, 6, 8)]),
    "dy of rank 2 in db": ("conv2d_bias_grad", {"dy": array(2, 6)}, ["dy", (2, 6)]),
    "input_shape of 3": ("conv2d_input_grad", {"input_shape": (4, 8, 9)}, ["input_shape", (4, 8, 9)]),
    "input_shape of 5": (
        "conv2d_input_grad",
        {"input_shape": (1, 2, 4, 8, 9)},
        ["input_shape", (1, 2, 4, 8, 9)],
    ),
    "negative extent": ("conv2d_input_grad", {"input_shape": (2, 4, -8, 9)}, ["input_shape", -8]),
    "channels of x": ("conv2d", {"x": array(2, 5, 8, 9)}, ["weight", "x", 4, 5]),
    "channels of weight": ("conv2d", {"weight": array(6, 3, 3, 2)}, ["weight", "x", 4, 3]),
    "channels of input_shape": ("conv2d_input_grad", {"input_shape": (2, 5, 8, 9)}, ["weight", 4, 5]),
    "channels, grouped": ("conv2d", {"weight": array(6, 4, 3, 2), "groups": 2}, ["weight", "groups", 2, 4]),
    "channels, another layout": ("conv2d", {"x": array(2, 4, 8, 9), "layout": "NHWC"}, ["weight", "x", 4, 9]),
    "C over groups": ("conv2d", {"weight": array(6, 1, 3, 2), "groups": 3}, ["groups", 3, 4]),
    "C over groups in dx": (
        "conv2d_input_grad",
        {"weight": array(6, 1, 3, 2), "groups": 3},
        ["groups", 3, 4],
    ),
    "C over groups in dw": ("conv2d_weight_grad", {"groups": 3}, ["groups", 3, 4]),
    "F over groups": ("conv2d", {"weight": array(6, 1, 3, 2), "groups": 4}, ["groups", 4, 6]),
    "F over groups in dw": ("conv2d_weight_grad", {"groups": 4}, ["groups", 4, 6]),
    "more groups than channels": ("conv2d", {"weight": array(8, 1, 3, 2), "groups": 8}, ["groups", 8, 4]),
    "rows of dy in dx": ("conv2d_input_grad", {"dy": array(2, 6, 5, 8)}, ["dy", (2, 6, 5, 8), (2, 6, 6, 8)]),
    "filters of dy in dx": (
        "conv2d_input_grad",
        {"dy": array(2, 5, 6, 8)},
        ["dy", (2, 5, 6, 8), (2, 6, 6, 8)],
    ),
    "images of dy in dx": (
        "conv2d_input_grad",
        {"dy": array(1, 6, 6, 8)},
        ["dy", (1, 6, 6, 8), (2, 6, 6, 8)],
    ),
    "columns of dy in dw": (
        "conv2d_weight_grad",
        {"dy": array(2, 6, 6, 9)},
        ["dy", (2, 6, 6, 9), (2, 6, 6, 8)],
    ),
    "images of dy in dw": (
        "conv2d_weight_grad",
        {"dy": array(3, 6, 6, 8)},
        ["dy", (3, 6, 6, 8), (2, 6, 6, 8)],
    ),
    "dy that would broadcast": (
        "conv2d_weight_grad",
        {"dy": array(1, 6, 1, 1)},
        ["dy", (1, 6, 1, 1), (2, 6, 6, 8)],
    ),
    "no filter": ("conv2d", {"weight": array(0, 4, 3, 2)}, ["weight", 0]),
    "no filter in dx": ("conv2d_input_grad", {"weight": array(0, 4, 3, 2)}, ["weight", 0]),
    "no filter in dw": ("conv2d_weight_grad", {"dy": array(2, 0, 6, 8)}, ["dy", (2, 0, 6, 8)]),
    "no filter in db": ("conv2d_bias_grad", {"dy": array(2, 0, 6, 8)}, ["dy", (2, 0, 6, 8)]),
    "no row in the kernel": ("conv2d", {"weight": array(6, 4, 0, 2)}, ["weight", 0]),
    "no column in the kernel": ("conv2d_input_grad", {"weight": array(6, 4, 3, 0)}, ["weight", 0]),
    "no row in dy of db": ("conv2d_bias_grad", {"dy": array(2, 6, 0, 8)}, ["dy", (2, 6, 0, 8)]),
    "kernel above input": ("conv2d", {"weight": array(6, 4, 9, 2)}, ["kernel", "x", 9, 8]),
    "kernel above padded input": (
        "conv2d",
        {"weight": array(6, 4, 11, 2), "padding": 1},
        ["kernel", "x", 11, 10],
    ),
    "dilated kernel above input": ("conv2d", {"dilation": (4, 1)}, ["dilation", (4, 1), 9, 8]),
    "dilated kernel above input in dx": (
        "conv2d_input_grad",
        {"dilation": (1, 9)},
        ["dilation", (1, 9), 10, 9],
    ),
    "kernel_size above input": ("conv2d_weight_grad", {"kernel_size": (3, 10)}, ["kernel_size", 10, 9]),
    "no row in x": ("conv2d", {"x": array(2, 4, 0, 9)}, ["kernel", "x", 3, 0]),
    "no row in x, padding same": ("conv2d", {"x": array(2, 4, 0, 9), "padding": "same"}, ["kernel", "x", 3]),
    "kernel_size of three": ("conv2d_weight_grad", {"kernel_size": (3, 3, 3)}, ["kernel_size", (3, 3, 3)]),
    "kernel_size of one": ("conv2d_weight_grad", {"kernel_size": (3,)}, ["kernel_size", (3,)]),
    "kernel_size 0": ("conv2d_weight_grad", {"kernel_size": 0}, ["kernel_size", 0]),
    "kernel_size with a 0": ("conv2d_weight_grad", {"kernel_size": (3, 0)}, ["kernel_size", 0]),
    "negative kernel_size": ("conv2d_weight_grad", {"kernel_size": (-3, 2)}, ["kernel_size", -3]),
}


@pytest.mark.parametrize(("name", "changes", "words"), SHAPES.values(), ids=SHAPES)
def test_shapes(name, changes, words):
    assert_refused(ValueError, name, changes, words)


OPTIONS = {
    "stride": ([0, 0], [-2, -2], [(1, 0), 0], [(-1, 1), -1], [(1, 2, 3), (1, 2, 3)], [(), ()], [[2], [2]]),
    "dilation": ([0, 0], [-1, -1], [(0, 1), 0], [(1, -3), -3], [(1, 2, 3), (1, 2, 3)], [(2,), (2,)]),
    "groups": ([0, 0], [-4, -4]),
    "padding": (
        [-1, -1],
        [(-1, 0), -1],
        [((0, -2), (0, 0)), -2],
        [(), ()],
        [(1,), (1,)],
        [(1, 2, 3), (1, 2, 3)],
        [(1, 2, 3, 4), (1, 2, 3, 4)],
        [((1, 1),), ((1, 1),)],
        [((1, 1), (1,)), ((1, 1), (1,))],
        [((1, 1), (1, 1), (1, 1)), ((1, 1), (1, 1), (1, 1))],
        [((1, 1, 1), (1, 1, 1)), ((1, 1, 1), (1, 1, 1))],
        [(1, (1, 1)), (1, (1, 1))],
        [((1, 1), 1), ((1, 1), 1)],
        ["SAME", "'SAME'", "'valid'", "'same'", "'same_lower'"],
        ["Valid", "'Valid'", "'valid'", "'same'", "'same_lower'"],
        ["full", "'full'", "'valid'", "'same'", "'same_lower'"],
        ["same_upper", "'same_upper'", "'valid'", "'same'", "'same_lower'"],
        ["", "''", "'valid'", "'same'", "'same_lower'"],
    ),
    "layout": (
        ["NCWH", "'NCWH'", "'NCHW'", "'NHWC'", "'HWCN'"],
        ["nchw", "'nchw'", "'NCHW'", "'NHWC'", "'HWCN'"],
        ["channels_last", "'channels_last'", "'NCHW'", "'NHWC'", "'HWCN'"],
    ),
    "algorithm": (["fast", "'fast'", "'auto'", "'loops'"], ["LOOPS", "'LOOPS'", "'auto'", "'loops'"]),
}
SPOILED = [(option, value, words) for option, values in OPTIONS.items() for value, *words in values]


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize(("option", "value", "words"), SPOILED, ids=str)
def test_options(name, option, value, words):
    assert_refused(ValueError, name, {option: value}, [option, *words])


def test_layout_of_bias_grad():
    assert_refused(ValueError, "conv2d_bias_grad", {"layout": "CHWN"}, ["layout", "'CHWN'", "'HWCN'"])


HUGE = 2**62


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("padding", (2**31, HUGE, 2**70, ((0, HUGE), (0, 0)), (0, 2**63)), ids=str)
def test_padding_that_overflows(name, padding):
    changes = {"padding": padding}
    if name == "conv2d":
        changes["out"] = None  # none could be made
        with pytest.raises(ValueError, match="overflow"):
            numbaconv.conv2d(**valid_arguments(name) | changes)
    else:
        with pytest.raises(ValueError, match="overflow"):
            getattr(numbaconv, name)(**valid_arguments(name) | changes)


@pytest.mark.parametrize(
    "input_shape",
    ((1, 1, 2**40, 2**40), (2**61, 1, 1, 1), (1, 1, HUGE, 1), (2**64, 1, 1, 1), (0, 1, HUGE, HUGE)),
)
def test_input_shape_that_overflows(input_shape):
    """The stride makes the output small; dx would not fit into any memory."""
    N = input_shape[0] if input_shape[0] in (0, 1) else 1
    dy, weight = np.ones((N, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
    with pytest.raises(ValueError):
        numbaconv.conv2d_input_grad(dy, weight, input_shape, stride=HUGE)


def test_kernel_size_that_overflows():
    x, dy = np.ones((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
    with pytest.raises(ValueError, match="overflow"):
        numbaconv.conv2d_weight_grad(x, dy, 2**40 + 1, padding=2**39)


@pytest.mark.parametrize("option", ("dilation", "stride"))
@pytest.mark.parametrize("value", (2**63, 2**70))
def test_more_than_64_bits(option, value):
    """On a kernel of one tap and an output of one pixel they change nothing: right, or refused."""
    x, weight = np.full((1, 1, 1, 1), 3, np.float32), np.full((1, 1, 1, 1), 5, np.float32)
    try:
        y = numbaconv.conv2d(x, weight, **{option: value})
    except ValueError as error:
        assert_says(error, [option, value])
    else:
        assert y.item() == 15


@pytest.mark.parametrize("option", ("dilation", "stride"))
def test_largest_values_that_change_nothing(option):
    """Near the end of the 64 bits no index may wrap around."""
    x, weight = np.full((2, 3, 1, 1), 3, np.float32), np.full((4, 3, 1, 1), 5, np.float32)
    for padding in (0, "same"):
        y = numbaconv.conv2d(x, weight, padding=padding, **{option: HUGE})
        assert (y == 45).all()
        dx = numbaconv.conv2d_input_grad(y, weight, x.shape, padding=padding, **{option: HUGE})
        assert (dx == 900).all()
        dw = numbaconv.conv2d_weight_grad(x, y, 1, padding=padding, **{option: HUGE})
        assert (dw == 270).all()
