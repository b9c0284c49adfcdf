"""Blocks of the direct engine, from the shape alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..geometry import Geometry
from ..kernels import forward, tiling, weight_grad
from ..kernels.forward import Product
from ..kernels.launch import Program
from .base import PARALLEL_FLOPS, PIECES, Plan, Strides, round_up

# Multiply-adds that cost as much as copying a row of the taps of a pixel beside the other rows.
GATHERING_COST = 8


def block_forward(p: Product, dtype: np.dtype) -> forward.Blocking:
    """Blocks of a forward nest, from the shape alone."""
    lanes = tiling.lanes(dtype.itemsize)
    line = 64 // dtype.itemsize
    pixels = p.N * p.OH * p.OW
    most = tiling.NC_BYTES // dtype.itemsize
    blocks = max(1, -(-p.F // tiling.MC))
    MC = round_up(-(-p.F // blocks), tiling.MR)
    chunks = max(-(-pixels // most), -(-PIECES // (p.groups * blocks)))
    NC = min(most, max(round_up(-(-pixels // chunks), lanes), 4 * lanes))
    pitch = round_up(NC + lanes, line)
    pitch += line if pitch // line % 2 == 0 else 0
    taps = max(1, p.KH * p.KW)
    most_channels = max(1, tiling.PANEL_BYTES // dtype.itemsize // (taps * pitch))
    KC = max(1, -(-p.C // max(1, -(-p.C // most_channels))))
    batch_runs = p.x_strides[0] == 1 and p.x_strides[3] != 1 and p.x_strides[1] != 1
    return forward.Blocking(batch_runs, NC, KC, MC, pitch, tiling.STRIP_BYTES // dtype.itemsize)


def block_weight_grad(g: Geometry, dtype: np.dtype) -> weight_grad.Blocking:
    """Blocks of the weight-gradient nest, from the shape alone."""
    lanes = tiling.lanes(dtype.itemsize)
    # The strip and the panels of dy share the scratch of a worker; gathered taps take a half of the strip's part.
    budget = tiling.PANEL_BYTES * 3 // 4 // dtype.itemsize
    C, F = g.C // g.groups, g.F // g.groups
    # A 1 x 1 kernel uses what was packed once per pixel only, so its blocks have to be larger.
    most_C, most_F = (64, 128) if g.KH * g.KW > 1 else (256, 256)
    CB = max(1, min(C, round_up(-(-C // max(1, -(-C // most_C))), lanes)))
    FB = round_up(-(-F // -(-F // most_F)), tiling.MR)
    reach = ((g.KH - 1) * g.dilation[0] + 1) * ((g.KW - 1) * g.dilation[1] + 1)
    while CB > lanes and reach * CB > budget:
        CB = round_up(CB // 2, lanes)

    def strip(images: int, rows: int, columns: int) -> int:
        height = (rows - 1) * g.stride[0] + (g.KH - 1) * g.dilation[0] + 1
        return images * height * ((columns - 1) * g.stride[1] + (g.KW - 1) * g.dilation[1] + 1) * CB

    depth = min(tiling.DEPTH, max(1, budget // FB))
    row, kernel = -(-CB * g.KW // lanes), -(-CB * g.KH * g.KW // lanes)
    gathers = C == CB and g.dilation[1] == 1 and (row * g.KH - kernel) * FB > GATHERING_COST * g.KH
    if gathers:
        depth = max(1, min(depth, budget // 2 // (kernel * lanes)))
        budget //= 2
    columns = min(g.OW, depth)
    while columns > 1 and strip(1, 1, columns) > budget:
        columns = -(-columns // 2)
    rows = max(1, min(g.OH, depth // columns))
    while rows > 1 and strip(1, rows, columns) > budget:
        rows -= 1
    images = 1
    if rows == g.OH and columns == g.OW:
        images = max(1, min(g.N, depth // (rows * columns)))
        while images > 1 and strip(images, rows, columns) > budget:
            images -= 1
    blocks = -(-g.N // images) * -(-g.OH // rows) * -(-g.OW // columns)
    pieces = g.groups * -(-F // FB) * max(1, -(-C // CB))
    shares = max(1, min(blocks, -(-PIECES // pieces)))
    line = kernel * lanes if gathers else round_up(CB * (g.KW if g.dilation[1] == 1 else 1), lanes)
    strip_size = strip(images, rows, columns) + lanes
    gathered = (images * rows * columns + 1) * line if gathers else 0
    return weight_grad.Blocking(shares, FB, CB, images, rows, columns, line, strip_size, gathered)


def plan_products(plan: Plan, products: list[Product], names: tuple[str, ...]) -> Plan:
    """Plan of dense problems that run one after the other."""
    g, dtype = plan.geometry, plan.dtype
    parallel = g.flops >= PARALLEL_FLOPS
    lanes = tiling.lanes(dtype.itemsize)
    products = [_flat(p) for p in products]
    blockings = [block_forward(p, dtype) for p in products]
    launches, scratch, panels = [], 0, 0
    for p, b in zip(products, blockings, strict=True):
        launches += forward.launches(p, b)
        lines = b.KC * max(1, p.KH * p.KW) * b.pitch
        scratch = max(scratch, b.MC * b.pitch + b.strip + lines + 2 * lanes)
        panels = max(panels, forward.panel_elements(p))
    program = Program(launches, names, {"panels": panels}, scratch, dtype, parallel)
    b = blockings[0]
    blocks = {"filters": b.MC, "pixels": b.NC, "channels": b.KC}
    if plan.name != "forward":
        blocks = {"channels": b.MC, "pixels": b.NC, "filters": b.KC, "phases": len(products)}
    return replace(plan, program=program, blocks=blocks, tile=_tile(dtype))


def plan_weight_grad(plan: Plan, x: Strides, y: Strides, start: int, w: Strides, names: tuple[str, ...]) -> Plan:
    """Plan of dw, which begins at element `start`; strides count elements of x, dy and dw."""
    g, dtype = plan.geometry, plan.dtype
    seen = _without_gaps(g)
    if seen is not g:
        x = (x[0], x[1], x[2] * g.stride[0] // seen.stride[0], x[3] * g.stride[1] // seen.stride[1])
    blocking = block_weight_grad(seen, dtype)
    buffers = {"partial": weight_grad.partial_elements(seen, blocking)}
    scratch = max(blocking.strip + blocking.gathered + blocking.panels, g.KH * g.KW * tiling.lanes(dtype.itemsize))
    launches = weight_grad.launches(seen, x, y, start, w, blocking, plan.accumulate)
    program = Program(launches, names, buffers, scratch, dtype, g.flops >= PARALLEL_FLOPS)
    blocks = {
        "shares": blocking.shares,
        "filters": blocking.FB,
        "channels": blocking.CB,
        "images": blocking.images,
        "rows": blocking.rows,
        "columns": blocking.columns,
    }
    return replace(plan, program=program, blocks=blocks, tile=_tile(dtype))


def _tile(dtype: np.dtype) -> tuple[int, int]:
    """Rows and columns of the register tile."""
    return tiling.MR, tiling.VECTORS * tiling.lanes(dtype.itemsize)


def _flat(p: Product) -> Product:
    """A 1 x 1 kernel sees no rows: where both arrays store them one after the other, they are one."""
    one = p.KH == p.KW == 1 and p.stride == (1, 1) and p.offset == (0, 0)
    same = (p.H, p.W) == (p.OH, p.OW) and p.x_strides[2] == p.W * p.x_strides[3]
    if not (one and same and p.y_strides[2] == p.OW * p.y_strides[3]):
        return p
    return replace(p, H=1, W=p.H * p.W, OH=1, OW=p.OH * p.OW)


def _without_gaps(g: Geometry) -> Geometry:
    """A kernel of one row or column skips what its stride skips: the same problem on every stride-th pixel."""
    stride, extents = list(g.stride), [g.H, g.W]
    for axis, (taps, out, before) in enumerate(((g.KH, g.OH, g.padding[0]), (g.KW, g.OW, g.padding[2]))):
        if taps == 1 and before == 0 and stride[axis] > 1:
            extents[axis] = min(out, -(-extents[axis] // stride[axis]))
            stride[axis] = 1
    if tuple(stride) == g.stride:
        return g
    return replace(g, H=extents[0], W=extents[1], stride=(stride[0], stride[1]))
