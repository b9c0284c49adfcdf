"""One case with data: the arguments of all four passes, for the package and for both oracles."""

import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

import numbaconv
from numbaconv.plan import winograd

from . import oracle
from .cases import Case, winograd_can

UNIT_ROUNDOFF = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}
# Integers up to here are exact in the type.
EXACT_LIMIT = {np.dtype(np.float32): 2**24, np.dtype(np.float64): 2**53}

_fractions = np.frompyfunc(Fraction, 1, 1)


@dataclass(frozen=True, eq=False)
class Problem:
    case: Case
    layout: str
    flip: bool
    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    dy: np.ndarray

    @classmethod
    def draw(cls, case, dtype, layout, flip, draw):
        """A problem whose arrays are `draw(shape)`, in `dtype`."""
        shapes = (case.input_shape(layout), case.weight_shape, (case.F,), case.output_shape(layout))
        return cls(case, layout, flip, *(draw(shape).astype(dtype) for shape in shapes))

    @classmethod
    def integers(cls, case, dtype=np.float32, layout="NCHW", flip=False, seed=0):
        """Integers as large as they can be with every partial sum of every pass exact in `dtype`."""
        OH, OW = case.outputs
        depth = max(case.C // case.groups, case.F // case.groups) * case.KH * case.KW
        terms = max(depth, case.N * OH * OW) + 2  # and the bias, and what `out` held
        largest = math.isqrt((EXACT_LIMIT[np.dtype(dtype)] - 1) // terms)
        rng = np.random.default_rng(seed)
        return cls.draw(case, dtype, layout, flip, lambda shape: rng.integers(-largest, largest, shape, endpoint=True))

    @classmethod
    def normals(cls, case, dtype=np.float32, layout="NCHW", flip=False, seed=0):
        return cls.draw(case, dtype, layout, flip, np.random.default_rng(seed).standard_normal)

    def map(self, function):
        """The same problem with `function` applied to each array."""
        arrays = {name: function(getattr(self, name)) for name in ("x", "weight", "bias", "dy")}
        return replace(self, **arrays)

    def astype(self, dtype):
        return self.map(lambda array: array.astype(dtype))

    def fractions(self):
        """The same problem in exact rational arithmetic."""
        return self.map(to_fractions)

    def arguments(self, name):
        """The positional arguments of the pass `name`, by their names in the contract."""
        kernel_size = (self.case.KH, self.case.KW)
        return {
            "conv2d": {"x": self.x, "weight": self.weight, "bias": self.bias},
            "conv2d_input_grad": {"dy": self.dy, "weight": self.weight, "input_shape": self.x.shape},
            "conv2d_weight_grad": {"x": self.x, "dy": self.dy, "kernel_size": kernel_size},
            "conv2d_bias_grad": {"dy": self.dy},
        }[name]

    def options(self, name):
        if name == "conv2d_bias_grad":
            return {"layout": self.layout}
        return {**self.case.options(), "layout": self.layout, "flip": self.flip}

    def evaluate(self, module, name, *, algorithm=None, **extra):
        """Call the pass `name` of `module`: `numbaconv`, its `reference`, or the tap oracle."""
        if algorithm is not None and name != "conv2d_bias_grad":
            extra["algorithm"] = algorithm
        return getattr(module, name)(*self.arguments(name).values(), **self.options(name), **extra)

    def run(self, name, algorithm, **extra):
        with every_variant_by_name():
            return self.evaluate(numbaconv, name, algorithm=algorithm, **extra)

    def expected(self, name):
        """What the tap oracle says in float64: exact for integer data."""
        return self.astype(np.float64).evaluate(oracle, name)

    def magnitude(self, name):
        """S of the contract: the same pass over absolute values."""
        return self.astype(np.float64).map(np.abs).evaluate(oracle, name)

    def terms(self, name):
        """n of the contract for each result: how many products (or numbers, in db) it is the sum of."""
        ones = self.map(lambda array: np.ones(array.shape))
        return replace(ones, bias=np.zeros(ones.bias.shape)).evaluate(oracle, name)


@contextmanager
def every_variant_by_name():
    """In here the name "winograd" does all that its kernels can, of any extents: more than its contract, for "auto"."""
    before = winograd.supports
    winograd.supports = winograd_can
    try:
        yield
    finally:
        winograd.supports = before


def rms(error, exact):
    return float(np.sqrt(np.mean(np.square(error)) / np.mean(np.square(exact))))


def errors_of(problem, name, *algorithms):
    """The relative RMS error of a pass by each algorithm, against the oracle in a wider type."""
    wide = np.longdouble if problem.x.dtype == np.float64 else np.float64
    exact = problem.astype(wide).evaluate(oracle, name)
    return [rms(problem.run(name, algorithm) - exact, exact) for algorithm in algorithms]


def to_fractions(array):
    """The numbers of `array` as they are, to be reckoned with exactly."""
    return np.asarray(_fractions(array), dtype=object)


def assert_same_bits(actual, desired):
    """Equal to the last bit, NaNs and signs of zeros included."""
    assert actual.dtype == desired.dtype
    assert actual.shape == desired.shape
    assert actual.tobytes() == desired.tobytes(), _difference(actual, desired)


def assert_exact(actual, desired, dtype):
    """`actual` is a new plain array of `dtype` and equals `desired` element by element."""
    assert type(actual) is np.ndarray
    assert actual.dtype == np.dtype(dtype)
    assert actual.shape == desired.shape
    assert np.array_equal(actual, desired, equal_nan=True), _difference(actual, desired)


def _difference(actual, desired):
    unequal = np.argwhere((actual != desired) & ~(np.isnan(actual) & np.isnan(desired)))
    if not len(unequal):
        return "only signs of zeros or payloads of NaNs differ"
    first = tuple(int(i) for i in unequal[0])
    return f"{len(unequal)} of {actual.size} differ, first at {first}: {actual[first]!r} != {desired[first]!r}"
