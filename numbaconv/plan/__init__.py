"""Which kernel computes a pass, and in which blocks: the only place that chooses.

Here is the choice of the algorithm. :mod:`.dense` takes the way of the direct engine that :mod:`.costs` say is the
cheapest; :mod:`.direct`, :mod:`.channels_last`, :mod:`.columns`, :mod:`.depthwise`, :mod:`.weight_grad` and
:mod:`.winograd` cut the blocks of their kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numba.core import config

from ..geometry import Geometry
from ..kernels import (
    bias_grad,
    depthwise_input_grad,
    depthwise_weight_grad,
    forward,
    input_grad,
    input_grad_columns,
    loops,
    tiling,
    weight_grad_filters,
    weight_grad_pixels,
    weight_grad_shares,
    weight_panels,
    weight_vectors,
)
from ..kernels import channels_last as channels_last_kernels
from ..kernels import depthwise as depthwise_kernels
from ..kernels import weight_grad as weight_grad_kernels
from ..kernels.launch import Address, Launch, Program, entry_point
from ..kernels.problem import Product, forward_problem
from ..kernels.winograd import forward as winograd_forward
from ..kernels.winograd import maps as winograd_maps
from ..kernels.winograd import weight_grad as winograd_weight_grad
from ..kernels.winograd.algebra import GRAD_VARIANTS, VARIANTS
from . import columns, dense, depthwise, weight_grad, winograd
from .base import Axes, Plan, Strides, enough_bytes, nchw, turned
from .costs import Way

__all__ = [
    "Plan",
    "check_algorithm",
    "kernels",
    "plan_bias_grad",
    "plan_forward",
    "plan_input_grad",
    "plan_weight_grad",
]

ALGORITHMS = ("auto", "loops", "direct", "winograd")


def check_algorithm(algorithm: Any) -> str:
    """Return `algorithm` if there is one of this name.

    Raises
    ------
    TypeError
        If it is no string.
    ValueError
        If there is no such algorithm.
    """
    if not isinstance(algorithm, str):
        raise TypeError(f"algorithm must be a string, got {algorithm!r}")
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(map(repr, ALGORITHMS))}, got {algorithm!r}")
    return algorithm


def check_kernel(
    algorithm: str, kernel_size: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> None:
    """Raise a ValueError if `algorithm`, named by the user, cannot do such a kernel."""
    if algorithm == "winograd" and not winograd.supports(kernel_size, stride, dilation):
        raise ValueError(
            f"algorithm 'winograd' does kernels of 3 x 3 at stride 1 and dilation 1, got kernel_size {kernel_size}, "
            f"stride {stride}, dilation {dilation}; 'auto' and 'direct' do this one"
        )


def choose(algorithm: str, name: str, g: Geometry, dtype: np.dtype, axes: Axes) -> tuple[str, str]:
    """The algorithm that runs for a pass when the user asks for `algorithm`, and why.

    Raises
    ------
    ValueError
        If the algorithm cannot do the problem.
    """
    check_kernel(algorithm, (g.KH, g.KW), g.stride, g.dilation)
    if config.DISABLE_JIT:
        if algorithm in ("direct", "winograd"):
            raise ValueError(f"algorithm {algorithm!r} needs Numba's compiler, which NUMBA_DISABLE_JIT turns off")
        return "loops", "NUMBA_DISABLE_JIT is set"
    if algorithm != "auto":
        return algorithm, "asked for by name"
    if 0 in (g.N, g.C, g.H, g.W):
        return "direct", "there is nothing to multiply"
    if winograd.applies(name, g):
        ratio = winograd.expected_ratio(name, g, dtype, axes)
        expected = f"Winograd is expected to take {ratio:.2f} of direct's time"
        return ("winograd", expected) if ratio < 1 else ("direct", expected)
    return "direct", "faster than loops on every shape measured"


@lru_cache(maxsize=1024)
def plan_forward(
    g: Geometry,
    dtype: np.dtype,
    algorithm: str,
    axes: Axes,
    flip: bool,
    x: Strides,
    w: Strides,
    bias: int | None,
    y: Strides,
    threads: int = 1,
    padding: bool = False,
) -> Plan:
    """Plan of y = conv2d(x, weight, bias); strides count elements of the arrays in the user's layout.

    `padding`: with all products of the padding, which matter where a weight is infinite.
    """
    chosen = choose(algorithm, "forward", g, dtype, axes)
    cut = partial(plan_forward, g, dtype, algorithm, axes, flip, x, w, bias, y, padding=padding)
    plan = Plan("forward", g, dtype, *chosen, axes, flip, False, threads, cut)
    if plan.algorithm == "loops":
        return plan
    x, y = nchw(x, axes), nchw(y, axes)
    start, w = turned(g, w) if flip else (0, w)
    if depthwise.fits(plan) and (one_to_one := depthwise.plan_pass(plan, x, y, start, w, bias)):
        return one_to_one
    product = forward_problem(g, ("x", x), (Address("weight", start), w), ("y", y), bias, False)
    return _plan_products(plan, [product], padding=padding)


@lru_cache(maxsize=1024)
def plan_input_grad(
    g: Geometry,
    dtype: np.dtype,
    algorithm: str,
    axes: Axes,
    flip: bool,
    accumulate: bool,
    y: Strides,
    w: Strides,
    x: Strides,
    threads: int = 1,
) -> Plan:
    """Plan of dx; strides count elements of dy, weight and dx in the user's layout."""
    chosen = choose(algorithm, "input gradient", g, dtype, axes)
    cut = partial(plan_input_grad, g, dtype, algorithm, axes, flip, accumulate, y, w, x)
    plan = Plan("input gradient", g, dtype, *chosen, axes, flip, accumulate, threads, cut)
    if plan.algorithm == "loops":
        return plan
    start, w = turned(g, w) if flip else (0, w)
    x, y = nchw(x, axes), nchw(y, axes)
    if depthwise.fits(plan) and (one_to_one := depthwise.plan_pass(plan, x, y, start, w, None)):
        return one_to_one
    products = list(input_grad.products(g, y, start, w, x, accumulate))
    return _plan_products(plan, products, columns.way(plan, y, start, w, x))


