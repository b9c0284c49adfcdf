"""Blocks of the input gradient by columns, from the shape alone."""

from __future__ import annotations

from dataclasses import replace

from ..geometry import LAYOUTS, Geometry
from ..kernels import input_grad, input_grad_columns, tiling, weight_panels
from ..kernels.launch import Address, Program
from . import winograd
from .base import Plan, Strides, enough_work, even_blocks, pieces_of_output
from .direct import COPY_COST, odd_lines, register_tile

# Multiply-adds of vectors that cost as much as adding a vector of columns to a map, and as adding one element.
ADDING, ADDING_ONE = 8, 2
# The share of a product that turning channels-last arrays costs, and back.
TURNED = 0.15
# Outputs of a block, as in the forward nest.
MOST_OUTPUTS = 2 * tiling.NC_BYTES


def plan_pass(plan: Plan, y: Strides, start: int, w: Strides, x: Strides) -> Plan | None:
    """Plan of dx by columns; None where other ways are expected to be faster, from the shape and the layout alone."""
    g, dtype = plan.geometry, plan.dtype
    lanes, line = tiling.lanes(dtype.itemsize), 64 // dtype.itemsize
    C, F, taps = g.C // g.groups, g.F // g.groups, g.KH * g.KW
    nothing = min(g.N, C, F, g.H, g.W, g.OH, g.OW, taps) == 0
    nhwc, hwcn = plan.axes == LAYOUTS["NHWC"], plan.axes == LAYOUTS["HWCN"]
    if plan.algorithm != "direct" or nothing or hwcn:
        return None
    # Sums of sums have less rounding than the bound of Winograd's, 3 times direct's, has room for.
    if winograd.bounds("input gradient", g, dtype, plan.axes):
        return None
    height = max((g.OH - 1) * g.stride[0] + (g.KH - 1) * g.dilation[0] + 1, g.padding[0] + g.H)
    width = max((g.OW - 1) * g.stride[1] + (g.KW - 1) * g.dilation[1] + 1, g.padding[2] + g.W)
    outputs, pixels = g.OH * g.OW, height * width
    room = tiling.PANEL_BYTES // 4 // dtype.itemsize  # for a map; the strip has five times as much
    most = max(outputs, MOST_OUTPUTS // dtype.itemsize)
    if tiling.MR * pixels > room or most > room // 8:
        return None
    # The filters of a block decide the order of a sum, whatever the batch is.
    KC = even_blocks(F, min(tiling.DEPTH, 5 * room // odd_lines(most + lanes, line)))
    if not _pays(g, nhwc, lanes, -(-F // KC)):
        return None
    images = max(1, min(g.N, most // outputs))
    panels = g.groups * -(-C // tiling.MR)
    least = pieces_of_output(plan.threads)
    while images > 1 and (-(-g.N // images) * panels < least or tiling.MR * images * pixels > room):
        images = -(-images // 2)
    pieces = -(-least // (g.groups * -(-g.N // images)))
    channels = even_blocks(C, min(room // (images * pixels), max(tiling.MR, C // pieces)), tiling.MR)
    pitch = odd_lines(images * outputs + lanes, line)
    b = input_grad_columns.Blocking(channels, KC, images, height, width, pitch, images * pixels + lanes)
    p = replace(input_grad.dense(g, y, start, w, x, plan.accumulate), C=F, KH=g.KH, KW=g.KW)
    values: dict[str, int | Address] = {"step_h": g.stride[0], "step_w": g.stride[1]}
    values |= {"apart_h": g.dilation[0], "apart_w": g.dilation[1], "top": g.padding[0], "left": g.padding[2]}
    launches = [weight_panels.packing(p, apart=True), input_grad_columns.launch(p, b, values)]
    buffers = {"panels": weight_panels.panel_elements(p, taps)}
    program = Program(launches, plan.arrays, buffers, b.scratch, dtype, enough_work(g, dtype))
    blocks = {"channels": channels, "filters": KC, "images": images}
    reason = f"{plan.reason}; by columns"
    return replace(plan, reason=reason, program=program, blocks=blocks, tile=register_tile(dtype))


def _pays(g: Geometry, nhwc: bool, lanes: int, f_blocks: int) -> bool:
    """Whether the products of the outputs, and adding them for each block of filters, cost less than all taps of all
    pixels.

    Both for one tap of a channel and image, in multiply-adds of vectors; those of the pixels in strips with gaps or,
    where channels are many, in panels.
    """
    F = g.F // g.groups
    adding = ADDING * -(-g.OW // lanes) if g.stride[1] == 1 else ADDING_ONE * g.OW
    gaps = (g.KW - 1) * g.dilation[1] / g.W if g.W else 0
    if nhwc:  # whose own nest has no gaps, and turns nothing
        gaps = -TURNED
    pixels = F * g.H * g.W / (g.stride[0] * g.stride[1]) / lanes
    # Each remainder modulo the stride packs dy once more.
    again = min(g.stride[0], g.KH) * min(g.stride[1], g.KW) - 1
    packing = again * COPY_COST * g.groups / (g.C * g.KH * g.KW) * F * g.OH * g.OW / lanes
    by_pixels = (1 + min(gaps, COPY_COST * g.groups / g.C)) * pixels + packing
    return g.OH * (F * g.OW / lanes + adding * f_blocks) < by_pixels
