"""Blocks of the direct engine, from the shape alone."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from ..geometry import LAYOUTS, Geometry
from ..kernels import forward, tiling, weight_grad, weight_panels
from ..kernels.gemm import EXACT_ROWS
from ..kernels.launch import Program
from ..kernels.problem import Product
from .base import PIECES, Axes, Plan, Strides, enough_work, even_blocks, pieces_of_output, round_up

# Multiply-adds that cost as much as copying a vector of the taps of a pixel beside the others.
GATHERING_COST = 4
# Outputs that are turned in the time that a partial sum takes to memory and back; filters that a turned x is worth;
# outputs that a sum is worth, where more of them would have to be packed.
TURNING_COST, LEAST_FILTERS, LEAST_RUN = 4, 64, 128
# How far pixels of dy whose filters lie together may be apart, so that those of a block do not meet in one set of L1.
FAR_BYTES = 1024
# Filters whose multiply-adds cost as much as copying a vector from the strip to the panel, and what they cost on
# vectors that begin anywhere: 181 GF/s in a panel, 155 on the strip (128>128@56 3x3/2).
COPY_COST, UNALIGNED = 8, 1.15


def block_forward(p: Product, dtype: np.dtype) -> forward.Blocking:
    """Blocks of a forward nest, from the shape alone.

    Where a panel of them has room for all channels, no sums wait for other channels, and blocks are twice as large:
    rows that two blocks look at are packed half as often.
    """
    large = _block_forward(p, dtype, 2 * tiling.NC_BYTES)
    return large if large.KC >= p.C else _block_forward(p, dtype, tiling.NC_BYTES)


def _block_forward(p: Product, dtype: np.dtype, outputs: int) -> forward.Blocking:
    """Blocks of so many bytes of outputs of a filter."""
    lanes = tiling.lanes(dtype.itemsize)
    line = 64 // dtype.itemsize
    f_blocks = max(1, -(-p.F // tiling.MC))
    MC = round_up(-(-p.F // f_blocks), tiling.MR)
    batch_runs = p.x_strides[0] == 1 and p.x_strides[3] != 1 and p.x_strides[1] != 1
    batch = even_blocks(p.N, 4 * lanes) if batch_runs else 1
    pointwise = p.KH == p.KW == p.H == p.OH == 1 and p.stride == (1, 1) and p.offset == (0, 0)
    flat = pointwise and batch == 1 and p.OW == p.W
    taps = max(1, p.KH * p.KW)
    reach = p.reach(0), p.reach(1)
    most = outputs // dtype.itemsize
    # The channels of a block decide the order of a sum, which depends on the shape of an image alone: found for a
    # batch without end and for both ways of walking it, whose blocks are as large as any.
    endless = replace(p, N=1 << 20)
    group = 0
    if flat:
        pieces = -(-pieces_of_output() // (p.groups * f_blocks))
        columns = min(most, max(round_up(-(-p.N * p.OW // pieces), lanes), 4 * lanes))
        images, rows, count, largest = 1, 1, columns, _odd_lines(most + lanes, line)
    else:
        in_strip, in_panel = (_output_block(endless, r, 1, f_blocks, most, lanes) for r in (reach, (0, 0)))
        many = _output_block(endless, reach, 4 * lanes, f_blocks, most, lanes)
        largest = _odd_lines(max(_strip(p, *in_strip, 1), _strip(p, *many, 4 * lanes)) + lanes, line)
        if taps > 1 and batch == 1 and _panel_pays(MC, in_strip, in_panel, reach, lanes):
            group, reach = lanes, (0, 0)
            largest = taps * _odd_lines(most, line)
        images, rows, columns = _output_block(p, reach, batch, f_blocks, most, lanes)
        count = _pixels(images, rows, columns, reach) * batch
    strip_pitch = _odd_lines(_strip(p, images, rows, columns, batch) + lanes, line)
    fitting = min(tiling.PANEL_BYTES // dtype.itemsize // largest, tiling.DEPTH // taps)
    KC = even_blocks(p.C, fitting)
    pitch = _odd_lines(count, line)
    b = forward.Blocking(MC, KC, images, rows, columns, batch, strip_pitch, pitch, False, flat, min(group, KC))
    # Filters that lie nearer to each other than channels, as in the input gradient, are read together, ahead.
    return replace(b, packed=forward.blocks(p, b) > 2 or p.w_strides[1] < p.w_strides[2])


def _strip(p: Product, images: int, rows: int, columns: int, batch: int) -> int:
    """Elements of a channel of the strip of a block."""
    pixels = images * (rows + p.reach(0)) * (columns + p.reach(1)) * batch
    return p.phases(0) * p.phases(1) * pixels


def _panel_pays(
    MC: int, in_strip: tuple[int, int, int], in_panel: tuple[int, int, int], reach: tuple[int, int], lanes: int
) -> bool:
    """Whether MC filters are multiplied faster with a panel of these blocks than with a strip of those.

    For each pixel and tap: vectors times filters, and to a panel the vectors are copied before.
    """
    strip = UNALIGNED * MC * -(-_pixels(*in_strip, reach) // lanes) / prod(in_strip)
    copies = COPY_COST * -(-in_panel[2] // lanes) / in_panel[2]
    return MC * -(-prod(in_panel) // lanes) / prod(in_panel) + copies < strip


def _odd_lines(elements: int, line: int) -> int:
    """An odd number of cache lines, so that rows of this length do not meet in one set of L1."""
    return (-(-elements // line) | 1) * line


def _pixels(images: int, rows: int, columns: int, reach: tuple[int, int]) -> int:
    """Elements from the first output of a block to the last one, with those between rows and images."""
    return (images * (rows + reach[0]) - reach[0] - 1) * (columns + reach[1]) + columns


def _output_block(
    p: Product, reach: tuple[int, int], batch: int, f_blocks: int, most: int, lanes: int
) -> tuple[int, int, int]:
    """(images, rows, columns) of a block of about `most` outputs of a filter, and some blocks for each thread."""
    most = max(1, most // batch)
    N = 1 if batch > 1 else p.N
    columns = even_blocks(p.OW, most)
    rows = even_blocks(p.OH, 1 + (most - columns) // (columns + reach[1])) if columns == p.OW else 1
    images = 1
    if rows == p.OH and columns == p.OW:
        fitting = [i for i in range(1, min(N, most) + 1) if i == 1 or _pixels(i, rows, columns, reach) <= most]
        images = min(fitting, key=lambda i: -(-_pixels(i, rows, columns, reach) // lanes) / i)
    pieces = p.groups * f_blocks * -(-p.N // batch)
    while pieces * -(-p.OH // rows) * -(-p.OW // columns) < pieces_of_output() * images:
        if images * rows * columns * batch <= 4 * lanes:
            break
        if images > 1:
            images = -(-images // 2)
        elif rows > 1:
            rows = -(-rows // 2)
        else:
            columns = -(-columns // 2)
    return images, rows, columns


def block_weight_grad(
    g: Geometry, dtype: np.dtype, axes: Axes, y: Strides, w: Strides, accumulate: bool
) -> weight_grad.Blocking:
    """Blocks of the weight-gradient nest, from the shape and the strides of dy and dw alone."""
    lanes = tiling.lanes(dtype.itemsize)
    # The strip and a panel of dy share the scratch of a worker; gathered taps take a half of the strip's part.
    budget = tiling.PANEL_BYTES * 3 // 4 // dtype.itemsize
    C, F = g.C // g.groups, g.F // g.groups
    # A 1 x 1 kernel uses what was packed once per pixel only, so its blocks have to be larger.
    most_C, most_F = (64, 128) if g.KH * g.KW > 1 else (256, 512)
    CB = max(1, min(C, round_up(-(-C // max(1, -(-C // most_C))), lanes)))
    c_blocks = g.groups * max(1, -(-C // CB))
    f_blocks = -(-F // most_F)
    if TURNING_COST * F > g.N * g.OH * g.OW:
        f_blocks = max(f_blocks, min(-(-PIECES // c_blocks), F // LEAST_FILTERS))
    FB = round_up(-(-F // f_blocks), tiling.MR)
    reach = ((g.KH - 1) * g.dilation[0] + 1) * ((g.KW - 1) * g.dilation[1] + 1)
    while CB > lanes and reach * CB > budget:
        CB = round_up(CB // 2, lanes)

    def strip(images: int, rows: int, columns: int) -> int:
        height = (rows - 1) * g.stride[0] + (g.KH - 1) * g.dilation[0] + 1
        return images * height * ((columns - 1) * g.stride[1] + (g.KW - 1) * g.dilation[1] + 1) * CB

    depth = tiling.DEPTH
    row, kernel = -(-CB * g.KW // lanes), -(-CB * g.KH * g.KW // lanes)
    gathers = C == CB and g.dilation[1] == 1 and (row * g.KH - kernel) * FB > GATHERING_COST * row * g.KH
    if gathers:
        depth = max(1, min(depth, budget // 2 // (kernel * lanes)))
        budget //= 2
    # Where the batch lies together, a vector of images first.
    images = min(g.N, lanes) if axes == LAYOUTS["HWCN"] and g.N > 0 else 1
    depth = max(1, depth // images)
    columns = even_blocks(g.OW, depth)
    parts = 1
    while columns > 1 and strip(images, 1, columns) > budget:
        parts += 1
        columns = even_blocks(g.OW, -(-depth // parts))
    rows = max(1, min(g.OH, depth // columns))
    while rows > 1 and strip(images, rows, columns) > budget:
        rows -= 1
    # The outputs of an image or of some rows of it, one after the other.
    one_run = columns == g.OW and y[2] == g.OW * y[3] or rows == 1
    near = 0 < y[3] <= 2 or (y[1] == 1 and y[3] * dtype.itemsize <= FAR_BYTES)
    in_place = images == 1 and one_run and near
    if rows == g.OH and columns == g.OW and images == 1 and not (in_place and rows * columns >= LEAST_RUN):
        images = max(1, min(g.N, depth // (rows * columns)))
        while images > 1 and strip(images, rows, columns) > budget:
            images -= 1
        in_place = in_place and images == 1
    blocks = -(-g.N // images) * -(-g.OH // rows) * -(-g.OW // columns)
    shares = max(1, min(blocks, -(-PIECES // (f_blocks * c_blocks))))
    line = kernel * lanes if gathers else round_up(CB * (g.KW if g.dilation[1] == 1 else 1), lanes)
    whole_tiles = F % tiling.MR in EXACT_ROWS and C % lanes == 0 and C % CB == 0 and g.groups == 1
    whole = g.KH * g.KW == shares == 1 and w[:2] == (C, 1) and whole_tiles and not accumulate
    strip_size = round_up(strip(images, rows, columns) + lanes, 64 // dtype.itemsize)
    gathered = (images * rows * columns + 1) * line if gathers else 0
    return weight_grad.Blocking(
        shares, FB, CB, images, rows, columns, line, strip_size, gathered, bool(in_place), bool(whole)
    )


def plan_products(plan: Plan, products: list[Product], names: tuple[str, ...]) -> Plan:
    """Plan of dense problems that run one after the other."""
    g, dtype = plan.geometry, plan.dtype
    parallel = enough_work(g.flops)
    products = [_flat(p) for p in products]
    blockings = [block_forward(p, dtype) for p in products]
    # The parts of a kernel are packed together, all or none.
    packed = any(b.packed for b in blockings)
    blockings = [replace(b, packed=packed) for b in blockings]
    launches = forward.launches(list(zip(products, blockings, strict=True)))
    scratch = max(max(b.scratch(p), weight_panels.stage_elements(p)) for p, b in zip(products, blockings, strict=True))
    panels = weight_panels.panel_elements(products[-1], g.KH * g.KW) if packed else 0
    program = Program(launches, names, {"panels": panels}, scratch, dtype, parallel)
    b = blockings[-1]  # the first one may be that of the zeros
    blocks = {"filters": b.MC, "channels": b.KC}
    if plan.name != "forward":
        blocks = {"channels": b.MC, "filters": b.KC, "phases": len(products)}
    blocks |= {"images": b.images * b.batch, "rows": b.rows, "columns": b.columns}
    return replace(plan, program=program, blocks=blocks, tile=_tile(dtype))


def plan_weight_grad(plan: Plan, x: Strides, y: Strides, start: int, w: Strides, names: tuple[str, ...]) -> Plan:
    """Plan of dw, which begins at element `start`; strides count elements of x, dy and dw."""
    g, dtype = plan.geometry, plan.dtype
    seen = _without_gaps(g)
    if seen is not g:
        x = (x[0], x[1], x[2] * g.stride[0] // seen.stride[0], x[3] * g.stride[1] // seen.stride[1])
    pointwise = seen.KH == seen.KW == 1 and seen.stride == (1, 1) and not any(seen.padding)
    if pointwise and (seen.H, seen.W) == (g.OH, g.OW) and all(a[2] == g.OW * a[3] for a in (x, y)):
        pixels = g.OH * g.OW  # a 1 x 1 kernel sees no rows
        seen = replace(seen, H=1, W=pixels, OH=1, OW=pixels)
    filters, channels = "filters", "channels"
    C, F = seen.C, seen.F
    fewer = seen.N * seen.OH * seen.OW * (C - F) > TURNING_COST * C * F
    if pointwise and fewer and 0 < x[3] <= 2 and seen.groups == 1:
        # What is turned costs time: better the smaller side, though dw comes out transposed. In groups each would be so
        # by itself, which the strides of dw do not say.
        seen = replace(seen, C=seen.F, F=seen.C)
        x, y, w, names = y, x, (w[1], w[0], w[2], w[3]), (names[1], names[0], *names[2:])
        filters, channels = channels, filters
    blocking = block_weight_grad(seen, dtype, plan.axes, y, w, plan.accumulate)
    buffers = {"partial": weight_grad.partial_elements(seen, blocking)}
    lanes = tiling.lanes(dtype.itemsize)
    scratch = max(blocking.scratch, weight_grad.stage_elements(g.KH * g.KW, lanes))
    values = weight_grad.arguments_of(seen, x, y, start, w, plan.accumulate)
    launches = weight_grad.launches(seen, values, blocking)
    program = Program(launches, names, buffers, scratch, dtype, enough_work(g.flops))
    blocks = {
        "shares": blocking.shares,
        filters: blocking.FB,
        channels: blocking.CB,
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
