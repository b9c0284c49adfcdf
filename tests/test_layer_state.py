"""Conv2D: state_dict, pickling and copying, repr, and the arguments of its constructor."""

import copy
import pickle

import numpy as np
import pytest

from numbaconv import Conv2D

from .cases import COMMON, each_dtype
from .errors import assert_says
from .problem import Problem, assert_same_bits


def make_layer(**options):
    return Conv2D(COMMON.C, COMMON.F, 3, padding=1, groups=2, rng=9, **options)


def values(layer):
    return [parameter.copy() for _, parameter, _ in layer.parameters()]


def test_state_dict():
    """PyTorch's names and shapes; copies, so that a snapshot stays one while training goes on."""
    layer = make_layer()
    state = layer.state_dict()
    assert {name: value.shape for name, value in state.items()} == {"weight": (6, 2, 3, 3), "bias": (6,)}
    for name, value in state.items():
        assert_same_bits(value, getattr(layer, name))
        assert not np.may_share_memory(value, getattr(layer, name))


def test_load_state_dict_copies_in_place():
    layer, other = make_layer(), Conv2D(4, 6, 3, groups=2, rng=10)
    weight, bias = layer.weight, layer.bias
    state = other.state_dict()
    layer.load_state_dict(state)
    assert layer.weight is weight
    assert layer.bias is bias
    for loaded, expected in zip(values(layer), values(other), strict=True):
        assert_same_bits(loaded, expected)
    state["weight"][...] = 0
    assert_same_bits(layer.weight, other.weight)


@pytest.mark.parametrize("bias", (True, False))
def test_round_trip_through_npz(bias, tmp_path):
    layer, other = make_layer(bias=bias), Conv2D(4, 6, 3, groups=2, bias=bias)
    np.savez(tmp_path / "layer.npz", **layer.state_dict())
    with np.load(tmp_path / "layer.npz") as file:
        other.load_state_dict(file)
    for loaded, expected in zip(values(other), values(layer), strict=True):
        assert_same_bits(loaded, expected)


def test_load_state_dict_casts_to_the_dtype_of_the_layer():
    layer, other = make_layer(), make_layer(dtype=np.float64)
    layer.load_state_dict(other.state_dict())
    assert layer.weight.dtype == np.float32
    assert_same_bits(layer.weight, other.weight.astype(np.float32))


WEIGHT, BIAS = np.zeros((6, 2, 3, 3), np.float32), np.zeros(6, np.float32)
BAD_STATES = {
    "lacks bias": (KeyError, {"weight": WEIGHT}, ["bias"]),
    "lacks weight": (KeyError, {"bias": BIAS}, ["weight"]),
    "empty": (KeyError, {}, ["weight", "bias"]),
    "one key too many": (KeyError, {"weight": WEIGHT, "bias": BIAS, "scale": BIAS}, ["scale"]),
    "shape of weight": (
        ValueError,
        {"weight": WEIGHT[:, :1], "bias": BIAS},
        ["weight", (6, 2, 3, 3), (6, 1, 3, 3)],
    ),
    "shape of bias": (ValueError, {"weight": WEIGHT, "bias": BIAS[:1]}, ["bias", (6,), (1,)]),
    "bias of rank 0": (ValueError, {"weight": WEIGHT, "bias": BIAS[0]}, ["bias", (6,), ()]),
    "bias is None": (TypeError, {"weight": WEIGHT, "bias": None}, ["bias"]),
    "bias of strings": (TypeError, {"weight": WEIGHT, "bias": np.array(list("012345"))}, ["bias"]),
    "complex bias": (TypeError, {"weight": WEIGHT, "bias": BIAS * 1j}, ["bias", "complex64"]),
}


@pytest.mark.parametrize(("error", "state", "words"), BAD_STATES.values(), ids=BAD_STATES)
def test_bad_state(error, state, words):
    """All of it is refused, also the part that is right."""
    layer = make_layer()
    before = values(layer)
    with pytest.raises(error) as caught:
        layer.load_state_dict(state)
    assert_says(caught.value, words)
    for now, then in zip(values(layer), before, strict=True):
        assert_same_bits(now, then)


def test_bias_for_a_layer_without():
    with pytest.raises(KeyError, match="bias"):
        make_layer(bias=False).load_state_dict({"weight": WEIGHT, "bias": BIAS})


@pytest.mark.parametrize("state", (None, [WEIGHT, BIAS], "layer.npz"), ids=("None", "list", "str"))
def test_state_that_is_no_mapping(state):
    with pytest.raises(TypeError, match=type(state).__name__):
        make_layer().load_state_dict(state)


def pickled(layer):
    return pickle.loads(pickle.dumps(layer))


@pytest.mark.parametrize("duplicate", (pickled, copy.deepcopy, copy.copy))
def test_copies_work_alone_and_without_x(duplicate):
    layer, problem = make_layer(), Problem.normals(COMMON)
    y = layer(problem.x)
    other = duplicate(layer)
    assert_same_bits(other(problem.x, training=False), y)
    assert repr(other) == repr(layer)
    with pytest.raises(RuntimeError, match="forward"):
        duplicate(layer).backward(problem.dy)
    layer.backward(problem.dy)  # the original still has its x
    other(problem.x)
    other.backward(problem.dy)
    assert_same_bits(other.weight_grad, layer.weight_grad)


@pytest.mark.parametrize("duplicate", (pickled, copy.deepcopy))
def test_copies_have_parameters_of_their_own(duplicate):
    layer = make_layer()
    before = values(layer)
    for _, parameter, _ in duplicate(layer).parameters():
        parameter[...] = 0
    for now, then in zip(values(layer), before, strict=True):
        assert_same_bits(now, then)


