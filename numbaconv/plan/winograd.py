"""When Winograd's algorithm pays, and its programs; :mod:`.winograd_blocks` has its variants and blocks."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from ..geometry import LAYOUTS, Geometry
from ..kernels import tiling, weight_grad_shares, weight_vectors
from ..kernels import weight_grad as direct_grad
from ..kernels.launch import Launch, Program
from ..kernels.problem import Product
from ..kernels.rows import inside
from ..kernels.winograd import forward, weight_grad
from ..kernels.winograd.maps import Maps, split
from .base import Axes, Plan, Strides, enough_work, round_up, upright
from .winograd_blocks import (
    FILTERS,
    FIRST_VECTOR,
    INPUT,
    TAPS,
    TOTAL_BYTES,
    TRANSFORMS,
    Sums,
    block_product,
    block_sums,
    block_weight_grad,
    forward_variant,
    grad_variant,
    maps_of,
    products_of,
    work_of_tiles,
)

# Tiles that interleave where taps lie apart: of a dilation of 4 along both axes. They are all in one block.
MOST_BETWEEN = 16
# For those: extents of a map, channels of a sum, in dw both channels and filters, and pixels of a sum.
LEAST_EXTENT, LEAST_CHANNELS, LEAST_PIXELS = 7, 12, 512
# The same for 2 x 2 taps, whose 5 x 5 outputs round more: products of a sum, and channels on all maps.
LEAST_PRODUCTS, MOST_CHANNELS = 256, 2048
# Images of a batch that says what "auto" would take, where the batch itself may change nothing.
LARGE_BATCH = 64


def supports(kernel_size: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> bool:
    """3 x 3 taps side by side at every pixel: what the name "winograd" promises, for all extents."""
    return kernel_size == (3, 3) and stride == dilation == (1, 1)


def applies(name: str, g: Geometry) -> bool:
    """Whether "auto" may choose it: where there are fewer products, and they round well enough.

    Taps may lie apart, as long as a block has room for the tiles in between. But for 3 x 3 taps at stride 1 there is no
    variant to fall back to on short sums and on maps that are border all over, where rounding is more than 3 times
    that of direct sums.
    """
    maps = maps_of(name, (g.KH, g.KW), g.stride)
    strided = g.stride != (1, 1)
    phases = prod(g.stride) if name == "input gradient" else 1
    if products_of(maps) * phases >= g.KH * g.KW or g.KH < g.stride[0] or g.KW < g.stride[1]:
        return False
    if ((strided or not maps.plain) and g.dilation != (1, 1)) or prod(g.dilation) > MOST_BETWEEN:
        return False
    if (g.KH, g.KW) == (3, 3) and not strided:
        return True
    s = Sums.of(name, g)
    channels = min(s.C, s.F) if name == "weight gradient" else s.C
    if min(s.H, s.W, s.OH, s.OW) < LEAST_EXTENT or channels < LEAST_CHANNELS or s.inside <= 0.5:
        return False
    if name == "weight gradient":
        return g.N * g.OH * g.OW >= LEAST_PIXELS
    sums = s.C // maps.all * g.KH * g.KW / phases
    return s.r != 2 or (sums >= LEAST_PRODUCTS and s.C <= MOST_CHANNELS)


def bounds(name: str, g: Geometry, dtype: np.dtype, axes: Axes) -> bool:
    """Whether direct sums leave room for the bound of Winograd's rounding: where it has a name, or "auto" takes it.

    In a large batch, as the bits of an image in y and dx are the same in any. Not for dw of kernels in parts, where
    direct sums are the faster ones more often.
    """
    named = supports((g.KH, g.KW), g.stride, g.dilation)
    g = replace(g, N=LARGE_BATCH)
    plain = g.stride == (1, 1) and maps_of(name, (g.KH, g.KW), g.stride).plain
    counts = plain or name == "input gradient"
    return named or (counts and applies(name, g) and expected_ratio(name, g, dtype, axes) < 1)


# -- what it costs -----------------------------------------------------------------------------------

# In channels-last layouts there is nothing to turn.
LAST = 0.75
# In HWCN pixels are turned one by one.
BATCH_LAST = 1.5
# Direct: a multiply-add of dw; one of y and dx, and packing a vector of the panel or reading it from the strip, a share
# of the multiply-adds, fitted to 550 random layers: what is chosen takes 1% longer than the faster of both.
DIRECT_GRAD, DIRECT, PACKING, STRIP = 0.95, 1.12, 1.76, 0.18
# How many times as long y and dx take where taps lie apart, y at a stride, and any. Sums are all that direct computes,
# and a part of what Winograd's algorithm does: 0.89 where they are twice as fast against the rest, fitted to 200 random
# layers on Zen 5.
APART, STRIDED, SUMS = (1.0, 1.05, 0.89) if tiling.FULL_RATE else (1.25, 1.1, 1.0)
# The time for the share of the products that are not with the padding, from 0.8 of them down, as others are left out.
LEFT = 1.25
# How many times as long Winograd's dx takes at a stride, and how much longer dw on maps, for each pixel from one of a
# map to the next.
PHASES, SORTING = 1.1, 0.1


def expected_ratio(name: str, g: Geometry, dtype: np.dtype, axes: Axes) -> float:
    """Winograd's time over that of the direct engine, as the constants above have it."""
    lanes = tiling.lanes(dtype.itemsize)
    s = Sums.of(name, g)
    r, C, F, taps = s.r, s.C, s.F, g.KH * g.KW / s.maps.all
    turning = {LAYOUTS["NHWC"]: LAST, LAYOUTS["HWCN"]: BATCH_LAST}.get(axes, 1.0) * TRANSFORMS[r]
    CV, FV = -(-C // lanes), -(-F // lanes)
    phases = prod(g.stride) if name == "input gradient" else 1
    pixels = s.N * prod((s.OH, s.OW)) * prod(s.dilation)
    m = grad_variant(g) if name == "weight gradient" else forward_variant(s)
    tiles = s.N * prod(s.dilation) * prod(s.tiles(m))
    if name == "weight gradient":
        grad = block_weight_grad(g, dtype, axes, 1)
        work = tiles * round_up(F, 4) * (CV + FIRST_VECTOR)
        work += turning * INPUT * tiles * (CV * -(-F // grad.FB) + 0.7 * FV * -(-C // grad.CB))
        work += TRANSFORMS[r] * TAPS * grad.shares * F * CV
        work *= 1 + SORTING * g.stride[1] if not s.maps.plain else 1
        direct = DIRECT_GRAD * pixels * F * -(-C // s.maps.all * g.KW // lanes) * g.KH + 4 * pixels * (
            CV * -(-F // 128) + FV * -(-C // 64)
        )
    else:
        b = block_sums(m, s, dtype, axes, 1)  # the same choice, and so the same bits, for all threads
        blocks = s.N * prod(s.tiles(m)) / (b.images * b.rows * b.columns)
        work = work_of_tiles(round_up(tiles, 4), C, CV, FV, -(-F // b.FB), turning)
        work += TRANSFORMS[r] * FILTERS * C * FV * (max(1, blocks) if C > b.KC else 1)
        rows = 2 if F == 1 else round_up(F, 4)
        work *= PHASES if phases > 1 else 1
        direct = taps * pixels * C / lanes * (DIRECT * rows + min(PACKING, STRIP * rows))
        direct *= min(1, LEFT * _not_with_padding(name, g))
        direct *= SUMS * (APART if prod(s.dilation) > 1 else STRIDED if max(s.maps.stride) > 1 else 1)
    return (m + r - 1) ** 2 * phases * work / direct


def _not_with_padding(name: str, g: Geometry) -> float:
    """The share of the products of y or dx that are not with the padding, of an axis one product at least."""
    share = 1.0
    axes = zip(g.weight_shape[2:], g.stride, g.dilation, g.padding[::2], (g.H, g.W), (g.OH, g.OW), strict=True)
    for taps, stride, dilation, padding, extent, outputs in axes:
        seen = (inside.py_func(tap * dilation - padding, stride, extent, outputs) for tap in range(taps))
        computed = outputs if name == "forward" else extent / stride
        share *= max(1, sum(last - first for first, last in seen)) / max(1, taps * computed)
    return min(1.0, share)


# -- programs ----------------------------------------------------------------------------------------


def plan_products(plan: Plan, products: list[Product]) -> Plan:
    """Plan of y or dx, of one dense problem or as many as dx has phases."""
    g, dtype = plan.geometry, plan.dtype
    r = maps_of(plan.name, (g.KH, g.KW), g.stride).r
    lanes = tiling.lanes(dtype.itemsize)
    problems = [(p, Maps.cut((p.KH, p.KW), p.stride, r)) for p in map(upright, products)]
    blocks = [block_product(maps, p, dtype, plan.axes, plan.threads) for p, maps in problems]
    scratch = max(b.scratch for b in blocks)
    launches: list[Launch] = []
    parts = 0
    if any(not maps.plain for _, maps in problems) or g.stride != (1, 1):
        launches, ready, parts = split(problems, lanes)
        problems = [(p, maps) for p, (_, maps) in zip(ready, problems, strict=True)]
        scratch = max(scratch, weight_vectors.stage_bytes(g.KH * g.KW, lanes) // dtype.itemsize)
    launches += [forward.launch(p, b) for (p, _), b in zip(problems, blocks, strict=True)]
    parallel = enough_work(g, dtype)
    program = Program(launches, plan.arrays, {"panels": parts}, scratch, dtype, parallel, TOTAL_BYTES)
    b = blocks[-1]
    sizes = {"filters": b.FB, "channels": b.KC}
    if plan.name == "input gradient":
        sizes = {"channels": b.FB, "filters": b.KC}
    return _finish(plan, program, sizes, b)


def plan_weight_grad(plan: Plan, x: Strides, y: Strides, start: int, w: Strides) -> Plan:
    """Plan of dw, which begins at element `start`; strides count elements of x, dy and dw."""
    g, dtype = plan.geometry, plan.dtype
    C, maps = g.C // g.groups, maps_of(plan.name, (g.KH, g.KW), g.stride)
    in_parts = not maps.plain
    whole = in_parts or (w[2:] == (g.KW, 1) and not plan.accumulate)
    b = block_weight_grad(g, dtype, plan.axes, plan.threads, whole)
    values = direct_grad.arguments_of(g, x, y, start, w, plan.accumulate)
    launches = weight_grad.launches(g, values, b)
    scratch = max(b.scratch, weight_grad_shares.stage_elements(b.r**2, tiling.lanes(dtype.itemsize)))
    buffers = {"partial": weight_grad.partial_elements(g, b), "parts": g.F * C * maps.taps if in_parts else 0}
    program = Program(launches, plan.arrays, buffers, scratch, dtype, enough_work(g, dtype), TOTAL_BYTES)
    return _finish(plan, program, {"shares": b.shares, "filters": b.FB, "channels": b.CB}, b)


def _finish(plan: Plan, program: Program, blocks: dict[str, int], b: forward.Blocking | weight_grad.Blocking) -> Plan:
    """The plan with its program and variant."""
    blocks |= {"images": b.images, "rows of tiles": b.rows, "columns of tiles": b.columns}
    sizes = (b.r, b.m) if plan.name == "weight gradient" else (b.m, b.r)
    name = f"F({sizes[0]} x {sizes[0]}, {sizes[1]} x {sizes[1]})"
    stride = plan.geometry.stride
    if b.maps.all > 1:
        name += f" on {b.maps.count[0]} x {b.maps.count[1]} maps"
    if plan.name == "input gradient" and prod(stride) > 1:
        name += f" in {stride[0]} x {stride[1]} phases"
    lanes = tiling.lanes(plan.dtype.itemsize)
    tile = tiling.FILTERS_MR, tiling.FILTERS_VECTORS * lanes
    return replace(plan, reason=f"{name}; {plan.reason}", program=program, blocks=blocks, tile=tile)
