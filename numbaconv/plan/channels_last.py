"""Blocks of the forward nest with filters in the vector, from the shape alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod

import numpy as np

from ..kernels import channels_last, tiling, weight_vectors
from ..kernels.launch import Program
from ..kernels.problem import Product, together
from ..kernels.product import rows_read
from .base import Plan, by_images, enough_work, even_blocks, pieces_of_output, rectangle, round_up, upright

# The sums of a block for its MC filters.
SUMS_BYTES = 192 * 1024
# Channels of a row of taps from which it is a product of its own: its part of the weight then fills half of L1.
LONG_ROW = 128
# What a product costs besides its multiply-adds: a vector of sums on its way to a register tile and back, and a pixel
# that is listed.
TILE, LISTED = 4 * tiling.PRICE, tiling.PRICE
# Phases of dx that are one problem: more of them have few pixels each, and all are in the arguments of a launch.
MOST_PHASES = 16
# What a product is deep, so that its part of the weight, times a register tile, stays in L1.
DEPTH_BYTES = 192 * 4


def block(p: Product, dtype: np.dtype, threads: int, skips: bool = False) -> channels_last.Blocking:
    """Blocks of one dense problem whose taps walk forwards, for so many threads; `skips`: without the padding."""
    lanes = tiling.lanes(dtype.itemsize)
    line = 64 // dtype.itemsize
    # Pixels of y for each output, those of all phases of dx: fewer filters have sums in as much memory, if they still
    # have many products with what is packed.
    spread = prod(p.pixels.every) if p.pixels else 1
    most_filters = max(tiling.FILTERS_VECTORS * lanes, tiling.MC // max(1, min(spread, p.KH * p.KW)))
    MC = round_up(even_blocks(p.F, most_filters), lanes)
    shares = p.groups * -(-p.F // MC)
    flat = _one_run(p) and spread == 1
    skips = skips and not flat
    joined = _joined(p) and not skips
    most = max(1, SUMS_BYTES // dtype.itemsize // ((MC if joined and not flat else most_filters) * spread))
    room = tiling.PANEL_BYTES // dtype.itemsize  # for the strip
    images = rows = 1
    CB, deepest = p.C, DEPTH_BYTES // dtype.itemsize

    def strip(images: int, rows: int, columns: int) -> int:
        return images * seen(p, 0, rows) * seen(p, 1, columns) * CB + lanes

    if flat:
        pixels = p.N * p.OH * p.OW
        wanted = -(-pixels // -(-pieces_of_output(threads) // shares))
        columns = max(1, min(most, wanted, room // max(1, p.C)) // tiling.FILTERS_MR) * tiling.FILTERS_MR
    else:
        columns = even_blocks(p.OW, most)
        rows = even_blocks(p.OH, max(1, most // columns)) if columns == p.OW else 1
        at_most = max(1, most // (rows * columns)) if (rows, columns) == (p.OH, p.OW) else 1
        if not joined:
            # Channels of as many pixels as have room for sums, whatever the batch is, since they decide the order of a
            # sum.
            CB = even_blocks(p.C, max(CB * room // strip(at_most, rows, columns), LONG_ROW), lanes)
            if p.pointwise:  # cut as it is where pixels of all images are one run, as a batch of one has them
                in_one_run = even_blocks(p.C, deepest)
                CB = max(in_one_run, CB // in_one_run * in_one_run)
        while columns > 1 and strip(1, 1, columns) > room:
            rows, columns = 1, -(-columns // 2)
        while rows > 1 and strip(1, rows, columns) > room:
            rows = -(-rows // 2)
        if (rows, columns) == (p.OH, p.OW):
            images = even_blocks(p.N, min(at_most, max(1, room // strip(1, rows, columns))))
        pieces = shares * -(-p.OH // rows) * -(-p.OW // columns)
        while pieces * -(-p.N // images) < pieces_of_output(threads) and images > 1:
            images = -(-images // 2)
        while shares * p.N * -(-p.OH // rows) * -(-p.OW // columns) < pieces_of_output(threads) and rows > 4:
            rows = -(-rows // 2)
    CB = max(1, CB)
    KC, taps = even_blocks(p.KW * CB, deepest), max(1, p.KW)
    if joined and not flat:
        KC = max(1, p.KH * p.KW * p.C)
    elif p.KW > 1 and p.dilation[1] != 1:  # whole taps, or parts of one
        KC, taps = (even_blocks(CB, deepest), 1) if CB > deepest else (deepest, deepest // CB)
    # Of one image: this decides the order of a sum, which may not depend on how many are in a block.
    one_by_one = even_blocks(CB, deepest)
    if skips and _of_taps(p, 1, 1, True, one_by_one) < _of_taps(p, 1, taps, True, KC):
        KC, taps = one_by_one, 1
    pitch = (-(-MC // line) | 1) * line
    pixels = images * rows * columns
    return channels_last.Blocking(
        MC=MC,
        CB=CB,
        KC=KC,
        images=images,
        rows=rows,
        columns=columns,
        flat=flat,
        joined=joined,
        taps=taps,
        skips=skips,
        strip=round_up(strip(images, rows, columns), line),
        pitch=pitch,
        sums=pixels * spread * pitch,
        listed=round_up(pixels + tiling.FILTERS_MR, 8),
    )


def seen(p: Product, axis: int, outputs: int) -> int:
    """Rows (axis 0) or columns (axis 1) of x that so many outputs look at."""
    return (outputs - 1) * p.stride[axis] + max(0, (p.KH, p.KW)[axis] - 1) * p.dilation[axis] + 1


def products(p: Product, b: channels_last.Blocking) -> float:
    """What the products of an image and a vector of filters cost, in multiply-adds of vectors."""
    if b.joined or b.flat:
        depth = p.KH * p.KW * p.C
        return p.OH * p.OW * (depth + TILE * -(-depth // b.KC))
    begun = TILE * p.OH * p.OW if b.skips else 0
    return begun + _of_taps(p, b.images, b.taps, b.skips, b.KC)


def _of_taps(p: Product, images: int, at_once: int, skips: bool, KC: int) -> float:
    """The same where so many taps of a row are one product; `skips`: of the outputs that they read a pixel for."""
    cost = 0.0
    for kh, kw in product(range(p.KH), range(0, p.KW, at_once)):
        rows, columns = rectangle(p, (kh, kw))
        pixels = (len(rows) if skips else p.OH) * (len(columns) if skips and at_once == 1 else p.OW)
        read: float = rows_read.py_func(images * pixels) / images
        depth = min(at_once, p.KW - kw) * p.C
        cost += read * (depth + TILE * -(-depth // KC)) + (LISTED * pixels if skips else 0)
    return cost


def _joined(p: Product) -> bool:
    """Whether all taps of an output are one product: short rows of taps that follow each other."""
    return 0 in (p.KH, p.C) or p.KW * p.C < LONG_ROW and (p.KW <= 1 or p.dilation[1] == 1)


def phases(products: list[Product]) -> list[Product]:
    """The phases of dx at a stride, which are one problem here: none where they are too many.

    Not what fills the pixels that no phase has, which are parts without taps then.
    """
    return [p for p in products if p.pixels is not None and 1 < prod(p.pixels.every) <= MOST_PHASES]


def groups(products: list[Product]) -> list[tuple[Product, list[Product]]]:
    """What is one problem in this nest, taps walking forwards: all phases of dx, or each of other problems."""
    if of_dx := phases(products):
        return [together([upright(p) for p in of_dx])]
    return [(p, [p]) for p in (_every_row_and_column(upright(replace(p, pixels=None))) for p in products)]


def plan_products(plan: Plan, products: list[Product], skips: bool = False) -> Plan:
    """Plan of dense problems that run one after the other; `skips` as in :func:`block`."""
    dtype = plan.dtype
    lanes = tiling.lanes(dtype.itemsize)
    several = groups(products)
    if len(several) > 1:
        several = groups(by_images(plan, products))
    blocks = [block(whole, dtype, plan.threads, skips) for whole, _ in several]
    launches, panels = [], 0
    for group, b in zip(several, blocks, strict=True):
        of_group, elements = channels_last.launches(*group, b, lanes)
        launches += of_group
        panels = max(panels, elements)
    scratch = max(b.scratch(dtype.itemsize) for b in blocks)
    taps = max(sum(p.KH * p.KW for p in parts) for _, parts in several)
    scratch = max(scratch, weight_vectors.stage_bytes(taps, lanes) // dtype.itemsize)
    parallel = enough_work(plan.geometry, dtype)
    program = Program(launches, plan.arrays, {"panels": panels}, scratch, dtype, parallel)
    b = blocks[-1]  # the first one may be that of the zeros
    sizes = {"filters": b.MC, "images": b.images, "rows": b.rows, "columns": b.columns}
    if plan.name != "forward":
        sizes = {"channels": b.MC, "phases": len(products), "images": b.images, "rows": b.rows, "columns": b.columns}
    tile = tiling.FILTERS_MR, tiling.FILTERS_VECTORS * lanes
    return replace(plan, reason=f"{plan.reason}; filters in the vector", program=program, blocks=sizes, tile=tile)


def _every_row_and_column(p: Product) -> Product:
    """A kernel of one row or column skips what its stride skips: stride 1 on every stride-th pixel."""
    strides, extents, stride = list(p.x_strides), [p.H, p.W], list(p.stride)
    for axis, taps in enumerate((p.KH, p.KW)):
        if taps == 1 and p.offset[axis] == 0 and stride[axis] > 1:
            extents[axis] = -(-extents[axis] // stride[axis])
            strides[2 + axis] *= stride[axis]
            stride[axis] = 1
    return replace(
        p,
        x_strides=(strides[0], strides[1], strides[2], strides[3]),
        H=extents[0],
        W=extents[1],
        stride=(stride[0], stride[1]),
    )


def _one_run(p: Product) -> bool:
    """Whether a 1 x 1 kernel sees pixels at one distance from each other, in x and in y, over all rows and images."""
    x_n, _, x_h, x_w = p.x_strides
    y_n, _, y_h, y_w = p.y_strides
    runs = all(
        (h == p.OW * w or p.OH == 1) and (n == p.OH * p.OW * w or p.N == 1)
        for n, h, w in ((x_n, x_h, x_w), (y_n, y_h, y_w))
    )
    return p.pointwise and runs and prod((p.N, p.OH, p.OW)) > 0