def test_pickle_does_not_grow_with_x():
    layer = make_layer()
    small = len(pickle.dumps(layer))
    layer(np.zeros((2, COMMON.C, 100, 100), np.float32))
    assert len(pickle.dumps(layer)) == small


REPRS = {
    "Conv2D(3, 8, 3)": ((3, 8, 3), {}),
    "Conv2D(3, 8, (3, 5))": ((3, 8, (3, 5)), {}),
    "Conv2D(3, 8, 3, stride=2, padding=1)": ((3, 8, 3, 2, 1), {}),
    "Conv2D(3, 8, 3, stride=(2, 1), padding=(1, 2))": ((3, 8, 3, (2, 1), ((1, 1), (2, 2))), {}),
    "Conv2D(3, 8, 3, padding=((0, 1), (2, 2)))": ((3, 8, 3), {"padding": [[0, 1], [2, 2]]}),
    "Conv2D(3, 8, 3, padding='same_lower')": ((3, 8, 3), {"padding": "same_lower"}),
    "Conv2D(4, 8, 3, dilation=2, groups=4, bias=False)": ((4, 8, 3, 1, 0, 2, 4, False), {}),
    "Conv2D(4, 8, 3, dilation=(1, 2), layout='NHWC')": ((4, 8, 3), {"dilation": (1, 2), "layout": "NHWC"}),
    "Conv2D(4, 8, 3, flip=True, algorithm='loops')": ((4, 8, 3), {"flip": True, "algorithm": "loops"}),
}


@pytest.mark.parametrize(("text", "call"), REPRS.items(), ids=REPRS)
def test_repr_reads_like_the_constructor(text, call):
    """Equal values are not told twice, and what is left to its default is not told at all."""
    arguments, options = call
    assert repr(Conv2D(*arguments, **options)) == text


@each_dtype
@pytest.mark.parametrize("call", list(REPRS.values()), ids=REPRS)
def test_repr_evaluates_to_the_same_layer(call, dtype):
    arguments, options = call
    layer = Conv2D(*arguments, dtype=dtype, **options)
    other = eval(repr(layer), {"Conv2D": Conv2D, "np": np, "numpy": np})
    assert repr(other) == repr(layer)
    assert {name: (v.shape, v.dtype) for name, v in other.state_dict().items()} == {
        name: (v.shape, v.dtype) for name, v in layer.state_dict().items()
    }


def test_numpy_integers_in_the_constructor():
    """They are ints from then on: nothing of NumPy is left in the repr."""
    integer = np.int64
    layer = Conv2D(integer(4), integer(8), integer(3), integer(2), integer(1), integer(1), integer(2))
    assert repr(layer) == "Conv2D(4, 8, 3, stride=2, padding=1, groups=2)"
    layer = Conv2D(4, 8, [integer(3), 2], [integer(2), 1], [[integer(1), 0], [0, 2]])
    assert repr(layer) == "Conv2D(4, 8, (3, 2), stride=(2, 1), padding=((1, 0), (0, 2)))"


def test_options_after_bias_are_keywords():
    with pytest.raises(TypeError, match="positional"):
        Conv2D(3, 8, 3, 1, 0, 1, 1, True, "NHWC")


@pytest.mark.parametrize("dtype", ("float64", "f8", float, np.dtype(np.float64)), ids=str)
def test_dtype_in_any_form(dtype):
    assert Conv2D(3, 8, 3, dtype=dtype).weight.dtype == np.float64


VALUE_ERRORS = {
    "in_channels": (0, -3),
    "out_channels": (0, -1),
    "kernel_size": (0, (3, 0), (-1, 3), (3, 3, 3), ()),
    "stride": (0, (1, -1), (1, 1, 1)),
    "padding": (-1, (1,), (1, (1, 1)), "SAME", ((0, -1), (0, 0))),
    "dilation": (0, (0, 1), (1,)),
    "groups": (0, -2, 3, 4),
    "layout": ("NWHC", ""),
    "algorithm": ("fast", ""),
}
TYPE_ERRORS = {
    **dict.fromkeys(("kernel_size", "stride", "dilation"), (1.0, True, None, "3", (3.0, 3))),
    **dict.fromkeys(("in_channels", "out_channels", "groups"), (1.0, True, None, "3", (3,))),
    "padding": (1.0, True, None, (1.0, 1), ((1, 1), (1, None))),
    "bias": (None, 1, 0.0, "yes", np.zeros(6)),
    "flip": (None, 1, "no"),
    "layout": (None, 4),
    "algorithm": (None, 0),
    "dtype": (
        np.int32,
        np.float16,
        np.complex64,
        bool,
        object,
        ">f4",
        None,
        np.longdouble,
        "no_dtype",
    ),
    "rng": (1.5, True, "seed"),
}


def spoiled(errors):
    cases = [(name, value) for name, bad in errors.items() for value in bad]
    return pytest.mark.parametrize(("name", "value"), cases, ids=str)


@spoiled(VALUE_ERRORS)
def test_constructor_value_errors(name, value):
    with pytest.raises(ValueError) as caught:
        Conv2D(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3} | {name: value})
    assert_says(caught.value, [name])


@spoiled(TYPE_ERRORS)
def test_constructor_type_errors(name, value):
    with pytest.raises(TypeError) as caught:
        Conv2D(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3} | {name: value})
    assert_says(caught.value, [name])


def test_negative_seed():
    with pytest.raises(ValueError):
        Conv2D(4, 6, 3, rng=-1)


@pytest.mark.parametrize("options", ({"kernel_size": 5}, {"stride": 2}, {"dilation": (1, 2)}))
def test_winograd_for_another_kernel(options):
    """Said by the constructor, not by the first call."""
    with pytest.raises(ValueError, match="winograd.*3 x 3 at stride 1 and dilation 1"):
        Conv2D(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3} | options, algorithm="winograd")
