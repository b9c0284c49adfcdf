"""Input gradient: dx[c, h, w] = sum over f, kh, kw of dy[f, oh, ow] * weight[f, c, kh, kw].

The sum is over the outputs that read the pixel: oh * stride - top + kh * dilation = h, and likewise w.

Solved for oh this is a forward pass over dy: oh = (h + top - kh * dilation) / stride, with filters and channels
swapped and the dilation negative, which turns the kernel. Above stride 1 the division leaves a
remainder for all but some taps, and which ones depends on h modulo the stride only. So dx falls into
stride_h * stride_w phases, each a dense forward pass at stride 1 with its own taps, and no product
with a zero is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

from ..geometry import Geometry
from .forward import Product
from .launch import Address


@dataclass(frozen=True)
class Phase:
    """The pixels start, start + stride, ... of one axis of dx, `extent` of them.

    Pixel i reads dy at i + offset + j * dilation with tap first_tap + j * tap_step, for j < taps.
    """

    start: int
    extent: int
    taps: int
    first_tap: int
    tap_step: int
    offset: int
    dilation: int


def phases(extent: int, taps: int, stride: int, dilation: int, padding: int) -> Iterator[Phase]:
    """The phases of one axis of dx, `padding` zeros before it in the forward pass."""
    shared = gcd(stride, dilation)
    step = stride // shared
    for start in range(min(stride, extent)):
        pixels = -(-(extent - start) // stride)
        # The taps k with (start + padding - k * dilation) % stride == 0 are first, first + step, ...
        firsts = (k for k in range(min(step, taps)) if (start + padding - k * dilation) % stride == 0)
        first = next(firsts, None)
        if first is None:
            yield Phase(start, pixels, 0, 0, 1, 0, 1)
            continue
        count = -(-(taps - first) // step)
        offset = (start + padding - first * dilation) // stride
        yield Phase(start, pixels, count, first, step, offset, -(dilation // shared))


def products(
    g: Geometry,
    y_strides: tuple[int, int, int, int],
    start: int,
    w_strides: tuple[int, int, int, int],
    x_strides: tuple[int, int, int, int],
    accumulate: bool,
) -> Iterator[Product]:
    """The dense problems whose results together are dx; strides count elements of dy, of the
    weight, whose first tap is element `start`, and of dx."""
    F, C = g.F // g.groups, g.C // g.groups
    x_n, x_c, x_h, x_w = x_strides
    w_f, w_c, w_kh, w_kw = w_strides
    top, _, left, _ = g.padding
    for v in phases(g.H, g.KH, g.stride[0], g.dilation[0], top):
        for u in phases(g.W, g.KW, g.stride[1], g.dilation[1], left):
            yield Product(
                x="dy",
                x_strides=y_strides,
                H=g.OH,
                W=g.OW,
                weight=Address("weight", start + v.first_tap * w_kh + u.first_tap * w_kw),
                w_strides=(F * w_f, w_c, w_f, v.tap_step * w_kh, u.tap_step * w_kw),
                bias=None,
                bias_step=0,
                y=Address("dx", v.start * x_h + u.start * x_w),
                y_strides=(x_n, x_c, g.stride[0] * x_h, g.stride[1] * x_w),
                N=g.N,
                C=F,
                F=C,
                OH=v.extent,
                OW=u.extent,
                KH=v.taps,
                KW=u.taps,
                groups=g.groups,
                stride=(1, 1),
                offset=(v.offset, u.offset),
                dilation=(v.dilation, u.dilation),
                accumulate=accumulate,
            )
