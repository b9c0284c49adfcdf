"""Weight gradient of a depthwise convolution: dw[c, kh, kw] = sum over pixels of dy[c, pixel] * x[c, what it reads].

Blocks of rows of x and dy are packed as in :mod:`.depthwise`, and a vector runs over channels. A piece of work is a
share of the images and blocks of rows; shares are cut by shape alone and added in order: the same bits for any number
of threads.
"""

from .depthwise import SHAPE_COUNT, depthwise_kernel
from .jit import helper
from .launch import NestKernel
from .packing import clear
from .pixels import pack_pixels
from .simd import (
    claim,
    lanes_of,
    load,
    moved,
    pointer,
    store,
    unpacked,
    vector_add,
    vector_load,
    vector_multiply_add,
    vector_store,
    vector_zero,
)


@helper
def sum_taps(out, line, grads, pitch, height, width, steps, taps):
    """out[k] += sum over h < height, w < width of grads[h, w] * line[h, w, k], for k < min(taps, 3).

    All are vectors, those of grads `pitch` elements apart. `steps` are those from one h, w and k of line to the next.
    Three taps share the load of grads, and hide the latency of each other's addition.
    """
    lanes = lanes_of(out)
    step_h, step_w, step_k = steps
    last = min(taps, 3) - 1
    # With fewer taps the last one is summed again, and stored once.
    second, third = min(1, last) * step_k, last * step_k
    sum0, sum1, sum2 = vector_load(out, 0), vector_load(out, min(1, last) * lanes), vector_load(out, last * lanes)
    for h in range(height):
        row = moved(line, h * step_h)
        grad_row = moved(grads, h * width * pitch)
        for w in range(width):
            grad = vector_load(grad_row, w * pitch)
            place = w * step_w
            sum0 = vector_multiply_add(grad, vector_load(row, place), sum0)
            sum1 = vector_multiply_add(grad, vector_load(row, place + second), sum1)
            sum2 = vector_multiply_add(grad, vector_load(row, place + third), sum2)
    vector_store(out, 0, sum0)
    vector_store(out, min(1, last) * lanes, sum1)
    vector_store(out, last * lanes, sum2)


@depthwise_kernel
def depthwise_weight_grad(scratch, arguments, worker):
    """Pieces: share of the images and blocks of rows; sums go to partial[share][c block][tap]."""
    (
        _, x_address, x_n, x_c, x_h, x_w, y_address, y_n, y_c, y_h, y_w, _, _, _, _,
        N, C, H, W, OH, OW, KH, KW, stride_h, stride_w, dilation_h, dilation_w, top, left,
        _, _, partial_address, shares, rows, together, strip_size, _, scratch_size,
    ) = unpacked(arguments, SHAPE_COUNT)  # fmt: skip
    x, dy, partial = (
        pointer(x_address, scratch),
        pointer(y_address, scratch),
        pointer(partial_address, scratch),
    )
    lanes = lanes_of(scratch)
    strip = moved(scratch, worker * scratch_size)
    grads = moved(strip, strip_size)
    clear(strip, strip_size + rows * OW * together)  # as in the forward pass
    vectors, row_blocks = (C + lanes - 1) // lanes, (OH + rows - 1) // rows
    columns = (OW - 1) * stride_w + (KW - 1) * dilation_w + 1
    while True:
        piece = claim(arguments)
        if piece >= shares:
            return 0
        partial_sums = moved(partial, piece * vectors * KH * KW * lanes)
        for tap in range(vectors * KH * KW):
            vector_store(partial_sums, tap * lanes, vector_zero(scratch))
        for block in range(piece * N * row_blocks // shares, (piece + 1) * N * row_blocks // shares):
            n, row_block = divmod(block, row_blocks)
            oh = row_block * rows
            height = min(rows, OH - oh)
            strip_rows = (height - 1) * stride_h + (KH - 1) * dilation_h + 1
            for c in range(0, C, together):
                channels = min(together, C - c)
                pack_pixels(
                    strip, together, moved(x, n * x_n + c * x_c), x_n, x_c, x_h, x_w, H, W, 1, strip_rows, columns,
                    channels, oh * stride_h - top, -left,
                )  # fmt: skip
                pack_pixels(
                    grads, together, moved(dy, n * y_n + c * y_c), y_n, y_c, y_h, y_w, OH, OW, 1, height, OW, channels,
                    oh, 0,
                )  # fmt: skip
                for first in range(0, channels, lanes):
                    sums = moved(partial_sums, (c + first) * KH * KW)
                    for kh in range(KH):
                        for kw in range(0, KW, 3):
                            line = moved(strip, (kh * dilation_h * columns + kw * dilation_w) * together + first)
                            steps = stride_h * columns * together, stride_w * together, dilation_w * together
                            out = moved(sums, (kh * KW + kw) * lanes)
                            sum_taps(out, line, moved(grads, first), together, height, OW, steps, KW - kw)


@NestKernel
def add_depthwise_shares(scratch, arguments, worker):
    """weight is dw here: dw (+)= the partial sums of all shares, added in their order."""
    (
        _, _, _, _, _, _, _, _, _, _, _, weight_address, w_c, w_kh, w_kw,
        _, C, _, _, _, _, KH, KW, _, _, _, _, _, _, _, _, partial_address, shares, _, _, _, accumulate, scratch_size,
    ) = unpacked(arguments, SHAPE_COUNT)  # fmt: skip
    dw, partial = pointer(weight_address, scratch), pointer(partial_address, scratch)
    lanes = lanes_of(scratch)
    stage = moved(scratch, worker * scratch_size)
    c_blocks = (C + lanes - 1) // lanes
    while True:
        c_block = claim(arguments)
        if c_block >= c_blocks:
            return 0
        c = c_block * lanes
        for kh in range(KH):
            for kw in range(KW):
                source = moved(partial, (c_block * KH * KW + kh * KW + kw) * lanes)
                total = vector_load(source, 0)
                for share in range(1, shares):
                    total = vector_add(total, vector_load(source, share * c_blocks * KH * KW * lanes))
                vector_store(stage, 0, total)
                for i in range(min(lanes, C - c)):
                    place = (c + i) * w_c + kh * w_kh + kw * w_kw
                    value = load(stage, i)
                    store(dw, place, load(dw, place) + value if accumulate else value)
