"""Blocks of the forward nest, from the shape alone."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from ..kernels import forward, tiling, weight_panels
from ..kernels.launch import Program
from ..kernels.problem import Product
from .base import Plan, are_even, by_images, enough_work, even_blocks, pieces_of_output, round_up

# Filters whose multiply-adds cost as much as copying a vector from the strip to the panel, and what they cost on
# vectors that begin anywhere: less than 1.07 (64>64@56 3x3 is 6% faster on the strip), more than 1.01 (128>128@56
# 3x3/2 is 4% faster in a panel).
COPY_COST, UNALIGNED = 8, 1.05
# Filters from which on a block of NC_BYTES is large enough.
MANY_FILTERS = 64
# Products of a packed element, filters times taps, from which on packing it once more for other threads costs little.
LEAST_PRODUCTS = 64
# What a block costs besides its products, for each channel, in copies of a vector: 32>128@112 3x3 takes 14% longer in
# rows than in pairs of rows, which are fewer visits to the pages of x and y.
STARTS = 160
# What a vector costs more for each one that its register tile has less than others: 8 x 2 runs at 200 GF/s where 8 x 3
# does at 213.
NARROW = 0.06
# Outputs of a block for which reading the weight, or filters for which packing x, once more for a second piece of a
# thread does not pay: 512>512@14 3x3/2 on two threads takes 8% (y) and 10% (dx) longer in four pieces than in two.
FEW_OUTPUTS = 256
# Filters that a piece packs together where they lie so: whole cache lines, while the panels of KC channels stay in L2.
SIDE_BY_SIDE = 8 * tiling.MR
# Filters up to which a 1 x 1 kernel reads x where it lies; twice as many where a channel is small: 64>32@56 takes 10%
# less time, 88>24@72 20% more.
FEW_FILTERS, SMALL_CHANNEL = 2 * tiling.MR, 16 * 1024
# It does so from so many channels at a time, and so many bytes of each: what a core asks memory for ahead are a few
# long runs. Of a handful of filters, which only wait for memory, fewer and longer ones, that more filters would pay for
# with sums that do not stay near: 512>1@91x122 takes 0.6 of the time, 104>3@130 0.55.
RUNS, RUN_BYTES = 16, 4096
HANDFUL, RUNS_OF_HANDFUL, HANDFUL_BYTES = 4, 8, 48 * 1024


def block_forward(p: Product, dtype: np.dtype, threads: int) -> forward.Blocking:
    """Blocks of a forward nest for so many threads, from the shape alone.

    Where a panel of them has room for all channels, no sums wait for other channels, and blocks are twice as large:
    rows that two blocks look at are packed half as often. Few filters have few sums and little else to do with what is
    packed: their blocks are larger, if as many channels fit, since the error of a sum depends on where it is cut.
    """
    usual = _block_forward(p, dtype, tiling.NC_BYTES, threads)
    times = min(8, MANY_FILTERS // _filters(p)) if p.reach(0) > 0 else 1
    for larger in (8, 4, 2):
        if larger <= max(2, times):
            b = _block_forward(p, dtype, larger * tiling.NC_BYTES, threads)
            if b.KC >= (usual.KC if larger <= times else p.C):
                return b
    return usual


def _filters(p: Product) -> int:
    """Filters of a block, in whole register tiles."""
    return round_up(-(-p.F // -(-p.F // tiling.MC)), tiling.MR) if p.F else tiling.MR


def _block_forward(p: Product, dtype: np.dtype, outputs: int, threads: int) -> forward.Blocking:
    """Blocks of so many bytes of outputs of a filter."""
    lanes = tiling.lanes(dtype.itemsize)
    line = 64 // dtype.itemsize
    MC = _filters(p)
    shares = p.groups * -(-p.F // MC)
    batch_runs = p.x_strides[0] == 1 and p.x_strides[3] != 1 and p.x_strides[1] != 1
    batch = even_blocks(p.N, 4 * lanes) if batch_runs else 1
    one_row = p.pointwise and p.H == 1
    flat = one_row and batch == 1
    few = _few_filters(p, dtype)
    x_n, x_c, _, x_w = p.x_strides
    in_place = few and flat and x_w == 1 and min(x_n, x_c) >= 0
    taps = max(1, p.KH * p.KW)
    reach = p.reach(0), p.reach(1)
    waits = p.F <= HANDFUL and p.OH * p.OW * dtype.itemsize > SMALL_CHANNEL
    runs, run_bytes = (RUNS_OF_HANDFUL, HANDFUL_BYTES) if waits else (RUNS, RUN_BYTES)
    most = (run_bytes if in_place else outputs) // dtype.itemsize
    # The channels of a block decide the order of a sum, which depends on the shape of an image alone: found for a
    # batch without end, whose blocks are as large as any. Where the batch lies together, they are cut until they fit.
    endless = replace(p, N=1 << 20)
    group = 0
    if flat:
        pieces = -(-pieces_of_output(threads) // shares)
        fewest = -(-p.N * p.OW // min(most, max(round_up(-(-p.N * p.OW // pieces), lanes), 4 * lanes)))
        # Seven blocks keep one of two threads waiting for the last of them, eight do not.
        count = next((i for i in range(fewest, 2 * fewest) if are_even(shares * i, threads)), fewest)
        columns = round_up(-(-p.N * p.OW // max(1, count)), lanes)
        if in_place:
            columns = round_up(even_blocks(p.OW, columns), lanes)
        images, rows, count, largest = 1, 1, columns, odd_lines(most + lanes, line)
    else:
        # What packing a vector costs in vectors of products.
        copy = COPY_COST / (taps * MC)
        in_strip, in_panel = (_output_block(endless, r, 1, shares, most, lanes, copy, threads) for r in (reach, (0, 0)))
        # One image has no batch to lie together, and is flat where it is one row.
        largest = odd_lines((most if one_row else strip_elements(p, *in_strip, 1)) + lanes, line)
        by_strip, by_panel = costs(MC, in_strip, in_panel, reach, lanes)
        if taps > 1 and by_panel < by_strip:
            largest = taps * odd_lines(most, line)
            if batch == 1:
                group, reach = lanes, (0, 0)
        images, rows, columns = _output_block(p, reach, batch, shares, most, lanes, copy, threads)
    room = tiling.PANEL_BYTES // dtype.itemsize
    fitting = min(room // largest, tiling.DEPTH // taps)
    KC = even_blocks(p.C, min(fitting, runs) if few else fitting)
    while batch > 1 and most > batch and KC * (strip_elements(p, images, rows, columns, batch) + lanes) > room:
        most = most // 2
        images, rows, columns = _output_block(p, reach, batch, shares, most, lanes, copy, threads)
    if not flat:
        count = pixels_of_block(images, rows, columns, reach) * batch
    strip_pitch = odd_lines(strip_elements(p, images, rows, columns, batch) + lanes, line)
    pitch = odd_lines(count, line)
    flat = flat and not in_place
    group = min(group, KC)
    x_in_place = (p.N - 1) * x_n + (p.groups * p.C - 1) * x_c + p.OW if in_place else 0
    # Packed ahead, 64>256@56 1x1 takes 5% longer, 512>512@14 3x3/2 7%, 128>128@28 3x3 as long.
    in_rows = p.w_strides[2:] == (taps, p.KW, 1)
    b = forward.Blocking(
        MC, KC, images, rows, columns, batch, strip_pitch, pitch, in_rows, False, flat, group, tiling.MR, x_in_place
    )
    # What a block has packed is multiplied by as many filters as threads and their waiting sums allow. The copies of a
    # 1 x 1 kernel are not worth it.
    pieces, most = p.groups * forward.blocks(p, b), -(-p.F // MC)
    least = most if flat else 1 if KC >= p.C else -(-p.F // (2 * tiling.MC))
    f_blocks = next((count for count in range(least, most) if are_even(pieces * count, threads)), most)
    wanted = _pieces(images * rows * columns * batch, threads)
    if pieces * f_blocks < wanted:
        f_blocks = max(f_blocks, min(-(-wanted // pieces), p.F * taps // LEAST_PRODUCTS))
    b = replace(b, MC=round_up(-(-p.F // max(1, f_blocks)), tiling.MR))
    few = forward.blocks(p, b) <= 2
    if few and not in_rows and p.KH == p.KW == p.w_strides[1] == 1:
        # Side by side, they are some cache lines of a channel, which a piece packs as well as all of them: ahead, they
        # would go to memory and come back.
        return replace(b, at_once=SIDE_BY_SIDE)
    # Filters that lie nearer to each other than channels, as in the input gradient, are read together, ahead.
    return replace(b, packed=not in_rows and (not few or p.w_strides[1] < p.w_strides[2]))


def _pieces(outputs: int, threads: int) -> int:
    """Pieces of work to deal out, of blocks of so many outputs of a filter."""
    return threads if outputs <= FEW_OUTPUTS else pieces_of_output(threads)


def _few_filters(p: Product, dtype: np.dtype) -> bool:
    """Whether a copy of x would not be read often enough: x is, where it lies, whole vectors of an image at a time.

    From the shape alone, since it decides the order of the sums; arrays whose pixels lie apart are copied all the same.
    """
    pixels, lanes = p.OH * p.OW, tiling.lanes(dtype.itemsize)
    few = FEW_FILTERS if pixels * dtype.itemsize > SMALL_CHANNEL else 2 * FEW_FILTERS
    return p.pointwise and p.F <= few and pixels >= lanes


def strip_elements(p: Product, images: int, rows: int, columns: int, batch: int) -> int:
    """Elements of a channel of the strip of a block."""
    pixels = images * (rows + p.reach(0)) * (columns + p.reach(1)) * batch
    return p.phases(0) * p.phases(1) * pixels


def costs(
    MC: int, in_strip: tuple[int, int, int], in_panel: tuple[int, int, int], reach: tuple[int, int], lanes: int
) -> tuple[float, float]:
    """What MC filters cost with a strip of those blocks, and with a panel of these, in multiply-adds of vectors.

    For each pixel and tap: vectors times filters, and to a panel the vectors are copied before.
    """
    strip = UNALIGNED * MC * -(-pixels_of_block(*in_strip, reach) // lanes) / prod(in_strip)
    copies = COPY_COST * -(-in_panel[2] // lanes) / in_panel[2]
    return strip, MC * -(-prod(in_panel) // lanes) / prod(in_panel) + copies


def odd_lines(elements: int, line: int) -> int:
    """An odd number of cache lines, so that rows of this length do not meet in one set of L1."""
    return (-(-elements // line) | 1) * line


def pixels_of_block(images: int, rows: int, columns: int, reach: tuple[int, int]) -> int:
    """Elements from the first output of a block to the last one, with those between rows and images."""
    return (images * (rows + reach[0]) - reach[0] - 1) * (columns + reach[1]) + columns


def _output_block(
    p: Product, reach: tuple[int, int], batch: int, shares: int, most: int, lanes: int, copy: float, threads: int
) -> tuple[int, int, int]:
    """(images, rows, columns) of a block of about `most` outputs of a filter, and some blocks for each thread.

    `shares` blocks of filters multiply each of them as pieces of their own, after a copy at `copy` of a vector's price.
    """
    most = max(1, most // batch)
    N = 1 if batch > 1 else p.N
    columns = even_blocks(p.OW, most)
    fitting = 1 + (most - columns) // (columns + reach[1]) if columns == p.OW else 1

    def block_rows(fitting: int) -> int:
        """Rows of a block, `fitting` at most, whose blocks are the fewest vectors and copies."""
        row = -(-(columns + p.reach(1)) * batch // lanes)
        repeated = p.phases(0) * p.phases(1) * (p.reach(0) * row + STARTS) * copy

        def cost(rows: int) -> float:
            vectors = -(-pixels_of_block(1, rows, columns, reach) * batch // lanes)
            return vectors + NARROW * (-vectors % tiling.VECTORS) + repeated

        def total(rows: int) -> float:
            whole, left = divmod(p.OH, rows)
            return whole * cost(rows) + (cost(left) if left else 0)

        return min(range(max(1, min(p.OH, fitting)), 0, -1), key=total)

    rows, images = block_rows(fitting), 1
    if rows == p.OH and columns == p.OW:
        fitting_images = [
            i for i in range(1, min(N, most) + 1) if i == 1 or pixels_of_block(i, rows, columns, reach) <= most
        ]
        images = min(fitting_images, key=lambda i: -(-pixels_of_block(i, rows, columns, reach) // lanes) / i)
    pieces = shares * -(-p.N // batch)
    while pieces * -(-p.OH // rows) * -(-p.OW // columns) < _pieces(images * rows * columns * batch, threads) * images:
        if images * rows * columns * batch <= 4 * lanes:
            break
        if images > 1:
            images = -(-images // 2)
        elif rows > 1:
            rows = block_rows(-(-rows // 2))
        else:
            columns = -(-columns // 2)
    return images, rows, columns


def plan_products(plan: Plan, products: list[Product]) -> Plan:
    """Plan of dense problems that run one after the other."""
    g, dtype = plan.geometry, plan.dtype
    parallel = enough_work(g, dtype)
    phases = len(products)
    products = [flat(p) for p in by_images(plan, products)]
    blockings = [block_forward(p, dtype, plan.threads) for p in products]
    # The parts of a kernel are packed together, all or none.
    packed = any(b.packed for b in blockings)
    blockings = [replace(b, packed=packed) for b in blockings]
    launches = forward.launches(list(zip(products, blockings, strict=True)))
    scratch = max(max(b.scratch(p), weight_panels.stage_elements(p)) for p, b in zip(products, blockings, strict=True))
    panels = max(weight_panels.panel_elements(p, g.KH * g.KW) for p in products) if packed else 0
    program = Program(launches, plan.arrays, {"panels": panels}, scratch, dtype, parallel)
    b = blockings[-1]  # the first one may be that of the zeros
    blocks = {"filters": b.MC, "channels": b.KC}
    if plan.name != "forward":
        blocks = {"channels": b.MC, "filters": b.KC, "phases": phases}
    blocks |= {"images": b.images * b.batch, "rows": b.rows, "columns": b.columns}
    return replace(plan, program=program, blocks=blocks, tile=register_tile(dtype))


def register_tile(dtype: np.dtype) -> tuple[int, int]:
    """Rows and columns of the register tile."""
    return tiling.MR, tiling.VECTORS * tiling.lanes(dtype.itemsize)


def flat(p: Product) -> Product:
    """A 1 x 1 kernel sees no rows: where both arrays store them one after the other, they are one."""
    rows_follow = p.x_strides[2] == p.W * p.x_strides[3] and p.y_strides[2] == p.OW * p.y_strides[3]
    if not (p.pointwise and rows_follow):
        return p
    return replace(p, H=1, W=p.H * p.W, OH=1, OW=p.OH * p.OW)
