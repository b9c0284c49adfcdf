"""Blocks of the depthwise kernels, from the shape alone."""

from __future__ import annotations

from dataclasses import replace
from math import gcd

from ..geometry import LAYOUTS, Geometry
from ..kernels import depthwise, depthwise_input_grad, depthwise_taps, depthwise_weight_grad, tiling
from ..kernels.launch import Address, Program
from .base import (
    Plan,
    Strides,
    enough_work,
    even_blocks,
    pieces_of_output,
    round_up,
    shares_of_sums,
    turned,
)

# Channels of channels-last arrays that are packed together, whole lines: the fewer, the less what a register tile reads
# of a row meets in the same sets of L1. In dx at a stride, whose register tiles read fewer pixels of a row.
TOGETHER_BYTES, TOGETHER_BYTES_STRIDED = 512, 1024
# Bytes after which memory meets the first set of L1 again, and lines that a set has, or more: at 15 to 30 of a register
# tile in each, channels a power of two apart take up to 3 times as long in place.
SETS_BYTES, WAYS = 4096, 8
# Filters of a channel that are computed one after the other, each as a depthwise problem, rather than as small groups.
MOST_FILTERS = 4
# Channels of a group that are turned in the vector.
GROUPS = (2, 4)


def fits(plan: Plan) -> bool:
    """Whether groups are of one channel and one filter, a few in NHWC, that are faster with channels in the vector.

    Not of a few in dx: it would be their sum, and one that is accumulated has to be one addition. Or small groups in
    NHWC, in y and in dx at stride 1.
    """
    g, lanes = plan.geometry, tiling.lanes(plan.dtype.itemsize)
    if plan.algorithm != "direct" or 2 * g.C < lanes or _one_by_one(plan, lanes):
        return False
    group = g.C // g.groups
    if plan.axes == LAYOUTS["NHWC"] and g.C == g.F and group in GROUPS and lanes % group == 0:
        return plan.name == "forward" or (plan.name == "input gradient" and g.stride == (1, 1))
    most = MOST_FILTERS if plan.axes == LAYOUTS["NHWC"] and plan.name != "input gradient" else 1
    return group == 1 and g.C <= g.F <= most * g.C


def _one_by_one(plan: Plan, lanes: int) -> bool:
    """Whether the nests of dense problems are faster, a channel at a time.

    Where channels fill half a vector, in HWCN, and in NCHW if most of what would be turned is not read, or once: 8@112
    3x3/2 takes y 0.7 of the time, 8@219 1x1 0.4 to 0.6. From the layout and an image's shape alone.
    """
    g = plan.geometry
    half, one_tap, strided = 2 * g.C <= lanes, g.KH * g.KW == 1, g.stride != (1, 1)
    if plan.axes == LAYOUTS["HWCN"]:
        return half
    if plan.axes == LAYOUTS["NHWC"] or not half or g.OW < 2 * lanes:
        return False
    if plan.name == "forward":
        return one_tap or strided
    return one_tap and (plan.name == "weight gradient" or not strided)


