"""Blocks of the input gradient by columns, from the shape alone."""

from __future__ import annotations

from dataclasses import replace
from math import gcd

from ..geometry import Geometry
from ..kernels import input_grad_columns, tiling, weight_panels
from ..kernels.launch import Address, Program
from ..kernels.problem import Product
from . import winograd
from .base import Plan, Strides, enough_work, even_blocks, pieces_of_output
from .direct import COPY_COST, odd_lines, register_tile

# Multiply-adds of vectors that cost as much as adding a vector of columns to a map, and as adding one element.
ADDING, ADDING_ONE = 10, 2
# Outputs of a block, as in the forward nest.
MOST_OUTPUTS = 2 * tiling.NC_BYTES


def plan_pass(plan: Plan, y: Strides, start: int, w: Strides, x: Strides) -> Plan | None:
    """Plan of dx by columns; None where others are expected to be faster, or the taps of the weight lie apart."""
    g, dtype = plan.geometry, plan.dtype
    lanes, line = tiling.lanes(dtype.itemsize), 64 // dtype.itemsize
    C, F, taps = g.C // g.groups, g.F // g.groups, g.KH * g.KW
    turned = w[3] < 0
    follow = (abs(w[3]) == 1 or g.KW == 1) and (abs(w[2]) == g.KW or g.KH == 1) and w[1] == taps
    batch_runs = x[0] == 1 and x[1] != 1 and x[3] != 1
    nothing = min(g.N, C, F, g.H, g.W, g.OH, g.OW, taps) == 0
    # Sums of sums have less rounding than the bound of Winograd's, 3 times direct's, has room for.
    small = winograd.supports((g.KH, g.KW), g.stride, g.dilation)
    if plan.algorithm != "direct" or nothing or small or not follow or batch_runs or not _pays(g, lanes):
        return None
    height = max((g.OH - 1) * g.stride[0] + (g.KH - 1) * g.dilation[0] + 1, g.padding[0] + g.H)
    width = max((g.OW - 1) * g.stride[1] + (g.KW - 1) * g.dilation[1] + 1, g.padding[2] + g.W)
    outputs, pixels = g.OH * g.OW, height * width
    room = tiling.PANEL_BYTES // 2 // dtype.itemsize
    images = max(1, min(g.N, MOST_OUTPUTS // dtype.itemsize // outputs))
    # Channels whose taps are whole panels.
    step = tiling.MR // gcd(tiling.MR, taps)
    while images > 1 and (-(-g.N // images) * -(-C // step) < pieces_of_output() or step * images * pixels > room):
        images = -(-images // 2)
    if step * images * pixels > room or outputs * images > room // 8:
        return None
    pieces = -(-pieces_of_output() // (g.groups * -(-g.N // images)))
    channels = even_blocks(C, min(room // (images * pixels), max(step, -(-C // pieces))), step)
    pitch = odd_lines(images * outputs + lanes, line)
    KC = even_blocks(F, min(tiling.DEPTH, room // pitch))
    b = input_grad_columns.Blocking(channels, KC, images, height, width, pitch, images * pixels + lanes)
    if turned:
        start -= taps - 1
    p = Product(
        x="dy",
        x_strides=y,
        H=g.OH,
        W=g.OW,
        weight=Address("weight", start),
        w_strides=(F * w[0], 1, w[0], 1, 1),
        bias=None,
        bias_step=0,
        y=Address("dx"),
        y_strides=x,
        N=g.N,
        C=F,
        F=C * taps,
        OH=g.OH,
        OW=g.OW,
        KH=1,
        KW=1,
        groups=g.groups,
        stride=(1, 1),
        offset=(0, 0),
        dilation=(1, 1),
        accumulate=plan.accumulate,
    )
    values: dict[str, int | Address] = {"dx_h": g.H, "dx_w": g.W, "taps_h": g.KH, "taps_w": g.KW, "turned": turned}
    values |= {"step_h": g.stride[0], "step_w": g.stride[1], "apart_h": g.dilation[0], "apart_w": g.dilation[1]}
    values |= {"top": g.padding[0], "left": g.padding[2]}
    launches = [weight_panels.packing(p), input_grad_columns.launch(p, b, C, values)]
    buffers = {"panels": weight_panels.panel_elements(p, 1)}
    names = ("dy", "weight", "bias", "dx")
    program = Program(launches, names, buffers, b.scratch, dtype, enough_work(g.flops))
    blocks = {"channels": channels, "filters": KC, "images": images}
    return replace(plan, reason=f"{plan.reason}; by columns", program=program, blocks=blocks, tile=register_tile(dtype))


def _pays(g: Geometry, lanes: int) -> bool:
    """Whether the products of the outputs, and adding them, cost less than all taps of all pixels.

    Both for one tap of a channel and image, in multiply-adds of vectors; those of the pixels in strips with gaps or,
    where channels are many, in panels.
    """
    F = g.F // g.groups
    adding = ADDING * -(-g.OW // lanes) if g.stride[1] == 1 else ADDING_ONE * g.OW
    gaps = (g.KW - 1) * g.dilation[1] / g.W if g.W else 0
    pixels = F * g.H * g.W / (g.stride[0] * g.stride[1]) / lanes
    return g.OH * (F * g.OW / lanes + adding) < (1 + min(gaps, COPY_COST * g.groups / g.C)) * pixels
