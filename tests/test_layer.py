"""Conv2D: its passes are those of the functions, and what it keeps from one to the next."""

import gc
import math
import weakref

import numpy as np
import pytest

import numbaconv
from numbaconv import Conv2D

from .cases import COMMON, SHAPES, Case, each_dtype, each_layout
from .problem import Problem, assert_same_bits


def layer_and_problem(case=COMMON, dtype=np.float32, layout="NCHW", flip=False, bias=True):
    """A layer, and a problem with the layer's parameters."""
    options = {"layout": layout, "flip": flip, "dtype": dtype, "rng": 7}
    layer = Conv2D(case.C, case.F, (case.KH, case.KW), bias=bias, **case.options(), **options)
    problem = Problem.normals(case, dtype, layout, flip)
    problem.weight[...] = layer.weight
    problem.bias[...] = layer.bias if bias else 0
    return layer, problem


@each_dtype
@each_layout
@pytest.mark.parametrize("flip", (False, True), ids=("correlate", "flip"))
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_as_the_functions(case, flip, layout, dtype):
    layer, problem = layer_and_problem(case, dtype, layout, flip)
    assert_same_bits(layer.forward(problem.x), problem.run("conv2d", None))
    assert_same_bits(layer.backward(problem.dy), problem.run("conv2d_input_grad", None))
    assert_same_bits(layer.weight_grad, problem.run("conv2d_weight_grad", None))
    assert_same_bits(layer.bias_grad, problem.run("conv2d_bias_grad", None))


def test_call_is_forward():
    layer, problem = layer_and_problem()
    assert_same_bits(layer(problem.x), layer.forward(problem.x))
    assert_same_bits(layer(problem.x, training=False), layer.forward(problem.x))
    with pytest.raises(RuntimeError):
        layer(problem.x, False) is not None and layer.backward(problem.dy)


def test_without_bias():
    layer, problem = layer_and_problem(bias=False)
    assert layer.bias is None
    y = numbaconv.conv2d(problem.x, problem.weight, **problem.options("conv2d"))
    assert_same_bits(layer(problem.x), y)
    layer.backward(problem.dy)
    assert layer.bias_grad is None
    assert [name for name, _, _ in layer.parameters()] == ["weight"]
    assert list(layer.state_dict()) == ["weight"]


