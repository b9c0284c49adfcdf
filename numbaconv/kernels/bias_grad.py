"""Bias gradient: db[f] = sum over n, oh, ow of dy[n, f, oh, ow].

One filter, or where filters lie side by side one vector of them, is one piece of work, summed in the order n, oh, ow
with the lanes of a vector side by side: the same bits for any number of threads.
"""

from .launch import NestKernel
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
    vector_load_first,
    vector_store,
    vector_sum,
    vector_zero,
    zero_of,
)

BIAS_GRAD = (
    "counter", "dy", "y_n", "y_f", "y_h", "y_w", "N", "F", "OH", "OW", "db", "db_f", "accumulate", "scratch_size",
)  # fmt: skip


@NestKernel
def bias_grad(scratch, arguments, worker):
    """db[f] (+)= the sum over everything else."""
    _, dy_address, y_n, y_f, y_h, y_w, N, F, OH, OW, db_address, db_f, accumulate, scratch_size = unpacked(
        arguments, 14
    )
    dy, db = pointer(dy_address, scratch), pointer(db_address, scratch)
    lanes = lanes_of(scratch)
    stage = moved(scratch, worker * scratch_size)
    side_by_side = y_f == 1 and y_w != 1
    block = lanes if side_by_side else 1
    # Runs of images where the batch lies together, of pixels elsewhere; rows that follow each other are one.
    batch = y_n == 1 and y_w != 1
    A, B, R = (OH, OW, N) if batch else (N, OH, OW)
    step_a, step_b, step = (y_h, y_w, y_n) if batch else (y_n, y_h, y_w)
    if not batch and y_h == OW * y_w:
        B, R = 1, OH * OW
    while True:
        piece = claim(arguments)
        if piece >= (F + block - 1) // block:
            return 0
        f = piece * block
        count = min(block, F - f)
        total = zero_of(scratch)
        sums = vector_zero(scratch)
        for a in range(A):
            for b in range(B):
                source = moved(dy, f * y_f + a * step_a + b * step_b)
                if side_by_side:
                    for r in range(R):
                        sums = vector_add(sums, vector_load_first(source, r * step, count))
                elif step == 1:
                    whole = R // lanes * lanes
                    for r in range(0, whole, lanes):
                        sums = vector_add(sums, vector_load(source, r))
                    if whole < R:
                        sums = vector_add(sums, vector_load_first(source, whole, R - whole))
                else:
                    for r in range(R):
                        total += load(source, r * step)
        if side_by_side:
            vector_store(stage, 0, sums)
        else:
            store(stage, 0, total + vector_sum(sums))
        for i in range(count):
            value = load(stage, i)
            place = (f + i) * db_f
            store(db, place, load(db, place) + value if accumulate else value)
