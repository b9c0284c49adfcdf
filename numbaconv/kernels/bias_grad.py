"""Bias gradient: db[f] = sum over n, oh, ow of dy[n, f, oh, ow].

A vector holds what the layout puts side by side: pixels of an image, filters of a pixel or images of a pixel.
The layout alone decides that, so that a strided view is summed in the order of its contiguous copy; where the
elements are not side by side after all they are first brought together. One filter, or one vector of filters, is
one piece of work: the same bits for any number of threads.
"""

from .jit import helper
from .launch import NestKernel
from .simd import (
    lanes_of,
    load,
    moved,
    pointer,
    store,
    unpacked,
    vector_add,
    vector_load,
    vector_load_first,
    vector_store,
    vector_sum,
    vector_zero,
    zero_of,
)
from .work import claim

PIXELS, FILTERS, IMAGES = 0, 1, 2

BIAS_GRAD = (
    "record", "dy", "y_n", "y_f", "y_h", "y_w", "N", "F", "OH", "OW", "vector_axis", "db", "db_f", "accumulate",
    "scratch_size",
)  # fmt: skip
BIAS_GRAD_COUNT = len(BIAS_GRAD)


@helper
def sum_rows(stage, source, outer, step_outer, rows, step_row, columns, step):
    """Sum over all of source[o * step_outer + r * step_row + i * step], the (r, i) of an o side by side in vectors."""
    lanes = lanes_of(source)
    count = rows * columns
    joined = step == 1 and (rows == 1 or step_row == columns)
    sums = vector_zero(source)
    for o in range(outer):
        start = moved(source, o * step_outer)
        if joined:
            whole = count // lanes * lanes
            for i in range(0, whole, lanes):
                sums = vector_add(sums, vector_load(start, i))
            if whole < count:
                sums = vector_add(sums, vector_load_first(start, whole, count - whole))
            continue
        r, i = 0, 0
        for first in range(0, count, lanes):
            for lane in range(lanes):
                inside = first + lane < count
                store(stage, lane, load(start, r * step_row + i * step) if inside else zero_of(source))
                i += 1
                if i == columns:
                    r, i = r + 1, 0
            sums = vector_add(sums, vector_load(stage, 0))
    return vector_sum(sums)


@NestKernel
def bias_grad(scratch, arguments, worker):
    """db[f] (+)= the sum over everything else."""
    (
        _, dy_address, y_n, y_f, y_h, y_w, N, F, OH, OW, vector_axis, db_address, db_f, accumulate, scratch_size,
    ) = unpacked(arguments, BIAS_GRAD_COUNT)  # fmt: skip
    dy, db = pointer(dy_address, scratch), pointer(db_address, scratch)
    lanes = lanes_of(scratch)
    stage = moved(scratch, worker * scratch_size)
    block = lanes if vector_axis == FILTERS else 1
    while True:
        piece = claim(arguments, worker)
        if piece >= (F + block - 1) // block:
            return 0
        f = piece * block
        count = min(block, F - f)
        source = moved(dy, f * y_f)
        if vector_axis == PIXELS:
            store(stage, 0, sum_rows(stage, source, N, y_n, OH, y_h, OW, y_w))
        elif vector_axis == IMAGES:
            total = zero_of(scratch)
            for oh in range(OH):
                total += sum_rows(stage, moved(source, oh * y_h), OW, y_w, 1, 0, N, y_n)
            store(stage, 0, total)
        elif y_f == 1:
            sums = vector_zero(scratch)
            for n in range(N):
                for oh in range(OH):
                    row = moved(source, n * y_n + oh * y_h)
                    for ow in range(OW):
                        sums = vector_add(sums, vector_load_first(row, ow * y_w, count))
            vector_store(stage, 0, sums)
        else:
            for i in range(count):
                total = zero_of(scratch)
                for n in range(N):
                    for oh in range(OH):
                        for ow in range(OW):
                            total += load(source, i * y_f + n * y_n + oh * y_h + ow * y_w)
                store(stage, i, total)
        for i in range(count):
            value = load(stage, i)
            place = (f + i) * db_f
            store(db, place, load(db, place) + value if accumulate else value)
