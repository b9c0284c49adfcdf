"""What the ways to compute dense problems cost: what :mod:`.dense` compares.

In multiply-adds of vectors, of an image of a group, from the shape and the layout alone: others have to get the same
bits in any batch, on any arrays, for any number of threads. A model of counts, each with a price: of products, in whole
vectors and register tiles; of what is copied, turned and written.

Fitted on Zen 5 to 2,500 random layers of all layouts, y and dx: what the costs choose there takes 1.3% longer than the
fastest of two to five ways, and 2.6% with AVX2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from math import prod

from ..geometry import LAYOUTS
from ..kernels import tiling
from ..kernels.problem import Product
from ..kernels.tiling import PRICE
from . import channels_last, direct
from .base import Plan, round_up, steps

# With pixels in the vector: of a row of pixels that is copied or written, of each vector of it that is read and
# written, and of an element that is written alone, as those of dx at a stride are.
ROW, READ, WRITE, ALONE = 2.5 * PRICE, 9 * PRICE, 9.5 * PRICE, 4.5 * PRICE
# The same where channels lie together: of a vector of a pixel's channels that is turned, of whole vectors of pixels,
# and of its filters. Half a vector is turned as fast as half of one, here and below.
READ_TURNED, WRITE_TURNED = 12 * PRICE, 28 * PRICE
# With filters in the vector: of a vector of channels that is turned, and of one of filters; the same where channels lie
# together.
TURN, TURN_BACK, COPY, ADD = 12 * PRICE, 21 * PRICE, 5.5 * PRICE, 3 * PRICE
# There, of a pixel whose last vector has room for more.
PARTIAL = 20 * PRICE
# Of a vector of the weight that is packed, once for a batch, and more if L2 does not hold them; and with pixels in the
# vector, where it is turned for dx.
PACK, PACK_FAR, PACK_TURNED = 6 * PRICE, 8 * PRICE, 36 * PRICE
# Of a block of pixels, with all that is done once for it: a large part of small maps' time. Blocks of images that lie
# side by side are many images each.
BLOCK = 1850 * PRICE
# A product of one or two rows has few sums at a time, and waits for each.
FEW_ROWS = 8 / 3
# What taps take longer by themselves than their products and copies are expected to. Of the start of each, and of a
# weight that it reads, a cache line each, both once for a batch.
OF_TAPS, START, WEIGHT = 1.65, 1000, 3
# What a second level of cache has room for.
L2_BYTES = 2 * tiling.PANEL_BYTES
# Images of a batch, and where they lie side by side: any would do, but the choice, and the bits of an image, may not
# depend on the batch that it is in.
IMAGES, SIDE_BY_SIDE = 4, 64

# What a way costs, and what plans it.
Way = tuple[float, Callable[[], Plan]]


def by_pixels(plan: Plan, products: list[Product]) -> float:
    """What the problems cost with pixels in the vector: with images there, where they lie side by side."""
    usual = _usual(plan, products)
    cost = sum(_by_pixels(plan, direct.flat(p)) for p in usual)
    if usual and (pixels := usual[0].pixels) and sum(p.OH * p.OW for p in usual) < prod(pixels.extents):
        # Pixels that no phase of dx has are zeros, which are written first, to all.
        rows, columns = pixels.extents
        batch = 4 * tiling.lanes(plan.dtype.itemsize) if plan.axes == LAYOUTS["HWCN"] else 1
        cost += rows * _written(plan, replace(usual[0], pixels=None), columns, batch) / batch
    return cost


def by_filters(plan: Plan, products: list[Product], skips: bool) -> float:
    """What they cost with filters in the vector; `skips`: without products with the padding."""
    cost, lanes, in_rows = 0.0, tiling.lanes(plan.dtype.itemsize), plan.axes == LAYOUTS["NCHW"]
    for whole, parts in channels_last.groups(_usual(plan, products)):
        b = channels_last.block(whole, plan.dtype, 1, skips)
        vectors, taps, pixels = -(-whole.F // lanes), sum(p.KH * p.KW for p in parts), whole.OH * whole.OW
        weight_bytes = whole.groups * whole.C * whole.F * taps * plan.dtype.itemsize
        pack = PACK + PACK_FAR * max(0.0, 1 - L2_BYTES / max(1, weight_bytes))
        cost += (sum(channels_last.products(p, b) for p in parts) + pack * taps * whole.C / whole.N) * vectors
        if not in_rows:
            cost += ADD * vectors * pixels + (PARTIAL * pixels if whole.F % lanes else 0)
        else:  # those of all phases of dx together
            cost += TURN_BACK * vectors * (prod(whole.pixels.extents) if whole.pixels else pixels)
        if b.flat:
            continue
        pieces = -(-whole.F // b.MC)  # of filters, each of which copies x
        cost += BLOCK * pieces * -(-whole.OH // b.rows) * -(-whole.OW // b.columns) / b.images
        copied = prod(
            sum(channels_last.seen(whole, axis, size) * count for size, count in _cut(extent, block))
            for axis, (extent, block) in enumerate(((whole.OH, b.rows), (whole.OW, b.columns)))
        )
        # Pixels that lie apart are whole cache lines each.
        turned = TURN * round_up(whole.C, lanes // 2) / lanes * whole.x_strides[3]
        cost += pieces * copied * (turned if in_rows else COPY * -(-whole.C // lanes))
    return cost


def by_taps(plan: Plan, taps: list[Product]) -> float:
    """What taps cost as problems of their own, whose results are added up."""
    last = plan.axes == LAYOUTS["NHWC"]
    started = sum(START + WEIGHT * p.C * p.F for p in taps) / _images(plan)
    return started + OF_TAPS * (by_filters(plan, taps, False) if last else by_pixels(plan, taps))


def rows_cost(rows: int) -> float:
    """What a product of one vector with so many rows costs: the tail's register tile does fewer at a time."""
    whole, left = divmod(rows, tiling.MR)
    if left <= 2:
        return whole * tiling.MR + (FEW_ROWS if left else 0)
    return whole * tiling.MR + (4 if left <= 4 else tiling.MR)


