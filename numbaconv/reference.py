"""The four passes as plain Python loops: slow, obvious, and independent of the kernels.

The images are padded with zeros, and every product of the forward pass is visited once: it adds to one
element of y, and the chain rule sends dy * weight to its element of dx and dy * x to its element of dw.
The parameters are those of :mod:`numbaconv.functional`, without its checks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Pair = int | tuple[int, int]

AXES = {"NCHW": "nchw", "NHWC": "nhwc", "HWCN": "hwcn"}


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Pair = 1,
    padding: Any = 0,
    dilation: Pair = 1,
    groups: int = 1,
    layout: str = "NCHW",
    flip: bool = False,
) -> Array:
    """y[n, f, oh, ow] = bias[f] + sum of x * weight over the taps; see :func:`numbaconv.conv2d`."""
    loops = _Loops(_shape(x, layout), weight.shape, stride, padding, dilation, groups, flip)
    x_padded = loops.pad(_nchw(x, layout))
    y = np.zeros(loops.output_shape, x.dtype)
    for n, c, h, w, f, cg, kh, kw, oh, ow in loops.products():
        y[n, f, oh, ow] += x_padded[n, c, h, w] * weight[f, cg, kh, kw]
    if bias is not None:
        y += bias.reshape(1, -1, 1, 1)
    return _from_nchw(y, layout)


def conv2d_input_grad(
    dy: Array,
    weight: Array,
    input_shape: tuple[int, ...],
    *,
    stride: Pair = 1,
    padding: Any = 0,
    dilation: Pair = 1,
    groups: int = 1,
    layout: str = "NCHW",
    flip: bool = False,
) -> Array:
    """dx[n, c, h, w] = sum of dy * weight over the products x[n, c, h, w] is in."""
    shape = tuple(input_shape[AXES[layout].index(axis)] for axis in "nchw")
    loops = _Loops(shape, weight.shape, stride, padding, dilation, groups, flip)
    dy = _nchw(dy, layout)
    dx_padded = loops.pad(np.zeros(shape, dy.dtype))
    for n, c, h, w, f, cg, kh, kw, oh, ow in loops.products():
        dx_padded[n, c, h, w] += dy[n, f, oh, ow] * weight[f, cg, kh, kw]
    return _from_nchw(loops.crop(dx_padded), layout)


def conv2d_weight_grad(
    x: Array,
    dy: Array,
    kernel_size: Pair,
    *,
    stride: Pair = 1,
    padding: Any = 0,
    dilation: Pair = 1,
    groups: int = 1,
    layout: str = "NCHW",
    flip: bool = False,
) -> Array:
    """dw[f, c, kh, kw] = sum of dy * x over the products weight[f, c, kh, kw] is in."""
    shape = _shape(x, layout)
    dy = _nchw(dy, layout)
    weight_shape = (dy.shape[1], shape[1] // groups, *_pair(kernel_size))
    loops = _Loops(shape, weight_shape, stride, padding, dilation, groups, flip)
    x_padded = loops.pad(_nchw(x, layout))
    dw = np.zeros(weight_shape, x.dtype)
    for n, c, h, w, f, cg, kh, kw, oh, ow in loops.products():
        dw[f, cg, kh, kw] += dy[n, f, oh, ow] * x_padded[n, c, h, w]
    return dw


def conv2d_bias_grad(dy: Array, *, layout: str = "NCHW") -> Array:
    """db[f] = sum of dy over images and pixels."""
    dy = _nchw(dy, layout)
    N, F, OH, OW = dy.shape
    db = np.zeros(F, dy.dtype)
    for n in range(N):
        for f in range(F):
            for oh in range(OH):
                for ow in range(OW):
                    db[f] += dy[n, f, oh, ow]
    return db


class _Loops:
    """The ten nested indices of one convolution."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        weight_shape: tuple[int, ...],
        stride: Pair,
        padding: Any,
        dilation: Pair,
        groups: int,
        flip: bool,
    ) -> None:
        self.N, self.C, H, W = input_shape
        self.F, self.CG, self.KH, self.KW = weight_shape
        self.stride, self.dilation, self.groups, self.flip = _pair(stride), _pair(dilation), groups, flip
        rows = _ends(padding, 0, H, self.KH, self.stride[0], self.dilation[0])
        columns = _ends(padding, 1, W, self.KW, self.stride[1], self.dilation[1])
        self.pads = ((0, 0), (0, 0), rows, columns)
        self.OH = 1 + (H + sum(rows) - self.dilation[0] * (self.KH - 1) - 1) // self.stride[0]
        self.OW = 1 + (W + sum(columns) - self.dilation[1] * (self.KW - 1) - 1) // self.stride[1]
        self.output_shape = (self.N, self.F, self.OH, self.OW)

    def products(self) -> Iterator[tuple[int, ...]]:
        """Yield (n, c, h, w, f, c in group, kh, kw, oh, ow) of every product, h and w in the padded image."""
        for n in range(self.N):
            for f in range(self.F):
                group = f // (self.F // self.groups)
                for oh in range(self.OH):
                    for ow in range(self.OW):
                        for cg in range(self.CG):
                            for kh in range(self.KH):
                                for kw in range(self.KW):
                                    c = group * self.CG + cg
                                    h = oh * self.stride[0] + kh * self.dilation[0]
                                    w = ow * self.stride[1] + kw * self.dilation[1]
                                    # The turned kernel is read from its other end.
                                    tap = (self.KH - 1 - kh, self.KW - 1 - kw) if self.flip else (kh, kw)
                                    yield n, c, h, w, f, cg, *tap, oh, ow

    def pad(self, x: Array) -> Array:
        """x with its zeros around it."""
        return np.pad(x, self.pads)

    def crop(self, x_padded: Array) -> Array:
        """The image inside the padding."""
        (top, bottom), (left, right) = self.pads[2:]
        return x_padded[:, :, top : x_padded.shape[2] - bottom, left : x_padded.shape[3] - right]


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, tuple | list) else (value, value)
    return first, second


def _ends(padding: Any, axis: int, extent: int, taps: int, stride: int, dilation: int) -> tuple[int, int]:
    """Zeros before and after one axis."""
    if padding == "valid":
        return 0, 0
    if padding in ("same", "same_lower"):
        out = math.ceil(extent / stride)
        total = max(0, (out - 1) * stride + dilation * (taps - 1) + 1 - extent)
        half = total // 2
        return (half, total - half) if padding == "same" else (total - half, half)
    side: Any = padding[axis] if isinstance(padding, tuple | list) else padding
    return _pair(side)


def _shape(x: Array, layout: str) -> tuple[int, ...]:
    return tuple(x.shape[AXES[layout].index(axis)] for axis in "nchw")


def _nchw(x: Array, layout: str) -> Array:
    return x.transpose([AXES[layout].index(axis) for axis in "nchw"])


def _from_nchw(y: Array, layout: str) -> Array:
    return np.ascontiguousarray(y.transpose(["nchw".index(axis) for axis in AXES[layout]]))
