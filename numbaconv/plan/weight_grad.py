"""Plans of the weight gradient: which index is in the vector, and whether taps are summed one by one.

:mod:`.weight_grad_blocks` cuts the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np

from ..geometry import LAYOUTS, Geometry
from ..kernels import pixels, tiling, weight_grad, weight_grad_filters, weight_grad_pixels, weight_grad_shares
from ..kernels.gemm import vectors_of_tile
from ..kernels.launch import Address, Launch, Program
from ..kernels.problem import Product, forward_problem
from . import dense, winograd, winograd_blocks
from .base import PIECES, SHARES_BYTES, Axes, Plan, Strides, enough_work, rectangle, round_up, steps
from .direct import register_tile
from .weight_grad_blocks import (
    FAR_BYTES,
    GATHERING_COST,
    TURNING_COST,
    block_filters,
    block_pixels,
    block_weight_grad,
    has_room,
    strip_pixels,
    whole_tiles,
)

# Multiply-adds of vectors that cost as much as copying a vector into a strip, as turning one, as one with pixels in the
# vector, whose tile loads 11 vectors for 24 of them, from L1 or from L2, and as one of a narrow tile of gathered taps
# or of filters. Sorting one by columns of a stride costs more, in NHWC twice as much.
COPYING, TURNING, BY_PIXELS, BY_PIXELS_L2, NARROW = 4, 10, 1.1, 1.7, 1.1
SORTING = 10
# With pixels in the vector, adding the lanes of a vector of a tile, once for each block. On 360 random layers what is
# chosen takes 1.5% longer than the fastest of three ways, on 120 in NHWC 5%.
SUMMING = 6
# Pixels from which the bound of Winograd's rounding, 3 times direct's, has room for sums in lanes: of 256, direct
# would have a third of Winograd's rounding, of more pixels 0.4 to 0.5.
LEAST_PIXELS = 1024
# What packing a vector costs more where rows are short, and starting the kernels of a tap: on 470 random layers of
# small maps what is chosen takes 0.8 (NCHW) and 1.6% (NHWC) longer than the faster of both.
SHORT_ROWS, START = 5, 5_000
# Writing a vector of sums of several taps, which follow each other in dw, and of one of several.
ENDS, ENDS_OF_TAP = 12, 64
# What sums of a tap by itself take longer than expected, of so few channels or filters.
FEW_CHANNELS, OF_FEW = 16, 2
# Bytes of dw up to which taps are written one by one.
MOST_APART = 2 << 20
# Both costs are estimates: what they say has to be clear, to leave out padding nearly so.
CLEARLY, SURE = 0.95, 0.96


def _best_vector(
    p: Product,
    by_pixels: weight_grad_pixels.Blocking,
    by_filters: weight_grad_filters.Blocking,
    g: Geometry,
    dtype: np.dtype,
    axes: Axes,
    gaps: bool,
) -> tuple[str, float]:
    """Which index is expected to be best in the vector, for new arrays, as other ones have to get their bits.

    And what an output of a group then costs, in multiply-adds of vectors.
    """
    by_winograd = winograd.bounds("weight gradient", g, dtype, axes)
    lanes = tiling.lanes(dtype.itemsize)
    if _better_swapped(p, axes, dtype.itemsize):
        g = replace(g, C=g.F, F=g.C)
    costs = {"channels": CLEARLY * _cost_of_channels(g, dtype, axes, lanes)}
    if has_room(by_pixels, p, dtype) and not (by_winograd and g.N * g.OH * g.OW < LEAST_PIXELS):
        costs["pixels"] = _cost_of_pixels(p, by_pixels, axes, lanes, gaps)
    # 6 points round more than 3 times what sums of FILTERS_DEPTH do.
    rounds_more = by_winograd and winograd_blocks.grad_variant(g) + g.KH > 5
    if axes != LAYOUTS["HWCN"] and not rounds_more and has_room(by_filters, p, dtype):
        costs["filters"] = _cost_of_filters(p, axes, lanes)
    vector = min(costs, key=lambda vector: costs[vector])
    return vector, costs[vector]


def _cost_of_pixels(p: Product, b: weight_grad_pixels.Blocking, axes: Axes, lanes: int, gaps: bool) -> float:
    """Multiply-adds of vectors that an output of a group costs with pixels in the vector.

    `gaps`: x is every stride-th pixel, of which a 1 x 1 kernel sees each.
    """
    row = b.columns * (b.rows if b.joined else b.batch)
    taps = p.C * p.KH * p.KW
    tiles: float = min(whole_tiles(taps, p.F), whole_tiles(p.F, taps))
    summing = SUMMING * tiles / (b.images * b.rows * b.columns * b.batch)
    tiles *= round_up(row, lanes) / row
    # Rows of x that a 1 x 1 kernel sees stream by; those of several taps are in L1 for the most part, or in L2.
    strip = b.CB * b.strip_pitch * tiling.VECTOR_BYTES // lanes
    tiles *= BY_PIXELS if b.joined or strip <= 1.5 * tiling.L1_BYTES else BY_PIXELS_L2
    of_y = TURNING if axes == LAYOUTS["NHWC"] else 0 if b.joined else COPYING
    of_x: float = of_y
    if p.stride[1] > 1 and axes != LAYOUTS["HWCN"]:
        of_x = 2 * SORTING if axes == LAYOUTS["NHWC"] and p.C > 1 else SORTING
    elif gaps and b.joined:
        of_x = COPYING * round_up(p.OW, lanes) / p.OW
    return (tiles + of_y * p.F + of_x * p.C * p.stride[0] * p.stride[1]) / lanes + summing


def _cost_of_channels(g: Geometry, dtype: np.dtype, axes: Axes, lanes: int) -> float:
    """Multiply-adds of vectors that an output of a group costs with channels in the vector."""
    y = {"NCHW": (0, g.OH * g.OW, g.OW, 1), "NHWC": (0, 1, g.OW * g.F, g.F), "HWCN": (1, g.N, 0, g.F * g.N)}
    layout = next(name for name, order in LAYOUTS.items() if order == axes)
    b = block_weight_grad(g, dtype, axes, y[layout], (0, 0, 0, 0), True, 1)
    C, F = g.C // g.groups, g.F // g.groups
    apart = g.KW if g.dilation[1] != 1 else 1
    if b.gathered:
        vectors = -(-C * g.KH * g.KW // lanes)
        cost = (vectors + (NARROW - 1) * _narrow(vectors)) * _rows_of_tiles(F)
        cost += -(-F // b.FB) * GATHERING_COST * g.KH * apart * -(-C * g.KW // apart // lanes)
    else:
        blocks, last = divmod(C, b.CB)
        stretches = [-(-channels * (g.KW // apart) // lanes) for channels in [b.CB] * blocks + [last]]
        cost = g.KH * apart * sum(stretches) * _rows_of_tiles(F)
    of_x = of_y = COPYING if layout == "NHWC" else TURNING
    if C <= pixels.MERGED:
        of_x = COPYING
    cost += of_x * -(-C // lanes) * g.stride[0] * g.stride[1]
    return cost + (0 if b.in_place else of_y * -(-F // lanes))


def _cost_of_filters(p: Product, axes: Axes, lanes: int) -> float:
    """Multiply-adds of vectors that an output of a group costs with filters in the vector."""
    vectors = -(-p.F // lanes)
    tiles = _rows_of_tiles(p.C * p.KH * p.KW) * (vectors + (NARROW - 1) * _narrow(vectors))
    of_x = TURNING if axes == LAYOUTS["NCHW"] and p.C > pixels.MERGED else COPYING
    of_y = TURNING if axes == LAYOUTS["NCHW"] else 0 if p.F % lanes == 0 else COPYING
    return tiles + of_x * p.C * p.stride[0] * p.stride[1] / lanes + of_y * vectors


def _rows_of_tiles(rows: int) -> int:
    """Rows of the register tiles that have so many rows."""
    whole, tail = rows // tiling.MR * tiling.MR, rows % tiling.MR
    return whole + (0 if tail == 0 else 4 if tail <= 4 else tiling.MR)


def _narrow(vectors: int) -> int:
    """How many of the vectors of a row are in tiles that are not as wide as others."""
    narrow = 0
    while vectors > 0:
        width = vectors_of_tile.py_func(vectors, tiling.MR)
        narrow += width if width < tiling.VECTORS else 0
        vectors -= width
    return narrow


def _better_swapped(p: Product, axes: Axes, itemsize: int) -> bool:
    """Whether a 1 x 1 kernel better has filters in the vector, and dw comes out transposed.

    The fewer are turned where pixels lie together. Where channels do, the fewer are cut into panels.
    """
    # In groups each would be transposed by itself, which the strides of dw do not say.
    if axes == LAYOUTS["HWCN"] or p.groups > 1 or not p.pointwise:
        return False
    more = p.C - p.F
    if axes == LAYOUTS["NHWC"]:
        more = p.F - p.C if p.F * itemsize > FAR_BYTES else 0  # in place, else
    return p.N * p.OH * p.OW * more > TURNING_COST * p.C * p.F


@dataclass(frozen=True)
class _Sums:
    """How the sums of a kernel, or of a tap of it, come about, and what an output of a group is expected to cost."""

    launches: list[Launch]
    partial: int
    scratch: int
    blocks: dict[str, int]
    vector: str
    cost: float


def plan_weight_grad(plan: Plan, x: Strides, y: Strides, start: int, w: Strides, padding: bool = False) -> Plan:
    """Plan of dw, which begins at element `start`; strides count elements of x, dy and dw.

    `padding`: with all products of the padding.
    """
    g, dtype, reason = plan.geometry, plan.dtype, plan.reason
    parts = [_sums_of(plan, g, x, y, start, w)]
    if not padding and (by_taps := _by_taps(plan, parts[0], x, y, start, w)):
        parts, reason = by_taps, f"{reason}; tap by tap"
        plan = replace(plan, with_padding=partial(plan.cut, plan.threads, padding=True))
    launches = [launch for part in parts for launch in part.launches]
    partials, scratch = (max(sizes) for sizes in zip(*((part.partial, part.scratch) for part in parts), strict=True))
    program = Program(launches, plan.arrays, {"partial": partials}, scratch, dtype, enough_work(g, dtype))
    if parts[-1].vector != "channels":
        reason = f"{reason}; {parts[-1].vector} in the vector"
    return replace(plan, reason=reason, program=program, blocks=parts[-1].blocks, tile=register_tile(dtype))


def _by_taps(plan: Plan, whole: _Sums, x: Strides, y: Strides, start: int, w: Strides) -> list[_Sums] | None:
    """The sums of each tap by itself, if that is expected to be faster: see :mod:`.dense`."""
    g, lanes = plan.geometry, tiling.lanes(plan.dtype.itemsize)
    p = forward_problem(g, ("x", x), (Address("dw", start), w), ("dy", y), None, plan.accumulate)
    bounds = plan.algorithm != "direct" or winograd.bounds(plan.name, g, plan.dtype, plan.axes)
    if bounds or g.N == 0 or g.KH * g.KW == 1 or not dense.may_pay(p):
        return None
    x_of_tap = x[0], x[1], x[2] * g.stride[0], x[3] * g.stride[1]  # one tap sees every stride-th pixel
    everything = _sums_of(plan, _one_tap(g, g.N, g.OH, g.OW), x_of_tap, y, start, w)
    vectors = (g.C // g.groups) * g.F * g.KH * g.KW / lanes
    together = everything.vector == "channels"
    if not together and vectors * tiling.VECTOR_BYTES > MOST_APART:
        return None
    parts = []
    for tap in np.ndindex(g.KH, g.KW):
        rows, columns = rectangle(p, tap)
        part = _one_tap(g, 0, 1, 1)  # a tap that sees nothing gets the zeros of an empty batch
        to = {"x": 0, "dy": 0}
        if rows and columns:
            part = _one_tap(g, g.N, len(rows), len(columns))
            top, left = dense.corner(p, tap)
            to = {"x": top * x[2] + left * x[3], "dy": rows.start * y[2] + columns.start * y[3]}
        parts.append((part, to, start + tap[0] * w[2] + tap[1] * w[3]))
    if together:
        apart = [_channels_of_taps(plan, [(part, to) for part, to, _ in parts], x_of_tap, y, start, w)]
        step = g.stride[1] if plan.axes == LAYOUTS["NCHW"] else 1
        copied = SHORT_ROWS * (step * -(-g.C // g.groups // lanes) + -(-g.F // g.groups // lanes))
        cost = (everything.cost + copied) * sum(part.N * part.OH * part.OW for part, _, _ in parts) + ENDS * vectors
    else:
        apart, cost = [], ENDS_OF_TAP * vectors
        for part, to, first in parts:
            sums = _sums_of(plan, part, x_of_tap, y, first, w)
            apart.append(replace(sums, launches=[_moved(launch, to) for launch in sums.launches]))
            cost += part.N * part.OH * part.OW * sums.cost
        if min(g.C, g.F) // g.groups < FEW_CHANNELS:
            cost *= OF_FEW
    cost += START * len(parts)
    # Pixels that outputs look at and do not share with those of their block, on new arrays.
    usual = steps(plan.axes, g.output_shape)
    b = block_weight_grad(g, plan.dtype, plan.axes, usual, (0, 0, 0, 0), True, 1)
    outputs = b.images, b.rows, b.columns
    between = max(0.0, strip_pixels(g, *outputs) / prod(outputs) - prod(g.stride))
    of_output = whole.cost + TURNING * between * g.C / g.groups / lanes
    return apart if cost < SURE * (g.N * g.OH * g.OW * of_output + ENDS * vectors) else None


def _one_tap(g: Geometry, N: int, OH: int, OW: int) -> Geometry:
    """A tap and the outputs of so many images that read a pixel with it."""
    one = (1, 1)
    return replace(g, N=N, H=OH, W=OW, KH=1, KW=1, OH=OH, OW=OW, stride=one, dilation=one, padding=(0, 0, 0, 0))


def _channels_of_taps(
    plan: Plan, parts: list[tuple[Geometry, dict[str, int]]], x: Strides, y: Strides, start: int, w: Strides
) -> _Sums:
    """The sums of all taps side by side, with channels in the vector: of each by itself, dw would be crossed anew."""
    g, dtype, lanes = plan.geometry, plan.dtype, tiling.lanes(plan.dtype.itemsize)
    names, whole = {}, g
    most = _one_tap(g, g.N, g.OH, g.OW)
    p = forward_problem(most, ("x", x), (Address("dw", start), w), ("dy", y), None, plan.accumulate)
    if _better_swapped(p, plan.axes, dtype.itemsize):
        names, whole = {"x": "dy", "dy": "x"}, replace(g, C=g.F, F=g.C)
        x, y, w = y, x, (w[1], w[0], w[2], w[3])
    block = partial(block_weight_grad, dtype=dtype, axes=plan.axes, w=w, accumulate=True, threads=plan.threads)
    like = block(replace(most, C=whole.C, F=whole.F), y=y)
    of_taps = []
    for part, to in parts:
        part = replace(part, C=whole.C, F=whole.F)
        if part.OH == 1 or all(s[2] == part.OW * s[3] for s in (x, y)):
            part = replace(part, H=1, W=part.OH * part.OW, OH=1, OW=part.OH * part.OW)
        values = weight_grad.arguments_of(part, x, y, start, w, plan.accumulate)
        values |= {name: Address(names.get(name, name), to[names.get(name, name)]) for name in ("x", "dy")}
        of_taps.append((part, values, block(part, y=y)))
    c_blocks = -(-(whole.C // g.groups) // like.CB)
    size = len(parts) * weight_grad.partial_elements(of_taps[0][0], replace(like, shares=1))
    most_shares = max(-(-PIECES // c_blocks), SHARES_BYTES // (size * dtype.itemsize))
    shares = min([most_shares, *(b.shares for part, _, b in of_taps if part.N > 0)])
    FB, CB, line = like.FB, like.CB, like.line
    of_taps = [
        (part, values, replace(b, shares=shares, FB=FB, CB=CB, line=line, at_once=min(b.at_once, FB)))
        for part, values, b in of_taps
    ]
    values = weight_grad.arguments_of(whole, x, y, start, w, plan.accumulate)
    launches = weight_grad.launches_of_taps(whole, of_taps, values)
    scratch = max(weight_grad_shares.stage_elements(len(parts), lanes), *(b.scratch for _, _, b in of_taps))
    blocks = {"shares": shares, "filters": FB, "channels": CB}
    return _Sums(launches, shares * size, scratch, blocks, "channels", 0.0)


def _moved(launch: Launch, to: dict[str, int]) -> Launch:
    """The launch with arrays that begin so many elements later."""

    def there(value: int | Address) -> int | Address:
        return replace(value, offset=value.offset + to.get(value.name, 0)) if isinstance(value, Address) else value

    return replace(launch, values={name: there(value) for name, value in launch.values.items()})


def _sums_of(plan: Plan, g: Geometry, x: Strides, y: Strides, start: int, w: Strides) -> _Sums:
    """The sums of a kernel, which begin at element `start` of dw."""
    dtype, lanes = plan.dtype, tiling.lanes(plan.dtype.itemsize)
    seen = _without_gaps(g)
    if seen is not g:
        x = (x[0], x[1], x[2] * g.stride[0] // seen.stride[0], x[3] * g.stride[1] // seen.stride[1])
    p = forward_problem(seen, ("x", x), (Address("dw", start), w), ("dy", y), None, plan.accumulate)
    by_pixels = block_pixels(p, dtype, plan.axes)
    by_filters = block_filters(p, dtype)
    # A 1 x 1 kernel sees no rows.
    flat = replace(seen, H=1, W=g.OH * g.OW, OH=1, OW=g.OH * g.OW) if p.pointwise else seen
    vector, cost = _best_vector(p, by_pixels, by_filters, flat, dtype, plan.axes, seen is not g)
    if vector == "pixels":
        return _without_channels(p, by_pixels, weight_grad_pixels.launches(p, by_pixels), vector, cost)
    if vector == "filters":
        return _without_channels(p, by_filters, weight_grad_filters.launches(p, by_filters), vector, cost)
    if all(a[2] == g.OW * a[3] for a in (x, y)):
        seen = flat
    swapped = {"x": "dy", "dy": "x"} if _better_swapped(p, plan.axes, dtype.itemsize) else {}
    filters, channels = "filters", "channels"
    if swapped:
        seen = replace(seen, C=seen.F, F=seen.C)
        x, y, w = y, x, (w[1], w[0], w[2], w[3])
        filters, channels = channels, filters
    b = block_weight_grad(seen, dtype, plan.axes, y, w, plan.accumulate, plan.threads)
    values = weight_grad.arguments_of(seen, x, y, start, w, plan.accumulate)
    values |= {name: Address(array) for name, array in swapped.items()}
    blocks = {"shares": b.shares, filters: b.FB, channels: b.CB}
    blocks |= {"images": b.images, "rows": b.rows, "columns": b.columns}
    scratch = max(b.scratch, weight_grad_shares.stage_elements(g.KH * g.KW, lanes))
    launches = weight_grad.launches(seen, values, b)
    return _Sums(launches, weight_grad.partial_elements(seen, b), scratch, blocks, vector, cost)


def _without_channels(
    p: Product,
    b: weight_grad_pixels.Blocking | weight_grad_filters.Blocking,
    launches: list[Launch],
    vector: str,
    cost: float,
) -> _Sums:
    """The sums with pixels or filters in the vector."""
    images = b.images * (b.batch if isinstance(b, weight_grad_pixels.Blocking) else 1)
    blocks = {"shares": b.shares, "images": images, "rows": b.rows, "columns": b.columns}
    return _Sums(launches, b.shares * p.groups * b.sums(p), b.scratch(p), blocks, vector, cost)


def _without_gaps(g: Geometry) -> Geometry:
    """A kernel of one row or column skips what its stride skips: the same problem on every stride-th pixel."""
    stride, extents = list(g.stride), [g.H, g.W]
    for axis, (size, out, before) in enumerate(((g.KH, g.OH, g.padding[0]), (g.KW, g.OW, g.padding[2]))):
        if size == 1 and before == 0 and stride[axis] > 1:
            extents[axis] = min(out, -(-extents[axis] // stride[axis]))
            stride[axis] = 1
    if tuple(stride) == g.stride:
        return g
    return replace(g, H=extents[0], W=extents[1], stride=(stride[0], stride[1]))