def written_apart(products: list[Product]) -> bool:
    """Whether outputs are pixels at a stride, those of phases of dx, which are written one by one."""
    return any(p.pixels is not None and p.pixels.every[1] > 1 for p in products)


def _images(plan: Plan) -> int:
    """Images of a batch."""
    return SIDE_BY_SIDE if plan.axes == LAYOUTS["HWCN"] else IMAGES


def _usual(plan: Plan, products: list[Product]) -> list[Product]:
    """The problems in a usual batch and on new arrays, without what an added dx does not write, its zeros."""
    usual = []
    for p in products:
        if p.C * p.OH * p.OW > 0:
            p = replace(p, N=_images(plan))
            shapes = (p.groups * p.C, p.H, p.W), (p.groups * p.F, p.OH, p.OW)
            x, y = (steps(plan.axes, (p.N, *shape)) for shape in shapes)
            usual.append(replace(p, x_strides=x, y_strides=y))
    return usual


def _cut(extent: int, block: int) -> Iterator[tuple[int, int]]:
    """(size, count) of the blocks of an extent: the whole ones, and what is left."""
    whole, left = divmod(extent, block)
    return ((size, count) for size, count in ((block, whole), (left, 1)) if size * count > 0)


def _by_pixels(plan: Plan, p: Product) -> float:
    """What one problem costs."""
    b, reach, taps = direct.block_forward(p, plan.dtype, 1), (p.reach(0), p.reach(1)), p.KH * p.KW
    lanes = tiling.lanes(plan.dtype.itemsize)
    pieces = -(-p.F // b.MC)  # of filters, each of which copies x
    multiplied = sum(rows_cost(size) * count for size, count in _cut(p.F, b.MC))
    if b.group:
        multiplied += direct.COPY_COST * pieces
    elif taps > 1:
        multiplied *= direct.UNALIGNED
    cost = PACK_TURNED * taps * p.C * p.F / lanes if plan.name == "input gradient" else 0.0
    if b.flat:  # pixels of all images are multiplied as one row
        for columns, count in _cut(p.N * p.OW, b.columns):
            cost += (BLOCK * pieces + p.C * multiplied * -(-columns // lanes)) * count
        return cost / p.N + pieces * _read(plan, p, p.OW, 1) + _written(plan, p, p.OW, 1)
    blocks = _cut(p.N, b.images * b.batch), _cut(p.OH, b.rows), _cut(p.OW, b.columns)
    for (images, runs), (rows, above), (columns, beside) in product(*blocks):
        batch = min(images, b.batch)
        images //= batch
        pixels = direct.pixels_of_block(images, rows, columns, (0, 0) if b.group else reach) * batch
        of_block = p.C * taps * multiplied * -(-pixels // lanes)
        if not b.x_in_place:
            of_block += pieces * images * (rows + reach[0]) * _read(plan, p, columns + reach[1], batch)
        of_block += images * rows * _written(plan, p, columns, batch)
        of_block += BLOCK * pieces if batch == 1 else 0
        cost += of_block * runs * above * beside
    return cost / p.N


def _read(plan: Plan, p: Product, columns: int, batch: int) -> float:
    """Copying a row of so many pixels of all channels to the strip of each phase."""
    lanes = tiling.lanes(plan.dtype.itemsize)
    if plan.axes == LAYOUTS["NHWC"]:
        columns = round_up(columns, lanes)
        return p.phases(0) * columns * p.phases(1) * READ_TURNED * round_up(p.C, lanes // 2) / lanes
    runs = columns if plan.axes == LAYOUTS["HWCN"] else 1
    vectors = -(-columns * batch // runs // lanes)
    return p.phases(0) * p.C * runs * (ROW * p.phases(1) + READ * p.stride[1] * vectors)


def _written(plan: Plan, p: Product, columns: int, batch: int) -> float:
    """Writing a row of so many pixels of all filters."""
    lanes = tiling.lanes(plan.dtype.itemsize)
    if plan.axes == LAYOUTS["NHWC"]:
        return round_up(columns, lanes // 2) * WRITE_TURNED * round_up(p.F, lanes // 2) / lanes
    if plan.axes == LAYOUTS["HWCN"]:
        return p.F * columns * (ROW + WRITE * -(-batch // lanes))
    return p.F * (ALONE * columns if written_apart([p]) else ROW + WRITE * -(-columns // lanes))