@lru_cache(maxsize=1024)
def plan_weight_grad(
    g: Geometry,
    dtype: np.dtype,
    algorithm: str,
    axes: Axes,
    flip: bool,
    accumulate: bool,
    x: Strides,
    y: Strides,
    w: Strides,
    threads: int = 1,
    padding: bool = False,
) -> Plan:
    """Plan of dw; strides count elements of x, dy and dw in the user's layout. `padding` as in y, for infinite dy."""
    chosen = choose(algorithm, "weight gradient", g, dtype, axes)
    cut = partial(plan_weight_grad, g, dtype, algorithm, axes, flip, accumulate, x, y, w, padding=padding)
    plan = Plan("weight gradient", g, dtype, *chosen, axes, flip, accumulate, threads, cut)
    if plan.algorithm == "loops":
        return plan
    if g.C == 0:
        return _nothing(plan)
    x, y = nchw(x, axes), nchw(y, axes)
    start, w = turned(g, w) if flip else (0, w)
    if depthwise.fits(plan) and (one_to_one := depthwise.plan_pass(plan, x, y, start, w, None)):
        return one_to_one
    if plan.algorithm == "winograd":
        return winograd.plan_weight_grad(plan, x, y, start, w)
    return weight_grad.plan_weight_grad(plan, x, y, start, w, padding)


@lru_cache(maxsize=1024)
def plan_bias_grad(
    shape: tuple[int, int, int, int], dtype: np.dtype, axes: Axes, accumulate: bool, y: Strides, db: int
) -> Program | None:
    """Program of db, or None for plain loops; shape and strides count elements of dy in the user's layout."""
    if config.DISABLE_JIT:
        return None
    N, F, OH, OW = nchw(shape, axes)
    y = nchw(y, axes)
    vector_axis = {0: bias_grad.IMAGES, 1: bias_grad.FILTERS, 3: bias_grad.PIXELS}[axes.index(3)]
    values: dict[str, int | Address] = {
        "dy": Address("dy"),
        "db": Address("db"),
        "db_f": db,
        "accumulate": accumulate,
    }
    values |= dict(zip(("y_n", "y_f", "y_h", "y_w"), y, strict=True))
    values |= {"N": N, "F": F, "OH": OH, "OW": OW, "vector_axis": vector_axis}
    launch = Launch(bias_grad.bias_grad, bias_grad.BIAS_GRAD, values, F)
    parallel = enough_bytes(N * F * OH * OW * dtype.itemsize)
    names = ("dy", "", "db", "")
    return Program([launch], names, {}, tiling.lanes(dtype.itemsize), dtype, parallel)


def _plan_products(plan: Plan, products: list[Product], others: Iterable[Way] = (), padding: bool = False) -> Plan:
    """Plan of a forward pass or of what the input gradient makes of one, which has `others`; `padding` as there."""
    products = [p for p in products if p.N * p.F * p.OH * p.OW > 0]
    if not products:
        return _nothing(plan)
    if plan.algorithm == "winograd":
        return winograd.plan_products(plan, products)
    return dense.plan_products(plan, products, others, padding)


def _nothing(plan: Plan) -> Plan:
    """Plan of a pass whose result has no element."""
    return replace(plan, reason="nothing to compute", program=Program([], plan.arrays, {}, 0, plan.dtype, False))


def kernels() -> list[tuple[str, Callable[[np.dtype], object]]]:
    """Everything there is to compile: (name, what compiles it for a dtype)."""
    nests = (
        weight_panels.pack_weight,
        forward.forward,
        input_grad_columns.input_grad_columns,
        weight_vectors.pack_vectors,
        channels_last_kernels.channels_last,
        weight_grad_kernels.weight_grad,
        weight_grad_shares.add_shares,
        weight_grad_filters.weight_grad_filters,
        weight_grad_pixels.weight_grad_pixels,
        weight_grad_pixels.add_pixel_shares,
        bias_grad.bias_grad,
        depthwise_kernels.depthwise_forward,
        depthwise_input_grad.depthwise_input_grad,
        depthwise_weight_grad.depthwise_weight_grad,
        depthwise_weight_grad.add_depthwise_shares,
        *(winograd_forward.kernel(m, r) for m, r in VARIANTS),
        *(winograd_weight_grad.kernel(m, r) for m, r in GRAD_VARIANTS),
        winograd_maps.join_weight,
    )
    drivers = [("serial driver", False), ("parallel driver", True)]
    plain = (loops.forward, loops.input_grad, loops.weight_grad, loops.bias_grad)
    return [
        *((name, partial(entry_point, parallel=parallel)) for name, parallel in drivers),
        *((nest.__name__, nest.address) for nest in nests),
        *((f"loops {loop.__name__}", loop.compile) for loop in plain),
    ]
