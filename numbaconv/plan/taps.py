"""Each tap by itself: a kernel whose taps often meet the padding, as a 1 x 1 problem for each of them.

With 3 x 3 taps 24 pixels apart, on 28 x 28, four products in five are with a zero of the padding. The outputs of a tap
that read a pixel are a rectangle, on which it is a 1 x 1 kernel. In y and dx its result is added to what other taps
left: x is copied, and y read and written, once for each tap. In dw every tap has sums of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np

from ..kernels import tiling
from ..kernels.launch import Address
from ..kernels.problem import Part, Product
from ..kernels.product import rows_read
from . import channels_last, direct, winograd
from .base import Plan, round_up, upright

# Costs, in the time of a multiply-add of vectors: of a row of pixels that is copied, or added to y, and of each vector
# of it; with channels together, of a vector of a pixel that is copied, and of one that is added.
ROW, VECTOR, COPY_LAST, ADD_LAST = 10, 14, 15, 22
# Most of the products that may be left, unless taps reach so far, in outputs; and the share of the time from which on
# taps are expected to be faster.
FEW_PRODUCTS, FAR, SURE = 0.9, 16, 0.9
# A batch whose blocks are as large as any: the choice, and the bits, are those of an image in every batch.
ENDLESS = 1 << 20


def outputs(extent: int, most: int, first: int, step: int) -> range:
    """The outputs i < most with 0 <= first + i * step < extent."""
    low = min(max(0, -(first // step)), most)
    return range(low, min(max(low, (extent - 1 - first) // step + 1), most))


def rectangle(p: Product, tap: tuple[int, int]) -> tuple[range, range]:
    """Rows and columns of the outputs that read a pixel of x with a tap."""
    kh, kw = tap
    rows = outputs(p.H, p.OH, p.offset[0] + kh * p.dilation[0], p.stride[0])
    return rows, outputs(p.W, p.OW, p.offset[1] + kw * p.dilation[1], p.stride[1])


def products_left(p: Product) -> float:
    """The share of the products that are not with the padding."""
    taps = list(product(range(p.KH), range(p.KW)))
    seen = sum(len(rows) * len(columns) for rows, columns in (rectangle(p, tap) for tap in taps))
    return seen / max(1, len(taps) * p.OH * p.OW)


def may_pay(p: Product) -> bool:
    """Whether there are products to save, or outputs look so far around them that copies of x are large."""
    return max(p.reach(0), p.reach(1)) >= FAR or products_left(p) <= FEW_PRODUCTS


def by_taps(plan: Plan, products: list[Product]) -> list[Product] | None:
    """The problems of y or dx tap by tap, if they are expected to be faster: from the layout and the shape alone."""
    p = max(products, key=lambda p: p.KH * p.KW * p.C)
    if plan.algorithm != "direct" or plan.accumulate or p.KH * p.KW * p.C == 0 or not may_pay(p):
        return None
    # Sums of sums have less rounding than the bound of Winograd's, 3 times direct's, has room for.
    if winograd.bounds(plan.name, plan.geometry, plan.dtype, plan.axes):
        return None
    apart = [q for p in products for q in (_taps_of(p) if p.C > 0 else [p])]
    return apart if _cost(plan, apart) < SURE * _cost(plan, products) else None


def _taps_of(p: Product) -> Iterator[Product]:
    """The problems of one tap each whose results add up to that of `p`: the first one writes all outputs."""
    everything = range(p.OH), range(p.OW)
    kernel = list(product(range(p.KH), range(p.KW)))
    first = next((tap for tap in kernel if rectangle(p, tap) == everything), None)
    if first is None:
        yield replace(p, C=0, KH=0, KW=0, stride=(1, 1), offset=(0, 0), dilation=(1, 1), part=None)
    for tap in sorted(kernel, key=lambda tap: tap != first):
        if all(rectangle(p, tap)):
            yield _of_tap(p, tap, tap != first)


def _of_tap(p: Product, tap: tuple[int, int], add: bool) -> Product:
    """The problem of a tap and its outputs."""
    (kh, kw), (rows, columns), (w_kh, w_kw) = tap, rectangle(p, tap), p.w_strides[3:]
    part = p.part or Part((p.KH, p.KW), (0, 0), (1, 1))
    (every_h, every_w), (h, w) = part.every, part.first
    offset = [p.offset[i] + tap[i] * p.dilation[i] + (rows, columns)[i].start * p.stride[i] for i in (0, 1)]
    return replace(
        p,
        weight=Address(p.weight.name, p.weight.offset + kh * w_kh + kw * w_kw),
        w_strides=(*p.w_strides[:3], w_kh // every_h * part.taps[0], w_kw // every_w * part.taps[1]),
        bias=None if add else p.bias,
        y=Address(p.y.name, p.y.offset + rows.start * p.y_strides[2] + columns.start * p.y_strides[3]),
        OH=len(rows),
        OW=len(columns),
        KH=1,
        KW=1,
        offset=(offset[0], offset[1]),
        dilation=(1, 1),
        accumulate=add,
        part=Part(part.taps, (h + kh * every_h, w + kw * every_w), part.taps),
    )


def _cost(plan: Plan, products: list[Product]) -> float:
    """What an image of a group costs."""
    products = [replace(p, N=ENDLESS) for p in products]
    if all(channels_last.fits(plan.axes, p, plan.dtype) for p in products):
        return sum(_cost_by_filters(p, plan.dtype) for p in products)
    return sum(_cost_by_pixels(p, plan.dtype) for p in products)


def _cost_by_pixels(p: Product, dtype: np.dtype) -> float:
    """What an image costs with pixels in the vector."""
    lanes, reach = tiling.lanes(dtype.itemsize), (p.reach(0), p.reach(1))
    b = direct.block_forward(p, dtype, 1)
    pixels = direct.pixels_of_block(b.images, b.rows, b.columns, (0, 0) if b.group else reach) * b.batch
    vectors = -(-pixels // lanes)
    cost = float(p.C * p.KH * p.KW * round_up(p.F, 4) * vectors)
    cost *= 1 if b.group or p.KH * p.KW <= 1 else direct.UNALIGNED
    cost += direct.COPY_COST * vectors * p.C * p.KH * p.KW if b.group else 0
    rows, columns = b.rows + reach[0], (b.columns + reach[1]) * b.batch
    read = ROW * p.phases(1) + VECTOR * p.stride[1] * -(-columns // lanes)
    cost += p.phases(0) * p.C * b.images * rows * read
    cost += p.F * b.images * b.rows * (ROW + VECTOR * -(-b.columns * b.batch // lanes))
    return cost * -(-p.OH // b.rows) * -(-p.OW // b.columns) / (b.images * b.batch)


def _cost_by_filters(p: Product, dtype: np.dtype) -> float:
    """What an image costs with filters in the vector."""
    lanes = tiling.lanes(dtype.itemsize)
    p = upright(p)
    b = channels_last.block(p, dtype, 1)
    vectors, blocks = -(-p.F // lanes), -(-p.OH // b.rows) * -(-p.OW // b.columns)
    if b.flat:
        return float(p.OH * p.OW * vectors * (p.C + ADD_LAST))
    row = rows_read.py_func(b.columns) if b.by_rows or b.joined else b.row
    cost = b.rows * row * vectors * p.C * p.KH * p.KW
    cost += COPY_LAST * p.phases(0) * (b.rows + p.reach(0)) * b.row * p.stride[1] * -(-p.C // lanes)
    return float(blocks * (cost + ADD_LAST * b.rows * b.columns * vectors))
