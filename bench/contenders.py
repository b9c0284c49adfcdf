"""Who takes part in `python -m bench.loops`, and the layer that they all compute.

The layer is so small because plain Python has to do it in less than a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

import numbaconv
from bench import im2col, scipy_signal
from numbaconv import reference

N, C, H, W = 4, 8, 14, 14
F, KH, KW = 16, 3, 3
PADDING = 1  # stride 1: scipy.signal has no other
LAYER = f"{C} to {F} channels, {KH}x{KW}, padding {PADDING}, {N} images of {H}x{W}, float32"

ALGORITHMS = {"loops": 'JIT loops (`algorithm="loops"`)', "direct": 'register tiles (`algorithm="direct"`)'}
PASSES = ("forward", "input gradient", "weight gradient", "bias gradient")


def make_arrays(dtype: type = np.float32) -> dict[str, np.ndarray]:
    """Small integers, so that every order of summation gives the same result and `==` can compare."""
    rng = np.random.default_rng(0)
    shapes = {"x": (N, C, H, W), "weight": (F, C, KH, KW), "bias": (F,), "dy": (N, F, H, W)}
    return {name: rng.integers(-4, 5, shape).astype(dtype) for name, shape in shapes.items()}


ARRAYS = make_arrays()
x, weight, bias, dy = (ARRAYS[name] for name in ("x", "weight", "bias", "dy"))

Pass = Callable[[], np.ndarray]


def numbaconv_passes(module: object, **options: str) -> dict[str, Pass]:
    """The four functions of numbaconv, or those of `reference`, which have the same names."""
    options_2d = {"padding": PADDING, **options}
    return {
        "forward": partial(module.conv2d, x, weight, bias, **options_2d),
        "input gradient": partial(module.conv2d_input_grad, dy, weight, x.shape, **options_2d),
        "weight gradient": partial(module.conv2d_weight_grad, x, dy, (KH, KW), **options_2d),
        "bias gradient": partial(module.conv2d_bias_grad, dy),
    }


def jit_algorithms() -> Iterator[str]:
    """The kernels by name that this version of numbaconv has."""
    for algorithm in ALGORITHMS:
        try:
            numbaconv.conv2d(x[:1], weight, padding=PADDING, algorithm=algorithm)
        except ValueError:
            continue
        yield algorithm


def make_contenders() -> dict[str, dict[str, Pass]]:
    """Passes by implementation: the rows of the table, the slowest first."""
    return {
        "plain Python loops (`numbaconv.reference`)": numbaconv_passes(reference),
        "`scipy.signal`": {
            "forward": partial(scipy_signal.forward, x, weight, bias, PADDING),
            "input gradient": partial(scipy_signal.input_grad, dy, weight, PADDING),
            "weight gradient": partial(scipy_signal.weight_grad, x, dy, PADDING),
        },
        "NumPy im2col": {
            "forward": partial(im2col.forward, x, weight, bias, 1, PADDING),
            "input gradient": partial(im2col.input_grad, dy, weight, x.shape, 1, PADDING),
            "weight gradient": partial(im2col.weight_grad, x, dy, (KH, KW), 1, PADDING),
            "bias gradient": partial(im2col.bias_grad, dy),
        },
        **{ALGORITHMS[name]: numbaconv_passes(numbaconv, algorithm=name) for name in jit_algorithms()},
    }