@each_dtype
@pytest.mark.parametrize("groups", (1, 2, 4))
def test_initial_distribution(groups, dtype):
    """Uniform between -b and b, b = 1 / sqrt(fan_in): both ends are neared and the variance is b^2 / 3."""
    layer = Conv2D(16, 400, (3, 5), groups=groups, dtype=dtype, rng=0)
    b = 1 / math.sqrt(16 // groups * 3 * 5)
    for parameter, shape in ((layer.weight, (400, 16 // groups, 3, 5)), (layer.bias, (400,))):
        assert parameter.dtype == dtype
        assert parameter.shape == shape
        assert parameter.flags.c_contiguous
        assert np.abs(parameter).max() <= dtype(b)
        assert parameter.min() < -0.97 * b
        assert parameter.max() > 0.97 * b
        assert parameter.var() == pytest.approx(b**2 / 3, rel=4 / math.sqrt(parameter.size))
        assert abs(parameter.mean()) < 4 * b / math.sqrt(3 * parameter.size)


def test_seeds():
    first, second, other = (Conv2D(3, 4, 3, rng=seed) for seed in (5, 5, 6))
    for name in ("weight", "bias"):
        assert_same_bits(getattr(first, name), getattr(second, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name))
    generator = np.random.default_rng(5)
    assert_same_bits(Conv2D(3, 4, 3, rng=generator).weight, first.weight)
    assert not np.array_equal(Conv2D(3, 4, 3, rng=generator).weight, first.weight), "the generator stood still"
    assert_same_bits(Conv2D(3, 4, 3, rng=np.int64(5)).weight, first.weight)
    assert not np.array_equal(Conv2D(3, 4, 3).weight, Conv2D(3, 4, 3).weight)


def test_dtype_does_not_change_the_draw():
    single, double = (Conv2D(3, 4, 3, dtype=dtype, rng=8) for dtype in (np.float32, np.float64))
    assert_same_bits(single.weight, double.weight.astype(np.float32))


def test_gradients_are_none_before_backward():
    layer, problem = layer_and_problem()
    assert layer.weight_grad is None
    assert layer.bias_grad is None
    layer(problem.x)
    assert [gradient for _, _, gradient in layer.parameters()] == [None, None]


def test_backward_before_forward():
    layer, problem = layer_and_problem()
    with pytest.raises(RuntimeError, match="forward"):
        layer.backward(problem.dy)
    assert layer.weight_grad is None


def test_training_false_keeps_nothing():
    """And drops what was kept, so that inference holds no batch in memory."""
    layer, problem = layer_and_problem()
    x = problem.x.copy()
    kept = weakref.ref(x)
    layer(x)
    del x
    gc.collect()
    assert kept() is not None
    layer(problem.x, training=False)
    gc.collect()
    assert kept() is None
    with pytest.raises(RuntimeError, match="forward"):
        layer.backward(problem.dy)


def test_x_is_kept_by_reference():
    """Documented: what changes in x between forward and backward shows in the gradient."""
    layer, problem = layer_and_problem()
    layer(problem.x)
    problem.x[...] *= 2
    layer.backward(problem.dy)
    assert_same_bits(layer.weight_grad, problem.run("conv2d_weight_grad", None))


def test_last_forward_counts():
    layer, problem = layer_and_problem()
    layer(problem.x[::-1].copy())
    layer(problem.x)
    layer.backward(problem.dy)
    assert_same_bits(layer.weight_grad, problem.run("conv2d_weight_grad", None))


def test_input_grad_false():
    layer, problem = layer_and_problem()
    layer(problem.x)
    assert layer.backward(problem.dy, input_grad=False) is None
    assert_same_bits(layer.weight_grad, problem.run("conv2d_weight_grad", None))
    assert_same_bits(layer.bias_grad, problem.run("conv2d_bias_grad", None))


def test_each_backward_makes_new_arrays():
    layer, problem = layer_and_problem()
    layer(problem.x)
    layer.backward(problem.dy)
    first = layer.weight_grad, layer.bias_grad
    copies = [gradient.copy() for gradient in first]
    layer(problem.x)
    layer.backward(problem.dy * 2)
    assert layer.weight_grad is not first[0]
    assert layer.bias_grad is not first[1]
    for gradient, copy in zip(first, copies, strict=True):
        assert_same_bits(gradient, copy)


def test_accumulate_adds_to_the_same_arrays():
    """In one addition an element; a gradient that is None is started."""
    layer, problem = layer_and_problem()
    layer(problem.x)
    dx = layer.backward(problem.dy, accumulate=True)
    weight_grad, bias_grad = layer.weight_grad, layer.bias_grad
    assert_same_bits(weight_grad, problem.run("conv2d_weight_grad", None))
    first = weight_grad.copy(), bias_grad.copy()
    assert_same_bits(layer.backward(problem.dy, accumulate=True), dx)
    assert layer.weight_grad is weight_grad
    assert layer.bias_grad is bias_grad
    assert_same_bits(weight_grad, first[0] + first[0])
    assert_same_bits(bias_grad, first[1] + first[1])
    layer.weight_grad = layer.bias_grad = None
    layer.backward(problem.dy, accumulate=True)
    assert layer.weight_grad is not weight_grad
    assert_same_bits(layer.weight_grad, first[0])


def test_halves_of_a_batch_accumulate_to_the_whole():
    layer, problem = layer_and_problem(Case("", 4, 3, 6, 7, 5, 3, 3, 2, 1))
    problem = Problem.integers(problem.case)
    for half in (slice(0, 2), slice(2, 4)):
        layer(problem.x[half])
        layer.backward(problem.dy[half], accumulate=True)
    assert np.array_equal(layer.weight_grad, problem.expected("conv2d_weight_grad"))
    assert np.array_equal(layer.bias_grad, problem.expected("conv2d_bias_grad"))


def test_a_wrong_dy_changes_nothing():
    layer, problem = layer_and_problem()
    layer(problem.x)
    layer.backward(problem.dy)
    before = layer.weight_grad, layer.bias_grad
    copies = [gradient.copy() for gradient in before]
    wrong = (
        (ValueError, problem.dy[:, :, 1:]),
        (ValueError, problem.dy[0]),
        (TypeError, problem.dy.astype(np.float64)),
        (TypeError, None),
        (TypeError, problem.dy.tolist()),
    )
    for error, dy in wrong:
        for accumulate in (False, True):
            with pytest.raises(error, match=r"\bdy\b"):
                layer.backward(dy, accumulate=accumulate)
            assert layer.weight_grad is before[0]
            assert layer.bias_grad is before[1]
            for gradient, copy in zip(before, copies, strict=True):
                assert_same_bits(gradient, copy)
    assert_same_bits(layer.backward(problem.dy), problem.run("conv2d_input_grad", None))


@pytest.mark.parametrize(("attribute", "accumulate"), (("weight", False), ("weight", True), ("bias_grad", True)))
def test_a_wrong_attribute_changes_nothing(attribute, accumulate):
    """Whatever the user put in its place: all three passes are checked before the first of them runs."""
    layer, problem = layer_and_problem()
    layer(problem.x)
    layer.backward(problem.dy)
    setattr(layer, attribute, getattr(layer, attribute).astype(np.float64))
    weight_grad, copy = layer.weight_grad, layer.weight_grad.copy()
    with pytest.raises(TypeError, match="float64"):
        layer.backward(problem.dy, accumulate=accumulate)
    assert layer.weight_grad is weight_grad
    assert_same_bits(weight_grad, copy)


def test_a_wrong_x():
    layer, problem = layer_and_problem()
    for error, x in ((ValueError, problem.x[0]), (ValueError, problem.x[:, 1:]), (TypeError, None)):
        with pytest.raises(error, match=r"\bx\b"):
            layer(x)
    with pytest.raises(TypeError, match="float64.*float32|float32.*float64"):
        layer(problem.x.astype(np.float64))


def test_parameters_are_updated_in_place():
    """What an optimiser does: the arrays that parameters() yields are the layer's own."""
    layer, problem = layer_and_problem()
    layer(problem.x)
    layer.backward(problem.dy)
    yielded = list(layer.parameters())
    assert [name for name, _, _ in yielded] == ["weight", "bias"]
    for name, parameter, gradient in yielded:
        assert parameter is getattr(layer, name)
        assert gradient is getattr(layer, f"{name}_grad")
        expected = parameter - np.float32(0.1) * gradient
        parameter -= np.float32(0.1) * gradient
        assert_same_bits(getattr(layer, name), expected)
        getattr(problem, name)[...] = expected
    assert_same_bits(layer(problem.x), problem.run("conv2d", None))


def test_parameters_may_be_replaced():
    layer, problem = layer_and_problem()
    layer.weight -= np.float32(0.5)
    layer.bias = np.zeros_like(layer.bias)
    problem.weight[...] -= np.float32(0.5)
    problem.bias[...] = 0
    assert_same_bits(layer(problem.x), problem.run("conv2d", None))


def test_training_lowers_a_loss():
    """Fifty steps of gradient descent towards the output of another layer."""
    teacher, student = (Conv2D(2, 3, 3, stride=2, padding="same", rng=seed) for seed in (0, 1))
    x = np.random.default_rng(2).standard_normal((16, 2, 8, 8)).astype(np.float32)
    target = teacher(x, training=False)
    losses = []
    for _ in range(50):
        error = student(x) - target
        losses.append(float(np.mean(error**2)))
        student.backward(2 * error / error.size, input_grad=False)
        for _, parameter, gradient in student.parameters():
            parameter -= gradient
    assert losses[-1] < losses[0] / 1000
