"""The four passes as explicit loops: what the formulas say, for every valid problem.

Shapes: x (N, C, H, W), weight (F, C / groups, KH, KW), bias (F,), y (N, F, OH, OW); a gradient d<name>
has the shape of <name>. `stride` and `dilation` are (vertical, horizontal), `padding` is (top, bottom,
left, right), `groups` the number of groups. With `accumulate` the finished sum is added to what the
output holds.

Each output element is summed by one iteration of one `prange`, in the order of the loops, so that the
result is the same to the last bit for any number of threads. A `prange` index is unsigned; it is made
signed before it meets signed integers, whose mixture with it would be a float.
"""

import numpy as np
from numba import njit, prange

from .jit import kernel


@njit(error_model="numpy")
def padded(x, n, c, h, w):
    """x[n, c, h, w], or zero where (h, w) lies in the padding."""
    if 0 <= h < x.shape[2] and 0 <= w < x.shape[3]:
        return x[n, c, h, w]
    return x.dtype.type(0)


@kernel(writes="y")
@njit(parallel=True, error_model="numpy", nogil=True)
def forward(x, weight, bias, y, stride, dilation, padding, groups, accumulate):
    """y = x (*) weight + bias; a bias of length 0 is none."""
    N, F, OH, OW = y.shape
    CG, KH, KW = weight.shape[1:]
    filters_per_group = F // groups
    for nf in prange(N * F):  # one output plane each
        n, f = divmod(np.int64(nf), F)
        first = f // filters_per_group * CG  # first channel that filter f looks at
        for oh in range(OH):
            for ow in range(OW):
                total = x.dtype.type(0)
                for c in range(CG):
                    for kh in range(KH):
                        h = oh * stride[0] - padding[0] + kh * dilation[0]
                        for kw in range(KW):
                            w = ow * stride[1] - padding[2] + kw * dilation[1]
                            total += padded(x, n, first + c, h, w) * weight[f, c, kh, kw]
                if bias.size > 0:
                    total += bias[f]
                y[n, f, oh, ow] = y[n, f, oh, ow] + total if accumulate else total


@kernel(writes="dx")
@njit(parallel=True, error_model="numpy", nogil=True)
def input_grad(dy, weight, dx, stride, dilation, padding, groups, accumulate):
    """dx = dy, spread out by the stride and padded, (*) the turned kernel."""
    N, C, H, W = dx.shape
    F, CG, KH, KW = weight.shape
    OH, OW = dy.shape[2:]
    filters_per_group = F // groups
    for nc in prange(N * C):  # one plane of dx each
        n, channel = divmod(np.int64(nc), C)
        group, c = divmod(channel, CG)
        for h in range(H):
            for w in range(W):
                total = dy.dtype.type(0)
                for f in range(group * filters_per_group, (group + 1) * filters_per_group):
                    for kh in range(KH):
                        # The output rows whose tap kh reads row h: none between two strides.
                        oh, between_rows = divmod(h + padding[0] - kh * dilation[0], stride[0])
                        if between_rows or not 0 <= oh < OH:
                            continue
                        for kw in range(KW):
                            ow, between_columns = divmod(w + padding[2] - kw * dilation[1], stride[1])
                            if between_columns or not 0 <= ow < OW:
                                continue
                            total += dy[n, f, oh, ow] * weight[f, c, kh, kw]
                dx[n, channel, h, w] = dx[n, channel, h, w] + total if accumulate else total


@kernel(writes="dw")
@njit(parallel=True, error_model="numpy", nogil=True)
def weight_grad(x, dy, dw, stride, dilation, padding, groups, accumulate):
    """dw = x (*) dy: each tap sums the products of the pixels it saw with their dy."""
    N, F, OH, OW = dy.shape
    CG, KH, KW = dw.shape[1:]
    filters_per_group = F // groups
    for fc in prange(F * CG):  # one kernel plane each
        f, c = divmod(np.int64(fc), CG)
        channel = f // filters_per_group * CG + c
        for kh in range(KH):
            for kw in range(KW):
                total = x.dtype.type(0)
                for n in range(N):
                    for oh in range(OH):
                        h = oh * stride[0] - padding[0] + kh * dilation[0]
                        for ow in range(OW):
                            w = ow * stride[1] - padding[2] + kw * dilation[1]
                            total += padded(x, n, channel, h, w) * dy[n, f, oh, ow]
                dw[f, c, kh, kw] = dw[f, c, kh, kw] + total if accumulate else total


@kernel(writes="db")
@njit(parallel=True, error_model="numpy", nogil=True)
def bias_grad(dy, db, accumulate):
    """db = dy summed over images and pixels."""
    N, F, OH, OW = dy.shape
    for filter_ in prange(F):  # one filter each
        f = np.int64(filter_)
        total = dy.dtype.type(0)
        for n in range(N):
            for oh in range(OH):
                for ow in range(OW):
                    total += dy[n, f, oh, ow]
        db[f] = db[f] + total if accumulate else total
