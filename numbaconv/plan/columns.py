"""Blocks of the input gradient by columns, from the shape alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from ..geometry import LAYOUTS, Geometry
from ..kernels import input_grad, input_grad_columns, tiling
from ..kernels.input_grad_columns import Blocking
from ..kernels.launch import Address, Program
from ..kernels.tiling import PRICE
from . import winograd
from .base import Axes, Plan, Strides, enough_work, even_blocks, pieces_of_output, round_up
from .costs import Way, rows_cost
from .direct import odd_lines, register_tile

# Costs, as in :mod:`.costs`, fitted to 350 random layers on Zen 5. Of a row of pixels that is added to a map, and of
# each vector of it; of a panel's row of the weight; of each map, and of clearing a vector of it; of writing a row of
# dx, a vector that is merged from maps, a pixel that is turned.
ADD_ROW, ADD, PACK, MAP, CLEAR = 3 * PRICE, 9 * PRICE, 16 * PRICE, 12 * PRICE, 2 * PRICE
WRITE_ROW, MERGE, WRITE_TURNED = 75 * PRICE, 10 * PRICE, 8 * PRICE
# Of copying a vector of dy, of turning one, and of writing a run of images, and each vector of it.
COPY, TURN, WRITE_RUN, WRITE = 12 * PRICE, 22 * PRICE, 10 * PRICE, 10 * PRICE
# Rows of `a` that make copying dy cheap.
MANY_ROWS = 128
# Outputs of a block, and where several images are one; and the maps and the strip of a worker.
MOST_OUTPUTS, FEW_OUTPUTS = 64 * 1024, 2 * tiling.NC_BYTES
MAPS_BYTES, STRIP_BYTES = tiling.PANEL_BYTES // 4, tiling.PANEL_BYTES * 5 // 4
# Of maps where a vector of images is a column, and rows are as many times longer.
BATCH_MAPS_BYTES = tiling.PANEL_BYTES * 11 // 16


def way(plan: Plan, y: Strides, start: int, w: Strides, x: Strides) -> Iterator[Way]:
    """By columns, if dx can be had so: from the shape and the layout alone."""
    g, dtype = plan.geometry, plan.dtype
    C, F, taps = g.C // g.groups, g.F // g.groups, g.KH * g.KW
    nothing = min(g.N, C, F, g.H, g.W, g.OH, g.OW, taps) == 0
    pointwise = taps == 1 and g.stride == (1, 1)  # whose columns are dx
    if plan.algorithm != "direct" or nothing or pointwise:
        return
    # Sums of sums have less rounding than the bound of Winograd's, 3 times direct's, has room for.
    if winograd.bounds("input gradient", g, dtype, plan.axes):
        return
    # The choice decides the order of a sum, which depends on the shape of an image alone.
    usual = _blocks(replace(g, N=1 << 20), plan.axes, dtype.itemsize, 1)
    if usual is not None:
        yield _by_columns(g, plan.axes, dtype, usual), partial(_plan, plan, y, start, w, x)


def _plan(plan: Plan, y: Strides, start: int, w: Strides, x: Strides) -> Plan:
    """Plan of dx by columns."""
    g, dtype, taps = plan.geometry, plan.dtype, plan.geometry.KH * plan.geometry.KW
    b = _blocks(g, plan.axes, dtype.itemsize, plan.threads)
    assert b is not None  # as many rows and filters as those of the choice
    p = replace(input_grad.dense(g, y, start, w, x, plan.accumulate), C=g.F // g.groups, KH=g.KH, KW=g.KW)
    values: dict[str, int | Address] = {"step_h": g.stride[0], "step_w": g.stride[1]}
    values |= {"apart_h": g.dilation[0], "apart_w": g.dilation[1], "top": g.padding[0], "left": g.padding[2]}
    launches = [input_grad_columns.launch(p, b, values)]
    program = Program(launches, plan.arrays, {}, b.scratch(taps), dtype, enough_work(g, dtype))
    blocks = {"channels": b.channels, "filters": b.KC, "images": b.images * b.batch, "rows": b.rows}
    reason = f"{plan.reason}; by columns"
    return replace(plan, reason=reason, program=program, blocks=blocks, tile=register_tile(dtype))


def _blocks(g: Geometry, axes: Axes, itemsize: int, threads: int) -> Blocking | None:
    """Blocks for so many threads, or None if a row of maps is too long for scratch.

    Rows and filters of a block decide the order of a sum, and depend on the shape of an image alone.
    """
    lanes, line = tiling.lanes(itemsize), 64 // itemsize
    C, F, taps = g.C // g.groups, g.F // g.groups, g.KH * g.KW
    reach, tail, width = _map_extents(g)
    # Elements of a column where images lie together: a vector of them decides how many rows there are.
    batch = lanes if axes == LAYOUTS["HWCN"] else 1
    KC = even_blocks(F, tiling.DEPTH)
    remainders = g.stride[0] * g.stride[1]
    room = (MAPS_BYTES if batch == 1 else BATCH_MAPS_BYTES) // itemsize
    row, written = remainders * width, round_up(g.W + 4 * lanes, line)

    def map_elements(images: int, rows: int) -> int:
        """Of so many images, those of a column among them."""
        return odd_lines(images * (rows + tail) * row + lanes, line) + written

    most = min(STRIP_BYTES // itemsize // (KC + tiling.MR), MOST_OUTPUTS // itemsize) - 2 * line - lanes
    channels = min(C, -(-MANY_ROWS // taps))
    least_rows = min(g.OH, tail + 1) if batch == 1 else 1
    while channels > 1 and channels * map_elements(batch, least_rows) > room:
        channels = -(-channels // 2)
    fitting = min((room // channels - written - 2 * line - lanes) // (row * batch) - tail, most // (g.OW * batch))
    if fitting < 1:
        return None
    rows, images = even_blocks(g.OH, fitting), 1
    if batch > 1:
        fitting = min(most // (rows * g.OW), room // channels // map_elements(1, rows), 4 * lanes)
        batch = even_blocks(g.N, max(batch, fitting // lanes * lanes))
    elif rows == g.OH:
        shared = min(most, FEW_OUTPUTS // itemsize) // (rows * g.OW)
        images = max(1, min(g.N, shared, room // channels // map_elements(1, rows)))
    channels = min(C, max(channels, room // map_elements(images * batch, rows)))
    # Threads share images first, then channels, then rows.
    least = pieces_of_output(threads)
    while images > 1 and g.groups * -(-g.N // images) < least:
        images = -(-images // 2)
    pieces = g.groups * -(-g.N // (images * batch))
    channels = even_blocks(C, min(channels, max(-(-tiling.MR // taps), -(-C * pieces // least))))
    pieces *= -(-C // channels)
    blocks = -(-g.OH // rows)
    segment = min(blocks, max(1, -(-blocks * pieces // least))) if reach <= rows else blocks
    pitch = odd_lines(images * batch * rows * g.OW + lanes, line)
    map_pitch = map_elements(images * batch, rows) - written
    return Blocking(channels, KC, images, rows, segment, batch, tail, reach, width, pitch, map_pitch, written)


def _map_extents(g: Geometry) -> tuple[int, int, int]:
    """(reach, tail, width): rows of a map behind those of the outputs that get products, and all; and its columns."""
    reach, wide = (((k - 1) * d // s) for k, d, s in zip((g.KH, g.KW), g.dilation, g.stride, strict=True))
    tail = max(reach, -(-(g.H + g.padding[0]) // g.stride[0]) - g.OH)
    return reach, tail, max(g.OW + wide, -(-(g.W + g.padding[2]) // g.stride[1]))


def _by_columns(g: Geometry, axes: Axes, dtype: np.dtype, b: Blocking) -> float:
    """What an image of a group costs by columns."""
    lanes, last = tiling.lanes(dtype.itemsize), axes == LAYOUTS["NHWC"]
    C, F, taps = g.C // g.groups, g.F // g.groups, g.KH * g.KW
    row_blocks, f_blocks, remainders = -(-g.OH // b.rows), -(-F // b.KC), g.stride[0] * g.stride[1]
    images = b.images * b.batch
    vectors = -(-images * b.rows * g.OW // lanes) * g.OH / (images * b.rows)
    rows = sum(rows_cost(min(b.channels, C - c) * taps) for c in range(0, C, b.channels))
    cost = F * vectors * (rows + (TURN if last else COPY) * -(-C // b.channels))
    cost += C * taps * f_blocks * g.OH * (ADD_ROW + ADD * -(-g.OW * b.batch // lanes)) / b.batch
    cost += PACK * F * C * taps / tiling.MR * row_blocks / images
    cost += C * row_blocks * (MAP * remainders / b.batch + CLEAR * b.map_pitch / images / lanes)
    if b.batch > 1:
        return cost + C * g.H * g.W * (WRITE_RUN + WRITE * -(-b.batch // lanes)) / b.batch
    if g.stride[1] > 1 or not last:
        cost += C * g.H * (WRITE_ROW + (MERGE if g.stride[1] > 1 else 1) * -(-g.W // lanes))
    return cost + (WRITE_TURNED * g.H * g.W * -(-C // lanes) if last else 0)
