"""Dense problems, of which y is one and dx as many as it has phases: their nest, and the padding left out.

With 3 x 3 taps 24 pixels apart, on 28 x 28, four products in five are with a zero of the padding. The outputs of a tap
that read a pixel are a rectangle. Two ways compute no others:

- Tap by tap: on its rectangle a tap is a 1 x 1 kernel, whose result is added to what other taps left. x is copied, and
  y read and written, once for each tap; dw has sums of its own for each.
- In the nest with filters in the vector, which goes from tap to tap, and whose sums stay in scratch: rows of outputs
  that a tap of theirs has no use for are left out, and columns where that pays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import inf, prod

import numpy as np

from ..geometry import LAYOUTS
from ..kernels import tiling
from ..kernels.launch import Address
from ..kernels.problem import Part, Product
from . import channels_last, direct, winograd
from .base import Axes, Plan, Strides, contiguous, nchw, rectangle, round_up

# Costs, in the time of a multiply-add of vectors: of a row of pixels that is copied, or added to y, and of each vector
# of it; with channels together, of a vector of a pixel that is copied, and of one that is added.
ROW, VECTOR, COPY_LAST, ADD_LAST, TURN = 10, 14, 15, 22, 30
# Of turning a vector of dx that all phases have together, fitted to 70 random layers on Zen 4: what is chosen with it
# takes 5% longer than the fastest of four ways would.
TURN_TOGETHER = 16
# Of an element that is written alone, as those of dx at a stride are.
ALONE = 4
# By how much a 1 x 1 kernel at a stride has to be expected to be faster with filters in the vector: 50 random layers
# then take 2% longer than the faster of both ways would, and 5.4% if none has them there. 488>16@27x15 takes 0.58.
POINTS = 1.2
# Most of the products that may be left, unless taps reach so far, in outputs; and the share of the time from which on
# leaving out the others is expected to be faster, in dw too: 13 random layers of y and dx between 0.9 and this take
# 0.92 of the time, 26 above it 1.03.
FEW_PRODUCTS, FAR, SURE = 0.9, 16, 0.96
# The share of the nest's time that taps have to be expected in: what this chooses on 250 random layers takes 2% longer
# than the fastest of three ways, 5% if their costs are compared as they are.
TAPS = 0.5
# A batch whose blocks are as large as any: the choice, and the bits, are those of an image in every batch.
ENDLESS = 1 << 20


def corner(p: Product, tap: tuple[int, int]) -> tuple[int, int]:
    """Row and column of x that the first output of :func:`rectangle` reads."""
    first = [outputs.start for outputs in rectangle(p, tap)]
    row, column = (p.offset[i] + tap[i] * p.dilation[i] + first[i] * p.stride[i] for i in (0, 1))
    return row, column


def products_left(p: Product) -> float:
    """The share of the products that are not with the padding."""
    taps = list(product(range(p.KH), range(p.KW)))
    seen = sum(len(rows) * len(columns) for rows, columns in (rectangle(p, tap) for tap in taps))
    return seen / max(1, len(taps) * p.OH * p.OW)


def may_pay(p: Product) -> bool:
    """Whether there are products to save, or outputs look so far around them that copies of x are large."""
    return max(p.reach(0), p.reach(1)) >= FAR or products_left(p) <= FEW_PRODUCTS


def _has_choice(plan: Plan, products: list[Product]) -> bool:
    """Whether products may be left out, and there are enough of them."""
    if plan.algorithm != "direct" or not products:  # dx that no output reads has none
        return False
    p = max(products, key=lambda p: p.KH * p.KW * p.C)
    return p.KH * p.KW * p.C > 0 and may_pay(p)


def cost_in_nest(plan: Plan, products: list[Product]) -> float:
    """What an image of a group costs with filters in the vector, without padding or with all phases of dx together.

    inf if neither is a choice.
    """
    without = _cost_without(plan, products) if _has_choice(plan, products) else inf
    if _never_by_filters(plan, products) or not channels_last.phases(products):
        return without
    return min(without, _cost_by_filters(plan, products, False))


def _cost_without(plan: Plan, products: list[Product]) -> float:
    """What an image of a group costs in the nest with filters in the vector that leaves out padding."""
    return inf if _never_by_filters(plan, products) else _cost_by_filters(plan, products, True)


def without_padding(plan: Plan, products: list[Product]) -> Plan | None:
    """Plan of y or dx without products with the padding, where it is expected to be faster.

    From the layout and the shape alone: tap by tap, or in the nest with filters in the vector. There, adding to dx is
    one addition.
    """
    if not _has_choice(plan, products):
        return None
    in_nest, by_taps, apart = _cost_without(plan, products), inf, []
    # Sums of sums have less rounding than the bound of Winograd's, 3 times direct's, has room for.
    if not winograd.bounds(plan.name, plan.geometry, plan.dtype, plan.axes):
        apart = [q for p in products for q in (_taps_of(p) if p.C > 0 else [p])]
        by_taps = _cost(plan, apart)
    skips = TAPS * in_nest < by_taps
    if (in_nest if skips else by_taps) > SURE * _cost(plan, products):
        return None
    if skips:
        reason = f"{plan.reason}; padding skipped"
        return channels_last.plan_products(replace(plan, reason=reason), products, skips=True)
    return None if plan.accumulate else plan_products(replace(plan, reason=f"{plan.reason}; tap by tap"), apart)


def plan_products(plan: Plan, products: list[Product]) -> Plan:
    """Plan of dense problems that run one after the other, with pixels or with filters in the vector."""
    if _by_filters(plan, products):
        return channels_last.plan_products(plan, products)
    return direct.plan_products(plan, products)


def _taps_of(p: Product) -> Iterator[Product]:
    """The problems of one tap each whose results add up to that of `p`: the first one writes all outputs."""
    everything = range(p.OH), range(p.OW)
    kernel = list(product(range(p.KH), range(p.KW)))
    first = next((tap for tap in kernel if rectangle(p, tap) == everything), None)
    if first is None:
        nothing = replace(p, C=0, KH=0, KW=0, stride=(1, 1), offset=(0, 0), dilation=(1, 1))
        yield replace(nothing, part=None, pixels=None)
    for tap in sorted(kernel, key=lambda tap: tap != first):
        if all(rectangle(p, tap)):
            yield _of_tap(p, tap, tap != first)


def _of_tap(p: Product, tap: tuple[int, int], add: bool) -> Product:
    """The problem of a tap and its outputs."""
    (kh, kw), (rows, columns), (w_kh, w_kw) = tap, rectangle(p, tap), p.w_strides[3:]
    part = p.part or Part((p.KH, p.KW), (0, 0), (1, 1))
    (every_h, every_w), (h, w) = part.every, part.first
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
        offset=corner(p, tap),
        dilation=(1, 1),
        accumulate=add,
        part=Part(part.taps, (h + kh * every_h, w + kw * every_w), part.taps),
        pixels=None,
    )


def _written_apart(products: list[Product]) -> bool:
    """Whether outputs are pixels at a stride, those of phases of dx, which are written one by one."""
    return any(p.pixels is not None and p.pixels.every[1] > 1 for p in products)


def _never_by_filters(plan: Plan, products: list[Product]) -> bool:
    """Whether filters stay out of the vector: in HWCN, and where turned pixels of dx would be written one by one."""
    if plan.axes == LAYOUTS["NCHW"]:
        return _written_apart(products) and not channels_last.phases(products)
    return plan.axes == LAYOUTS["HWCN"]


def _by_filters(plan: Plan, products: list[Product]) -> bool:
    """Whether filters go to the vector, from the layout and the shape alone."""
    if _never_by_filters(plan, products):
        return False
    if plan.axes == LAYOUTS["NCHW"]:
        strided = len(products) == 1 and products[0].KH == products[0].KW == 1 < max(products[0].stride)
        if strided or channels_last.phases(products):
            surely = POINTS if strided else 1.0
            return surely * _cost_by_filters(plan, products, False) < _cost_by_pixels(plan, products)
    return all(channels_last.fits(plan.axes, p, plan.dtype) for p in products)


def _cost(plan: Plan, products: list[Product]) -> float:
    """What an image of a group costs."""
    if _by_filters(plan, products):
        return _cost_by_filters(plan, products, False)
    return _cost_by_pixels(plan, products)


def _usual(plan: Plan, products: list[Product]) -> list[Product]:
    """The problems in a large batch and on new arrays: as others have to get the same bits.

    Without what an added dx does not write, its zeros.
    """
    usual = []
    for p in products:
        if p.C > 0:
            p = replace(p, N=ENDLESS)
            shapes = (p.groups * p.C, p.H, p.W), (p.groups * p.F, p.OH, p.OW)
            x, y = (steps(plan.axes, (p.N, *shape)) for shape in shapes)
            usual.append(replace(p, x_strides=x, y_strides=y))
    return usual


def steps(axes: Axes, shape: tuple[int, int, int, int]) -> Strides:
    """Strides of a new array of N, C, H, W, in elements, in this order."""
    return nchw(contiguous(tuple(shape[i] for i in np.argsort(axes))), axes)


def _cost_by_pixels(plan: Plan, products: list[Product]) -> float:
    """What an image of a group costs with pixels in the vector."""
    cost, lanes = 0.0, tiling.lanes(plan.dtype.itemsize)
    for p in _usual(plan, products):
        reach = p.reach(0), p.reach(1)
        b = direct.block_forward(p, plan.dtype, 1)
        pixels = direct.pixels_of_block(b.images, b.rows, b.columns, (0, 0) if b.group else reach) * b.batch
        vectors = -(-pixels // lanes)
        of_block = float(p.C * p.KH * p.KW * round_up(p.F, 4) * vectors)
        of_block *= 1 if b.group or p.KH * p.KW <= 1 else direct.UNALIGNED
        of_block += direct.COPY_COST * vectors * p.C * p.KH * p.KW if b.group else 0
        rows, columns = b.rows + reach[0], (b.columns + reach[1]) * b.batch
        read = ROW * p.phases(1) + VECTOR * p.stride[1] * -(-columns // lanes)
        of_block += p.phases(0) * p.C * b.images * rows * read
        columns = b.columns * b.batch
        row = ALONE * columns if _written_apart([p]) else ROW + VECTOR * -(-columns // lanes)
        of_block += p.F * b.images * b.rows * row
        cost += of_block * -(-p.OH // b.rows) * -(-p.OW // b.columns) / (b.images * b.batch)
    return cost


def _cost_by_filters(plan: Plan, products: list[Product], skips: bool) -> float:
    """What an image of a group costs with filters in the vector."""
    cost, lanes = 0.0, tiling.lanes(plan.dtype.itemsize)
    copy, write = (TURN, TURN) if plan.axes == LAYOUTS["NCHW"] else (COPY_LAST, ADD_LAST)
    for whole, parts in channels_last.groups(_usual(plan, products)):
        b = channels_last.block(whole, plan.dtype, 1, skips)
        vectors, blocks = -(-whole.F // lanes), -(-whole.OH // b.rows) * -(-whole.OW // b.columns)
        if whole.pixels:
            cost += min(write, TURN_TOGETHER) * vectors * prod(whole.pixels.extents)
        else:
            cost += write * vectors * whole.OH * whole.OW
        if b.flat:
            cost += whole.OH * whole.OW * vectors * whole.C
            continue
        cost += sum(channels_last.products(p, b) + channels_last.packing(p) for p in parts) * vectors
        copied = channels_last.seen(whole, 0, b.rows) * channels_last.seen(whole, 1, b.columns)
        cost += blocks * copy * copied * -(-whole.C // lanes)
    return cost