def plan_pass(plan: Plan, x: Strides, y: Strides, start: int, w: Strides, bias: int | None) -> Plan | None:
    """Plan of a pass with one channel and few filters per group; None if a row of it is too long for scratch."""
    g, dtype = plan.geometry, plan.dtype
    lanes = tiling.lanes(dtype.itemsize)
    g, x, y, alike, whole = _images_for_channels(plan, x, y, lanes)
    # What stands in the place of x and of y.
    names = {"forward": ("x", "y"), "input gradient": ("dx", "dy"), "weight gradient": ("x", "dy")}[plan.name]
    # Filter m of each channel is every `filters`-th one: a problem of its own.
    filters = g.F // g.C
    step_of_y, step_of_w = y[1], w[0]
    group = g.C // g.groups
    w_out, w_in = w[:2] if plan.name == "forward" else (w[1], w[0])
    y, w = (y[0], filters * y[1], *y[2:]), (filters * group * w[0], *w[1:])
    forward_like = plan.name != "input gradient" or g.stride == (1, 1)
    if plan.name == "input gradient" and forward_like:
        # The forward pass over dy with the turned kernel.
        offset, w = turned(g, w)
        start, g, x, y, names = start + offset, _over_dy(g), y, x, ("dy", "dx")
    # Channels that lie side by side are packed side by side: by the layout, not by strides, since the rows of a block
    # follow from it, and the sums of dw from those.
    together = least = whole or lanes
    if plan.axes == LAYOUTS["NHWC"] or alike:
        most_together = TOGETHER_BYTES if forward_like else TOGETHER_BYTES_STRIDED
        extent = g.C * (g.N if whole else 1)
        together = even_blocks(extent, most_together // group // dtype.itemsize, least)
    # Columns and rows of the packed strip, and of the sums or of the packed dy, for a block of `rows` rows.
    if forward_like:
        columns, out_columns, most = (g.OW - 1) * g.stride[1] + (g.KW - 1) * g.dilation[1] + 1, g.OW, g.OH
    else:
        reach = (g.KW - 1) * g.dilation[1] // g.stride[1] + 1
        columns, most = reach + max(g.OW, (g.W + g.padding[2]) // g.stride[1] + 1), g.H
        out_columns = depthwise_taps.sum_columns.py_func(g.W, g.stride[1])

    def strip(rows: int) -> int:
        height = (rows - 1) * g.stride[0] if forward_like else rows // g.stride[0] + 1
        return ((height + (g.KH - 1) * g.dilation[0] + 1) * columns + 4 * g.stride[1]) * together

    def taps() -> int:
        return (group * g.KH * g.KW + 1) * together

    def lists(rows: int) -> int:
        places = group * g.KH * g.KW + depthwise_weight_grad.TAPS
        if not forward_like:  # lists of columns, and where those of a row are
            places = rows * (g.KH * g.KW + 2 * g.stride[1] + 1)
        elements: int = depthwise_taps.place_elements.py_func(places, lanes)
        return elements

    def size(rows: int) -> int:
        return group * strip(rows) + (rows * out_columns + 4 * g.stride[1]) * together + lists(rows)

    while together > least and (taps() + size(1)) * dtype.itemsize > tiling.PANEL_BYTES // 2:  # long rows
        together = round_up(together // 2, least)
    rows = max(1, most)
    most_bytes = tiling.PLANES_BYTES if together == lanes else tiling.PANEL_BYTES
    while rows > 1 and size(rows) * dtype.itemsize > most_bytes:
        rows = -(-rows // 2)
    if size(rows) * dtype.itemsize > tiling.PANEL_BYTES:
        return None
    together = min(together, round_up(g.C, lanes))
    row_blocks, c_blocks = -(-most // rows), -(-g.C // together)
    pieces, channels = g.N * c_blocks * row_blocks, plan.geometry.C
    shares, parts, buffers = 0, 1, {}
    if plan.name == "weight gradient":
        # Elements of sums for a tap, products of a sum, blocks that shares are cut from, and pieces of work of a share;
        # those that are alike have sums for a vector of them, and for the rest.
        pixels, shared = g.OH * g.OW, c_blocks
        sums, products, cut, work = round_up(channels, lanes), g.N * pixels, g.N * row_blocks, 1
        if alike:
            sums, products, cut, work = 2 * lanes * channels, alike * pixels, row_blocks, channels
            shared = g.N if g.N > 1 else c_blocks
        sums *= g.KH * g.KW
        shares = shares_of_sums(products, cut, work, sums * dtype.itemsize)
        parts = min(shared, -(-pieces_of_output(plan.threads) // shares))
        buffers = {"partial": shares * sums}
    by_3 = forward_like and g.KW % 3 == 0 and g.stride[1] == g.dilation[1]
    # In an array a vector begins anywhere, and is then parts of two lines. From a strip three taps read it once.
    in_place = x[1] == y[1] == group == 1 and not plan.accumulate
    # A strip of a stride's rows is several times as large as what goes out.
    in_place = in_place and (g.stride[1] > 1 or _sets_of_l1_suffice(g, x, dtype.itemsize, 2 if by_3 else 1))
    kernels = [(depthwise.depthwise_forward if forward_like else depthwise_input_grad.depthwise_input_grad, pieces)]
    if shares:
        adding = depthwise_weight_grad.add_depthwise_shares, channels if alike else -(-channels // lanes)
        kernels = [(depthwise_weight_grad.depthwise_weight_grad, shares * parts), adding]
    launches = []
    for m in range(filters):
        arrays = Address(names[0]), Address(names[1], m * step_of_y)
        weight = Address("dw" if shares else "weight", start + m * step_of_w)
        biases = None if bias is None else (Address("bias", m * bias), filters * bias)
        blocking = {"rows": rows, "together": together, "strip_size": strip(rows)}
        blocking |= {"shares": shares, "parts": parts, "group": group, "w_out": w_out, "w_in": w_in}
        blocking |= {"in_place": in_place, "by_3": by_3, "alike": alike}
        launches += [
            depthwise.launch(kernel, count, g, arrays, x, y, weight, w, biases, blocking, plan.accumulate)
            for kernel, count in kernels
        ]
    scratch = max(taps(), depthwise_weight_grad.TAPS * lanes) + size(rows)
    program = Program(launches, plan.arrays, buffers, scratch, dtype, enough_work(g, dtype, 8))
    blocks = {"channels": together, "rows": rows}
    if alike:
        blocks = {"channels": max(1, together // alike), "images": min(together, alike), "rows": rows}
    what = "depthwise" if group == 1 else "groups turned in the vector"
    return replace(plan, reason=f"{plan.reason}; {what}", program=program, blocks=blocks)


def _images_for_channels(plan: Plan, x: Strides, y: Strides, lanes: int) -> tuple[Geometry, Strides, Strides, int, int]:
    """The problem with images in the place of channels, the strides of x and y, how many are alike, and a multiple.

    In HWCN, where images lie together, if they fill half a vector: those of all channels in one image, or those of a
    channel in as many images as there are channels. The first if they are whole vectors, of which blocks have as many
    as the multiple says, not 0, and follow each other in these arrays. Blocks of rows, and so the bits, are those of
    new arrays in any.
    """
    g = plan.geometry
    if plan.axes != LAYOUTS["HWCN"] or 2 * g.N < lanes:
        return g, x, y, 0, 0
    whole = g.N if g.N % lanes == 0 and g.N * plan.dtype.itemsize <= TOGETHER_BYTES else 0
    if whole and all(s[1] == g.N * s[0] for s in (x, y)):
        flat = replace(g, N=1, C=g.C * g.N, F=g.C * g.N, groups=g.C * g.N)
        return flat, (0, x[0], *x[2:]), (0, y[0], *y[2:]), g.N, whole
    x, y = (x[1], x[0], *x[2:]), (y[1], y[0], *y[2:])
    return replace(g, N=g.C, C=g.N, F=g.N, groups=g.N), x, y, g.N, whole


def _sets_of_l1_suffice(g: Geometry, x: Strides, itemsize: int, lines: int) -> bool:
    """Whether what a register tile reads of channels-last x, `lines` a vector, fits the sets of L1 that it meets in.

    At stride 1.
    """
    pixels = g.KH * (depthwise.PIXELS + (g.KW - 1) * g.dilation[1])
    return lines * pixels * gcd(x[3] * itemsize, SETS_BYTES) <= WAYS * SETS_BYTES


def _over_dy(g: Geometry) -> Geometry:
    """The problem that dx at stride 1 is, as a forward pass over dy."""
    top, bottom, left, right = g.padding
    reach_h, reach_w = (g.KH - 1) * g.dilation[0], (g.KW - 1) * g.dilation[1]
    padding = reach_h - top, reach_h - bottom, reach_w - left, reach_w - right
    return replace(g, H=g.OH, W=g.OW, OH=g.H, OW=g.W, padding=padding)
