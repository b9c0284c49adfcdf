"""Depthwise convolution: every filter looks at one channel, with the vector along the row.

    y[f, oh, ow] = bias[f] + sum over kh, kw of weight[f, kh, kw] * x[f // multiplier, what (kh, kw) reads]

There is no sum over channels to tile: each output costs KH * KW multiply-adds and the pass is bound by
memory, so rows are read in place, and only the vectors that meet the border are masked. A plane, or in
the weight gradient a filter, is one piece of work: the same bits for any number of threads.

The input gradient is the same nest on dy, with the kernel turned (see :mod:`.input_grad`).
"""

from numba import njit

from .launch import NestKernel
from .packing import write_run
from .simd import (
    claim,
    lanes_of,
    load,
    moved,
    pointer,
    store,
    unpacked,
    vector_add,
    vector_even,
    vector_fill,
    vector_load,
    vector_load_between,
    vector_load_first,
    vector_multiply_add,
    vector_store,
    vector_sum,
    vector_zero,
)

DEPTHWISE = (
    "counter", "x", "x_n", "x_c", "x_h", "H", "W", "weight", "w_f", "w_c", "w_kh", "w_kw", "bias", "bias_f", "y", "y_n", "y_f",
    "y_h", "y_w", "N", "OH", "OW", "F", "C", "KH", "KW", "stride_h", "stride_w", "offset_h", "offset_w",
    "dilation_h", "dilation_w", "accumulate", "scratch_size",
)  # fmt: skip


@njit(error_model="numpy")
def row_vector(row, w, stride, W, count):
    """v[i] = row[w + i * stride] if that is inside the row and i < count, else 0. stride is 1 or 2."""
    lanes = lanes_of(row)
    if stride == 1:
        if w >= 0 and w + lanes <= W and count >= lanes:
            return vector_load(row, w)
        return vector_load_between(row, w, -w, min(count, W - w))
    end = min(2 * count - 1, W - w)
    if w >= 0 and end >= 2 * lanes:
        return vector_even(vector_load(row, w), vector_load(row, w + lanes))
    low = vector_load_between(row, w, -w, end)
    high = vector_load_between(row, w + lanes, -w - lanes, end - lanes)
    return vector_even(low, high)


@NestKernel
def depthwise(scratch, arguments, worker):
    """Requires unit steps along rows of x and stride_w 1 or 2. C counts the filters' channels: 1 sum per channel."""
    (
        _, x_address, x_n, x_c, x_h, H, W, weight_address, w_f, w_c, w_kh, w_kw, bias_address, bias_f, y_address, y_n, y_f,
        y_h, y_w, N, OH, OW, F, C, KH, KW, stride_h, stride_w, offset_h, offset_w,
        dilation_h, dilation_w, accumulate, scratch_size,
    ) = unpacked(arguments, 34)  # fmt: skip
    x, weight = pointer(x_address, scratch), pointer(weight_address, scratch)
    bias, y = pointer(bias_address, scratch), pointer(y_address, scratch)
    stage = moved(scratch, worker * scratch_size)
    lanes = lanes_of(scratch)
    multiplier = F // C
    while True:
        piece = claim(arguments)
        if piece >= N * F:
            return 0
        n, f = divmod(piece, F)
        taps = moved(weight, f * w_f)
        plane = moved(x, n * x_n + f // multiplier * x_c)
        for oh in range(OH):
            out = moved(y, n * y_n + f * y_f + oh * y_h)
            for ow in range(0, OW, lanes):
                count = min(lanes, OW - ow)
                total = vector_zero(scratch)
                for kh in range(KH):
                    h = oh * stride_h + offset_h + kh * dilation_h
                    row = moved(plane, h * x_h)
                    width = W if 0 <= h < H else -1 << 40  # a row of the padding has no elements
                    for kw in range(KW):
                        w = ow * stride_w + offset_w + kw * dilation_w
                        tap = vector_fill(scratch, load(taps, kh * w_kh + kw * w_kw))
                        pixels = row_vector(row, w, stride_w, width, lanes)
                        total = vector_multiply_add(tap, pixels, total)
                if bias_address != 0:
                    total = vector_add(total, vector_fill(scratch, load(bias, f * bias_f)))
                vector_store(stage, 0, total)
                write_run(moved(out, ow * y_w), y_w, stage, count, accumulate)


DEPTHWISE_WEIGHT_GRAD = (
    "counter", "x", "x_n", "x_c", "x_h", "H", "W", "dy", "y_n", "y_f", "y_h", "dw", "w_f", "w_kh", "w_kw",
    "N", "OH", "OW", "F", "C", "KH", "KW", "stride_h", "stride_w", "offset_h", "offset_w",
    "dilation_h", "dilation_w", "accumulate", "scratch_size",
)  # fmt: skip


@NestKernel
def depthwise_weight_grad(scratch, arguments, worker):
    """Requires unit steps along rows of x and dy, and stride_w 1 or 2. One sum per tap and lane, halved at the end."""
    (
        _, x_address, x_n, x_c, x_h, H, W, dy_address, y_n, y_f, y_h, dw_address, w_f, w_kh, w_kw,
        N, OH, OW, F, C, KH, KW, stride_h, stride_w, offset_h, offset_w,
        dilation_h, dilation_w, accumulate, scratch_size,
    ) = unpacked(arguments, 30)  # fmt: skip
    x, dy, dw = pointer(x_address, scratch), pointer(dy_address, scratch), pointer(dw_address, scratch)
    sums = moved(scratch, worker * scratch_size)
    lanes = lanes_of(scratch)
    multiplier = F // C
    while True:
        f = claim(arguments)
        if f >= F:
            return 0
        for tap in range(KH * KW):
            vector_store(sums, tap * lanes, vector_zero(scratch))
        for n in range(N):
            plane = moved(x, n * x_n + f // multiplier * x_c)
            for oh in range(OH):
                grads = moved(dy, n * y_n + f * y_f + oh * y_h)
                for kh in range(KH):
                    h = oh * stride_h + offset_h + kh * dilation_h
                    row = moved(plane, h * x_h)
                    width = W if 0 <= h < H else -1 << 40
                    for kw in range(KW):
                        place = (kh * KW + kw) * lanes
                        total = vector_load(sums, place)
                        for ow in range(0, OW, lanes):
                            w = ow * stride_w + offset_w + kw * dilation_w
                            # Lanes behind the row end are zero in both factors: the x there may be NaN.
                            pixels = row_vector(row, w, stride_w, width, OW - ow)
                            grad = vector_load_first(grads, ow, OW - ow)
                            total = vector_multiply_add(grad, pixels, total)
                        vector_store(sums, place, total)
        for kh in range(KH):
            for kw in range(KW):
                value = vector_sum(vector_load(sums, (kh * KW + kw) * lanes))
                place = f * w_f + kh * w_kh + kw * w_kw
                store(dw, place, load(dw, place) + value if accumulate else value)
