"""Blocks of the weight gradient, from the shape alone: channels in the vector, or pixels, or filters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..geometry import LAYOUTS, Geometry
from ..kernels import tiling, weight_grad, weight_grad_filters, weight_grad_pixels, weight_grad_shares
from ..kernels.gemm import EXACT_ROWS
from ..kernels.problem import Product
from .base import PIECES, Axes, Strides, even_blocks, pieces_of_output, round_up, shares_of_sums
from .direct import odd_lines, strip_elements

# Multiply-adds that cost as much as copying a vector of the taps of a pixel beside the others.
GATHERING_COST = 10
# Outputs that are turned in the time that a partial sum takes to memory and back; filters that a turned x is worth;
# outputs that a sum is worth, where more of them would have to be packed.
TURNING_COST, LEAST_FILTERS, LEAST_RUN = 4, 64, 128
# Filters whose panels of dy stream by at a time: with AVX-512 and float32 128 KiB at most.
AT_ONCE = 8 * tiling.MR
# How far pixels of dy whose filters lie together may be apart, so that those of a block do not meet in one set of L1.
FAR_BYTES = 256
# Outputs of a filter in a block with pixels in the vector: a tile's rows are then 32 KiB, their sums 7% of the time.
PIXEL_BYTES = 4096
# The same of a 1 x 1 kernel, which reads them where they lie: the longer, the better the core follows them through
# memory (121>1@30x89 takes 23% less time). Where each is read once, or so many together, whose rows stay in L2.
AT_LENGTH = 16
RUN_BYTES = 16 * 1024
# Taps of a filter up to which rows of dy are read where they lie, a third as often as there are taps: 3>64@224 3x3
# takes 21% less time than with a copy for them, 3>32@32 7x7 a quarter more.
FEW_TAPS = 48
# Sums of a piece that stay in L2.
OWN_SUMS = 320 * 1024
# Outputs of a block with filters in the vector, so that those of a tile and their taps stay in L1.
FILTERS_DEPTH = 128


def block_weight_grad(
    g: Geometry, dtype: np.dtype, axes: Axes, y: Strides, w: Strides, accumulate: bool, threads: int
) -> weight_grad.Blocking:
    """Blocks of the weight-gradient nest for so many threads, from the shape and the strides of dy and dw alone."""
    lanes = tiling.lanes(dtype.itemsize)
    # The strip and a panel of dy share the scratch of a worker; gathered taps take a half of the strip's part.
    budget = tiling.PANEL_BYTES * 3 // 4 // dtype.itemsize
    C, F = g.C // g.groups, g.F // g.groups
    # A 1 x 1 kernel uses what was packed once per pixel only, so its blocks have to be larger.
    most_C, most_F = (64, 128) if g.KH * g.KW > 1 else (256, 512)
    CB = max(1, min(C, round_up(-(-C // max(1, -(-C // most_C))), lanes)))
    together = g.groups if axes == LAYOUTS["NHWC"] else 1
    c_blocks = -(-g.groups // together) * max(1, -(-C // CB))
    f_blocks = -(-F // most_F)
    if TURNING_COST * F > g.N * g.OH * g.OW:
        f_blocks = max(f_blocks, min(-(-PIECES // c_blocks), F // LEAST_FILTERS))
    FB = round_up(-(-F // f_blocks), tiling.MR)
    reach = ((g.KH - 1) * g.dilation[0] + 1) * ((g.KW - 1) * g.dilation[1] + 1)
    while CB > lanes and reach * CB > budget:
        CB = round_up(CB // 2, lanes)
    # Vectors of a pixel's taps: of those that lie side by side, and of all of them.
    apart = g.KW if g.dilation[1] != 1 else 1
    runs, kernel = g.KH * apart * -(-CB * (g.KW // apart) // lanes), -(-CB * g.KH * g.KW // lanes)
    gathers = C == CB and (runs - kernel) * FB > GATHERING_COST * runs
    depth, lines, line = tiling.DEPTH, g.KH * apart, round_up(CB * (g.KW // apart), lanes)
    if gathers:
        lines, line = 1, (kernel | 1) * lanes  # so that the taps of pixels do not meet in one set of L1
        depth = max(1, min(depth, budget // 2 // line))
        budget //= 2
    pitch = weight_grad.pixel_pitch.py_func(CB, apart == g.KW, lanes)
    images, rows, columns, in_place = _block_of_outputs(g, dtype, axes, y, depth, budget // pitch)
    blocks = -(-g.N // images) * -(-g.OH // rows) * -(-g.OW // columns)
    sums = g.groups * round_up(F, tiling.MR) * max(1, -(-C // CB)) * lines * line
    shares = shares_of_sums(g.N * g.OH * g.OW, blocks, f_blocks * c_blocks, sums * dtype.itemsize)
    # How filters are cut moves no sum: for so many threads as there are.
    if not gathers:
        wanted = min(-(-pieces_of_output(threads) // (shares * c_blocks)), F * g.KH * g.KW // LEAST_FILTERS)
        FB = round_up(-(-F // max(-(-F // most_F), wanted)), tiling.MR)
    whole_tiles = F % tiling.MR in EXACT_ROWS and C % lanes == 0 and C % CB == 0 and g.groups == 1
    whole = bool(g.KH * g.KW == shares == 1 and w[:2] == (C, 1) and whole_tiles and not accumulate)
    # One share of a kernel of several taps stays in scratch until it is turned: as partial sums it would go to memory
    # and come back, a third of the time of 512>512@14 3x3/2.
    own, stage = 0, 0
    filters = OWN_SUMS // dtype.itemsize // (lines * line) // tiling.MR * tiling.MR
    taps_follow = w[2:] == (g.KW, 1) and not accumulate
    if shares == together == 1 < g.KH * g.KW and taps_follow and not gathers and filters >= LEAST_FILTERS:
        FB = min(FB, filters)
        own, stage = FB * lines * line + lanes, weight_grad_shares.stage_elements(g.KH * g.KW, lanes)
    strip = round_up(strip_pixels(g, images, rows, columns) * pitch + lanes, 64 // dtype.itemsize)
    gathered = (images * rows * columns + 1) * line if gathers else 0
    # Where all pixels of a block are at one distance, panels of dy stream by: packed ones, or rows of pixels if those
    # of a tile fit L1. Not panels that lie side by side in one line.
    fits = images * rows * columns * tiling.VECTORS * tiling.VECTOR_BYTES <= tiling.L1_BYTES
    streams = (gathers or g.KH * g.KW == 1) and (not in_place or (fits and y[1] != 1))
    at_once = min(FB, AT_ONCE) if streams else tiling.MR
    return weight_grad.Blocking(
        shares, together, FB, CB, images, rows, columns, line, strip, gathered, at_once, in_place, whole, own, stage
    )


def strip_pixels(p: Geometry | Product, images: int, rows: int, columns: int) -> int:
    """Pixels of x that so many outputs look at."""
    height = (rows - 1) * p.stride[0] + (p.KH - 1) * p.dilation[0] + 1
    return images * height * ((columns - 1) * p.stride[1] + (p.KW - 1) * p.dilation[1] + 1)


def _block_of_outputs(
    g: Geometry, dtype: np.dtype, axes: Axes, y: Strides, depth: int, most: int
) -> tuple[int, int, int, bool]:
    """(images, rows, columns) of about `depth` outputs, `most` pixels of a strip, and whether dy is read in place."""
    # Where the batch lies together, a vector of images first; several of a 1 x 1 kernel, whose pixels are not looked at
    # again: what memory brings with a line is used at once, and 64>64@56 1x1 takes 0.76 of the time.
    images = 1
    if axes == LAYOUTS["HWCN"] and g.N > 0:
        images = even_blocks(g.N, (4 if g.KH * g.KW == 1 else 1) * tiling.lanes(dtype.itemsize))
    depth = max(1, depth // images)
    columns = even_blocks(g.OW, depth)
    parts = 1
    while columns > 1 and strip_pixels(g, images, 1, columns) > most:
        parts += 1
        columns = even_blocks(g.OW, -(-depth // parts))
    rows = max(1, min(g.OH, depth // columns))
    while rows > 1 and strip_pixels(g, images, rows, columns) > most:
        rows -= 1
    # The outputs of an image or of some rows of it, one after the other.
    one_run = columns == g.OW and y[2] == g.OW * y[3] or rows == 1
    near = 0 < y[3] <= 2 or (y[1] == 1 and y[3] * dtype.itemsize <= FAR_BYTES)
    in_place = bool(images == 1 and one_run and near)
    if rows == g.OH and columns == g.OW and images == 1 and not (in_place and rows * columns >= LEAST_RUN):
        images = max(1, min(g.N, depth // (rows * columns)))
        while images > 1 and strip_pixels(g, images, rows, columns) > most:
            images -= 1
        in_place = in_place and images == 1
    return images, rows, columns, in_place


def block_pixels(p: Product, dtype: np.dtype, axes: Axes) -> weight_grad_pixels.Blocking:
    """Blocks of the nest with pixels in the vector, from the shape alone."""
    if axes == LAYOUTS["NCHW"] and p.pointwise and (min(p.C, p.F) <= tiling.VECTORS or p.C + p.F <= AT_LENGTH):
        at_length = _block_pixels(p, dtype, axes, RUN_BYTES)
        if has_room(at_length, p, dtype):
            return at_length
    return _block_pixels(p, dtype, axes, PIXEL_BYTES)


def has_room(b: weight_grad_pixels.Blocking | weight_grad_filters.Blocking, p: Product, dtype: np.dtype) -> bool:
    """Whether scratch has room for x and dy, as arrays whose rows lie apart need it."""
    packed = replace(b, in_place=False)
    if isinstance(packed, weight_grad_pixels.Blocking):
        packed = replace(packed, dy_in_place=False)
    return packed.scratch(p) <= tiling.PANEL_BYTES // dtype.itemsize


def _block_pixels(p: Product, dtype: np.dtype, axes: Axes, size: int) -> weight_grad_pixels.Blocking:
    """Blocks of so many bytes of outputs of a filter."""
    lanes, line = tiling.lanes(dtype.itemsize), 64 // dtype.itemsize
    joined = axes == LAYOUTS["NCHW"] and p.KH == p.KW == 1
    most = size // dtype.itemsize
    batch = even_blocks(p.N, 4 * lanes) if axes == LAYOUTS["HWCN"] else 1
    columns = even_blocks(p.OW, most // batch)
    row = columns * batch if joined or batch > 1 else round_up(columns, lanes)
    rows = even_blocks(p.OH, max(1, most // row)) if columns == p.OW else 1
    images = 1
    if rows == p.OH and columns == p.OW and batch == 1:
        images = max(1, min(p.N, most // (rows * row)))
    blocks = -(-p.N // (images * batch)) * -(-p.OH // rows) * -(-p.OW // columns)
    strip_pitch = odd_lines(strip_elements(p, images, rows, columns, batch) + lanes, line)
    panel_pitch = odd_lines(images * rows * row + lanes, line)
    room = tiling.PANEL_BYTES // dtype.itemsize - weight_grad_pixels.FILTERS * panel_pitch
    CB = p.C
    if CB * strip_pitch > room:
        CB = max(1, room // strip_pitch // weight_grad_pixels.FILTERS) * weight_grad_pixels.FILTERS
    taps = p.C * p.KH * p.KW
    turned = whole_tiles(taps, p.F) < whole_tiles(p.F, taps)
    x_runs, dy_runs = (s[3] == 1 and (s[2] == p.OW or rows == 1) for s in (p.x_strides, p.y_strides))
    in_place = joined and p.pointwise and x_runs and dy_runs
    rows_lie = dy_runs if joined else p.y_strides[3] == 1
    dy_in_place = in_place or (batch == 1 and rows_lie and taps <= FEW_TAPS)
    b = weight_grad_pixels.Blocking(
        1, CB, images, rows, columns, batch, strip_pitch, panel_pitch, turned, joined, in_place, dy_in_place
    )
    size = p.groups * b.sums(p) * dtype.itemsize
    return replace(b, shares=shares_of_sums(p.N * p.OH * p.OW, blocks, p.groups, size))


def block_filters(p: Product, dtype: np.dtype) -> weight_grad_filters.Blocking:
    """Blocks of the nest with filters in the vector, from the shape and the strides of dy alone."""
    lanes, line = tiling.lanes(dtype.itemsize), 64 // dtype.itemsize
    depth = FILTERS_DEPTH
    columns = even_blocks(p.OW, depth)
    rows = max(1, min(p.OH, depth // columns))
    images = max(1, min(p.N, depth // (rows * columns))) if (rows, columns) == (p.OH, p.OW) else 1
    blocks = -(-p.N // images) * -(-p.OH // rows) * -(-p.OW // columns)
    _, y_f, y_h, y_w = p.y_strides
    one_run = rows == 1 or (columns == p.OW and y_h == p.OW * y_w)
    one_run = one_run and (images == 1 or p.y_strides[0] == p.OH * y_h)
    in_place = bool(y_f == 1 and one_run and p.F % lanes == 0)
    strip = round_up(strip_pixels(p, images, rows, columns) * p.C + lanes, line)
    b = weight_grad_filters.Blocking(1, images, rows, columns, in_place, round_up(p.F, lanes), strip)
    size = p.groups * b.sums(p) * dtype.itemsize
    return replace(b, shares=shares_of_sums(p.N * p.OH * p.OW, blocks, p.groups, size))


def whole_tiles(rows: int, columns: int) -> int:
    """Elements of the register tiles, with pixels in the vector, that have so many rows and columns.

    Those of 2 rows take as long as 4 would with as many products to a load as others have, those of 4 as 6.
    """
    whole, tail = divmod(rows, tiling.MR)
    rows_of_tail = 0 if tail == 0 else 4 if tail <= 2 else 6 if tail <= 4 else tiling.MR
    return (whole * tiling.MR + rows_of_tail) * round_up(columns, tiling.VECTORS)
