"""One test for each TypeError: the argument named with what it got, and nothing written."""

import numpy as np
import pytest

import numbaconv
from numbaconv import calls

from .cases import COMMON, PASSES, each_dtype, each_pass
from .errors import assert_refused, valid_arguments
from .problem import Problem

CONVOLUTIONS = PASSES[:3]

# Each array argument of each pass.
ARRAYS = [
    (name, argument)
    for name in PASSES
    for argument in Problem.integers(COMMON).arguments(name)
    if argument not in ("input_shape", "kernel_size")
]
array_arguments = pytest.mark.parametrize(("name", "argument"), ARRAYS)

NO_ARRAYS = {
    "list": [[[[1.0]]]],
    "tuple": ((1.0,),),
    "float": 1.0,
    "int": 1,
    "bool": True,
    "str": "x",
    "float32": np.float32(1),
    "memoryview": memoryview(b"1234"),
    "array of arrays": [np.ones(2, np.float32)],
    "MaskedArray": np.ma.ones((2, 4, 8, 9), np.float32),
}
BAD_DTYPES = (
    "int64",
    "int32",
    "uint8",
    "bool",
    "float16",
    "longdouble",
    "complex64",
    "complex128",
    "object",
    "S4",
)


@array_arguments
@pytest.mark.parametrize("value", NO_ARRAYS.values(), ids=NO_ARRAYS)
def test_no_array(name, argument, value):
    """The message says how to make it one."""
    assert_refused(TypeError, name, {argument: value}, [argument, type(value).__name__, "np.asarray"])


@pytest.mark.parametrize(("name", "argument"), [pair for pair in ARRAYS if pair[1] != "bias"])
def test_none(name, argument):
    """Only a bias may be None."""
    assert_refused(TypeError, name, {argument: None}, [argument, "NoneType"])


@array_arguments
@pytest.mark.parametrize("dtype", BAD_DTYPES)
def test_dtype(name, argument, dtype):
    """The message says how to cast."""
    value = np.ones((2, 4, 8, 9), dtype)
    assert_refused(TypeError, name, {argument: value}, [argument, str(value.dtype), f"{argument}.astype"])


@pytest.mark.parametrize(("name", "argument"), [pair for pair in ARRAYS if pair[0] != "conv2d_bias_grad"])
@each_dtype
def test_mixed_dtypes(name, argument, dtype):
    """Whichever of the arrays is the odd one out, both dtypes are named."""
    other = np.float64 if dtype is np.float32 else np.float32
    shapes = {"x": (2, 4, 8, 9), "weight": (6, 4, 3, 2), "bias": (6,), "dy": (2, 6, 6, 8)}
    value = np.ones(shapes[argument], other)
    assert_refused(TypeError, name, {argument: value}, ["float32", "float64"], dtype)


@pytest.mark.parametrize(("name", "argument"), [pair for pair in ARRAYS if pair[1] not in ("x", "dy")])
def test_mixed_dtypes_name_the_argument(name, argument):
    shape = (6,) if argument == "bias" else (6, 4, 3, 2)
    assert_refused(TypeError, name, {argument: np.ones(shape)}, [argument, "float64", "float32"])


# What is passed, and what of it the message quotes.
NO_INTS = [(v, v) for v in (1.0, 2.5, True, False, None, np.float64(2), np.True_, 1j, np.ones(2, int), {1}, b"1")]
PAIRS = [((1, 2.0), 2.0), ((True, 1), True), ((1, None), None), ((1, "2"), "2"), (((1, 1), (1, 1)), (1, 1))]
PADDINGS = [
    ((1, 1.0), 1.0),
    ((False, 1), False),
    ((None, None), None),
    (((1, 1), (1, 2.0)), 2.0),
    (((1, True), (0, 0)), True),
    ((("1", 0), (0, 0)), "1"),
]
OPTIONS = {
    "stride": [*NO_INTS, *PAIRS, ("2", "2")],
    "dilation": [*NO_INTS, *PAIRS, ("2", "2")],
    "groups": [*NO_INTS, ((1, 1), (1, 1)), ("2", "2")],
    "padding": [*NO_INTS, *PADDINGS],
}
SPOILED = [
    *((name, option, *item) for name in CONVOLUTIONS for option, items in OPTIONS.items() for item in items),
    *(("conv2d_weight_grad", "kernel_size", *item) for item in (*NO_INTS, *PAIRS, ("2", "2"))),
    *(("conv2d_input_grad", "input_shape", *item) for item in (*NO_INTS, (5, 5), ("2489", "2489"))),
    *(("conv2d_input_grad", "input_shape", (2, 4, value, 9), value) for value, _ in NO_INTS),
]


@pytest.mark.parametrize(("name", "option", "value", "quoted"), SPOILED, ids=str)
def test_no_int(name, option, value, quoted):
    assert_refused(TypeError, name, {option: value}, [option, repr(quoted)])


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [
        ("stride", 1, True),
        ("stride", 1, 1.0),
        ("stride", (1, 1), (1, True)),
        ("dilation", (1, 1), (1.0, 1)),
        ("padding", ((0, 0), (0, 0)), ((0, False), (0, 0))),
        ("groups", 1, True),
        ("flip", False, 0),
    ],
    ids=str,
)
def test_equal_to_what_was_good(name, option, good, bad):
    """A call that was checked is known by its arguments, of which 1, 1.0 and True are equal ones."""
    arguments = valid_arguments(name)
    arguments.pop("out")
    getattr(numbaconv, name)(**arguments | {option: good})
    known = len(calls.known_calls)
    getattr(numbaconv, name)(**arguments | {option: good})
    assert known == len(calls.known_calls) > 0
    with pytest.raises(TypeError, match=option):
        getattr(numbaconv, name)(**arguments | {option: bad})


@each_pass
@pytest.mark.parametrize("value", (None, 0, ("N", "C", "H", "W"), b"NCHW"), ids=str)
def test_layout(name, value):
    assert_refused(TypeError, name, {"layout": value}, ["layout", repr(value)])


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("value", (None, 0, True, ["loops"]), ids=str)
def test_algorithm(name, value):
    assert_refused(TypeError, name, {"algorithm": value}, ["algorithm", repr(value)])


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, "flip") for name in CONVOLUTIONS] + [(name, "accumulate") for name in PASSES[1:]],
)
@pytest.mark.parametrize("value", (None, 0, 1, 1.0, "no", [True]), ids=str)
def test_no_bool(name, option, value):
    assert_refused(TypeError, name, {option: value}, [option, repr(value)])


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_options_are_keywords(name):
    """A positional argument too many is a mistake, not a stride."""
    problem = Problem.integers(COMMON)
    with pytest.raises(TypeError, match="positional"):
        getattr(numbaconv, name)(*problem.arguments(name).values(), 1)


@each_pass
def test_unknown_keyword(name):
    problem = Problem.integers(COMMON)
    with pytest.raises(TypeError, match="strides"):
        getattr(numbaconv, name)(*problem.arguments(name).values(), strides=1)
