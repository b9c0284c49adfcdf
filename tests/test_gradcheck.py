"""gradcheck passes what is right, and finds and names what is wrong."""

import numpy as np
import pytest

import numbaconv
from numbaconv import Conv2D
from numbaconv.gradcheck import gradcheck

from .cases import SHAPES, each_dtype, each_layout

# Those of the shape list that gradcheck, which runs a forward pass for every element, gets through quickly.
CASES = [case for case in SHAPES if np.prod(case.input_shape("NCHW")) + np.prod(case.weight_shape) < 300]


def random(shape, dtype=np.float64):
    return np.random.default_rng(11).standard_normal(shape).astype(dtype)


@each_dtype
@each_layout
@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_passes(case, layout, dtype):
    layer = Conv2D(
        case.C,
        case.F,
        (case.KH, case.KW),
        **case.options(),
        layout=layout,
        flip=layout == "NHWC",
        dtype=dtype,
        rng=0,
    )
    report = gradcheck(layer, random(case.input_shape(layout), dtype))
    assert report, str(report)
    for name in ("x", "weight", "bias"):
        assert name in str(report)


class WrongLayer(Conv2D):
    """A layer with one element of one gradient off."""

    def __init__(self, *args, wrong, error, **options):
        super().__init__(*args, **options)
        self.wrong, self.error = wrong, error

    def backward(self, dy, **options):
        dx = super().backward(dy, **options)
        gradient = {"x": dx, "weight": self.weight_grad, "bias": self.bias_grad}[self.wrong]
        gradient[(-1,) * gradient.ndim] += self.error
        return dx


@pytest.mark.parametrize("error", (1e-3, -0.5, np.nan, np.inf), ids=str)
@pytest.mark.parametrize("wrong", ("x", "weight", "bias"))
def test_wrong_layer_fails(wrong, error):
    """And the report names the gradient and its worst element."""
    layer = WrongLayer(2, 3, (2, 3), dtype=np.float64, rng=0, wrong=wrong, error=error)
    report = gradcheck(layer, random((2, 2, 4, 5)))
    assert not report
    index = {"x": "[1][1][3][4]", "weight": "[2][1][1][2]", "bias": "[2]"}[wrong]
    assert f"{wrong}{index}" in str(report)
    assert [line.split()[:2] for line in str(report).splitlines() if "FAIL" in line] == [["FAIL", f"{wrong}:"]]


@pytest.mark.parametrize("scale", (1.01, -1, 0), ids=str)
def test_wrong_scale_fails(scale):
    class Scaled(Conv2D):
        def backward(self, dy):
            return super().backward(dy) * scale

    assert not gradcheck(Scaled(2, 3, 2, dtype=np.float64, rng=0), random((1, 2, 4, 4)))


@each_dtype
def test_inputs_and_parameters_are_restored(dtype):
    layer = Conv2D(2, 3, 2, dtype=dtype, rng=0)
    x = random((1, 2, 4, 4), dtype)
    before = [array.tobytes() for array in (x, layer.weight, layer.bias)]
    gradcheck(layer, x)
    assert [array.tobytes() for array in (x, layer.weight, layer.bias)] == before


def test_function_of_several_inputs():
    """The three gradients of a function, given as one."""
    options = {"stride": 2, "padding": 1}

    def function(x, weight, bias):
        return numbaconv.conv2d(x, weight, bias, **options)

    def gradient(dy, x, weight, bias):
        return (
            numbaconv.conv2d_input_grad(dy, weight, x.shape, **options),
            numbaconv.conv2d_weight_grad(x, dy, 3, **options),
            numbaconv.conv2d_bias_grad(dy),
        )

    def swapped_sign(dy, x, weight, bias):
        dx, dw, db = gradient(dy, x, weight, bias)
        return dx, -dw, db

    inputs = random((2, 3, 5, 6)), random((4, 3, 3, 3)), random(4)
    names = ("x", "weight", "bias")
    assert gradcheck(function, *inputs, gradient=gradient, names=names)
    report = gradcheck(function, *inputs, gradient=swapped_sign, names=names)
    assert not report
    failed = [line for line in str(report).splitlines() if "FAIL" in line]
    assert len(failed) == 1
    assert "weight" in failed[0]


def test_function_needs_a_gradient():
    with pytest.raises(TypeError, match="gradient"):
        gradcheck(np.sin, random(3))


def test_gradient_of_a_wrong_shape():
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        gradcheck(np.sin, random(3), gradient=lambda dy, x: (dy * np.cos(x))[:2])


def test_inputs_must_be_floating_point():
    with pytest.raises(TypeError, match="inputs"):
        gradcheck(np.sin, np.arange(3), gradient=lambda dy, x: dy)
    with pytest.raises(ValueError, match="inputs"):
        gradcheck(np.sin, gradient=lambda dy: dy)


def test_same_report_each_time():
    """Elements of large arrays are drawn from a seed."""
    layer = Conv2D(3, 4, 3, dtype=np.float64, rng=0)
    x = random((2, 3, 12, 12))
    first, second = (str(gradcheck(layer, x, max_elements=20)) for _ in range(2))
    assert first == second
    assert "20 elements" in first
