"""Input gradient: dx[c, h, w] = sum over f, kh, kw of dy[f, oh, ow] * weight[f, c, kh, kw].

The sum is over the outputs that read the pixel: oh * stride - top + kh * dilation = h, and likewise w.

Solved for oh this is a forward pass over dy: oh = (h + top - kh * dilation) / stride, with filters and channels
swapped and the dilation negative, which turns the kernel. Above stride 1 the division leaves a
remainder for all but some taps, and which ones depends on h modulo the stride only. So dx falls into
stride_h * stride_w phases, each a dense forward pass at stride 1 with its own taps or none, and no product
with a zero is computed. :mod:`.forward` runs them one after the other, :mod:`.channels_last` together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd

from ..geometry import Geometry
from .launch import Address
from .problem import Part, Pixels, Product


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
    """The phases of one axis of dx that have taps, `padding` zeros before it in the forward pass."""
    shared = gcd(stride, dilation)
    step = stride // shared
    # Tap k reads the pixels with (pixel + padding - k * dilation) % stride == 0; so do k + step, k + 2 * step, ...
    for first in range(min(step, taps)):
        start = (first * dilation - padding) % stride
        if start < extent:
            count = -(-(taps - first) // step)
            offset = (start + padding - first * dilation) // stride
            pixels = -(-(extent - start) // stride)
            yield Phase(start, pixels, count, first, step, offset, -(dilation // shared))


def dense(
    g: Geometry,
    y_strides: tuple[int, int, int, int],
    start: int,
    w_strides: tuple[int, int, int, int],
    x_strides: tuple[int, int, int, int],
    accumulate: bool,
) -> Product:
    """The sums of nothing that dx is made of: a forward pass over dy, with the filters as channels and no taps.

    Strides count elements of dy, of the weight, whose first tap is element `start`, and of dx.
    """
    F, C = g.F // g.groups, g.C // g.groups
    w_f, w_c, w_kh, w_kw = w_strides
    return Product(
        x=Address("dy"),
        x_strides=y_strides,
        H=g.OH,
        W=g.OW,
        weight=Address("weight", start),
        w_strides=(F * w_f, w_c, w_f, w_kh, w_kw),
        bias=None,
        bias_step=0,
        y=Address("dx"),
        y_strides=x_strides,
        N=g.N,
        C=0,
        F=C,
        OH=g.H,
        OW=g.W,
        KH=0,
        KW=0,
        groups=g.groups,
        stride=(1, 1),
        offset=(0, 0),
        dilation=(1, 1),
        accumulate=accumulate,
    )


def products(
    g: Geometry,
    y_strides: tuple[int, int, int, int],
    start: int,
    w_strides: tuple[int, int, int, int],
    x_strides: tuple[int, int, int, int],
    accumulate: bool,
) -> Iterator[Product]:
    """The dense problems whose results together are dx; strides count elements of dy, of the
    weight, whose first tap is element `start`, and of dx.

    Pixels that no tap reads are 0: where there are any, dx is first filled with sums of nothing.
    """
    F = g.F // g.groups
    x_n, x_c, x_h, x_w = x_strides
    w_f, w_c, w_kh, w_kw = w_strides
    top, _, left, _ = g.padding
    vertical = list(phases(g.H, g.KH, g.stride[0], g.dilation[0], top))
    horizontal = list(phases(g.W, g.KW, g.stride[1], g.dilation[1], left))
    every = min(g.H, g.stride[0]), min(g.W, g.stride[1])
    nothing = dense(g, y_strides, start, w_strides, x_strides, accumulate)
    if (len(vertical), len(horizontal)) != every and not accumulate:
        yield nothing
    for v in vertical:
        for u in horizontal:
            yield replace(
                nothing,
                weight=Address("weight", start + v.first_tap * w_kh + u.first_tap * w_kw),
                w_strides=(F * w_f, w_c, w_f, v.tap_step * w_kh, u.tap_step * w_kw),
                y=Address("dx", v.start * x_h + u.start * x_w),
                y_strides=(x_n, x_c, g.stride[0] * x_h, g.stride[1] * x_w),
                C=F,
                OH=v.extent,
                OW=u.extent,
                KH=v.taps,
                KW=u.taps,
                offset=(v.offset, u.offset),
                dilation=(v.dilation, u.dilation),
                part=Part((g.KH, g.KW), (v.first_tap, u.first_tap), (v.tap_step, u.tap_step)),
                pixels=Pixels((v.start, u.start), g.stride, (g.H, g.W)),
            )
