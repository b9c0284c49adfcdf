"""The second oracle: each pass as a loop over taps of NumPy slices.

It shares nothing with the package: layouts, padding, groups, stride and dilation are worked out here
a second time. Arrays may be int64, float64, or objects such as `fractions.Fraction`; the arithmetic is
that of the arrays, so data that are integers below 2**53 come out exact in any order of summation.
The functions take what those of `numbaconv` take, less `algorithm`, `out` and `accumulate`.
"""

import numpy as np


def _pair(value):
    return (value, value) if np.ndim(value) == 0 else tuple(value)


def explicit_padding(padding, extents, kernel, stride, dilation):
    """((top, bottom), (left, right)) of any form that `padding` may have."""
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding not in ("same", "same_lower"):
        vertical, horizontal = _pair(padding)
        return _pair(vertical), _pair(horizontal)
    pads = []
    for size, k, s, d in zip(extents, kernel, stride, dilation, strict=True):
        outputs = -(-size // s)
        total = max(0, (outputs - 1) * s + d * (k - 1) + 1 - size)
        pads.append((total // 2, total - total // 2))
    return tuple(pads) if padding == "same" else tuple(pair[::-1] for pair in pads)


class Taps:
    """The geometry of one problem: pads, output extents, and for each tap the input it meets."""

    def __init__(self, extents, kernel, stride, padding, dilation):
        self.kernel, self.stride, self.dilation = kernel, _pair(stride), _pair(dilation)
        self.pads = explicit_padding(padding, extents, kernel, self.stride, self.dilation)
        self.extents = extents
        self.padded = tuple(size + sum(pads) for size, pads in zip(extents, self.pads, strict=True))
        self.outputs = tuple(
            (size - d * (k - 1) - 1) // s + 1
            for size, k, s, d in zip(self.padded, kernel, self.stride, self.dilation, strict=True)
        )

    def __iter__(self):
        """Yield kh, kw and the index of the padded input that this tap multiplies, one per output."""
        (OH, OW), (sh, sw), (dh, dw) = self.outputs, self.stride, self.dilation
        for kh, kw in np.ndindex(*self.kernel):
            rows = slice(kh * dh, kh * dh + (OH - 1) * sh + 1, sh)
            columns = slice(kw * dw, kw * dw + (OW - 1) * sw + 1, sw)
            yield kh, kw, (..., rows, columns)

    def pad(self, x):
        return np.pad(x, ((0, 0), (0, 0), *self.pads))

    def crop(self, padded):
        (top, _), (left, _) = self.pads
        H, W = self.extents
        return padded[..., top : top + H, left : left + W]


def to_nchw(array, layout):
    return array.transpose([layout.index(axis) for axis in "NCHW"])


def from_nchw(array, layout):
    return np.ascontiguousarray(array.transpose(["NCHW".index(axis) for axis in layout]))


def conv2d(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1, layout="NCHW", flip=False):
    x = to_nchw(x, layout)
    N, C, H, W = x.shape
    F, _, KH, KW = weight.shape
    taps = Taps((H, W), (KH, KW), stride, padding, dilation)
    OH, OW = taps.outputs
    xp = taps.pad(x)
    w = (weight[..., ::-1, ::-1] if flip else weight).reshape(groups, F // groups, C // groups, KH, KW)
    y = np.zeros((N, groups, F // groups, OH * OW), np.result_type(x, weight))
    for kh, kw, window in taps:
        y += w[..., kh, kw] @ xp[window].reshape(N, groups, C // groups, OH * OW)
    y = y.reshape(N, F, OH, OW)
    if bias is not None:
        y = y + bias[:, None, None]
    return from_nchw(y, layout)


def conv2d_input_grad(dy, weight, input_shape, *, stride=1, padding=0, dilation=1, groups=1, layout="NCHW", flip=False):
    dy = to_nchw(dy, layout)
    N, C, H, W = (input_shape[layout.index(axis)] for axis in "NCHW")
    F, _, KH, KW = weight.shape
    taps = Taps((H, W), (KH, KW), stride, padding, dilation)
    OH, OW = taps.outputs
    w = (weight[..., ::-1, ::-1] if flip else weight).reshape(groups, F // groups, C // groups, KH, KW)
    dxp = np.zeros((N, C, *taps.padded), np.result_type(dy, weight))
    dy = dy.reshape(N, groups, F // groups, OH * OW)
    for kh, kw, window in taps:
        dxp[window] += (w[..., kh, kw].swapaxes(-1, -2) @ dy).reshape(N, C, OH, OW)
    return from_nchw(taps.crop(dxp), layout)


def conv2d_weight_grad(x, dy, kernel_size, *, stride=1, padding=0, dilation=1, groups=1, layout="NCHW", flip=False):
    x, dy = to_nchw(x, layout), to_nchw(dy, layout)
    N, C, H, W = x.shape
    F = dy.shape[1]
    KH, KW = _pair(kernel_size)
    taps = Taps((H, W), (KH, KW), stride, padding, dilation)
    OH, OW = taps.outputs
    xp = taps.pad(x)
    dy = dy.reshape(N, groups, F // groups, OH * OW)
    dw = np.zeros((F, C // groups, KH, KW), np.result_type(x, dy))
    for kh, kw, window in taps:
        pixels = xp[window].reshape(N, groups, C // groups, OH * OW).swapaxes(-1, -2)
        dw[..., kh, kw] = (dy @ pixels).sum(axis=0).reshape(F, C // groups)
    return np.ascontiguousarray(dw[..., ::-1, ::-1]) if flip else dw


def conv2d_bias_grad(dy, *, layout="NCHW"):
    return to_nchw(dy, layout).sum(axis=(0, 2, 3))
