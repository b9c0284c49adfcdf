"""Winograd's algorithm for r x r taps at stride 1: :mod:`.algebra` is all of it in NumPy, the rest makes it fast.

    tiles of x    transform    V[position][channels of a vector][tile]        transforms
    filters       transform    U[position][filters of a vector][channel]      transforms
    V, U          product      M at each of the n x n positions               product
    M             transform    y                                              transforms

:mod:`.forward` is this nest for y and for dx, :mod:`.weight_grad` has the transformed dy in the place of the filters
and sums over tiles. :mod:`.maps` makes sums over r x r taps of every other kernel and stride.

Numerics: for 3 x 3 taps tiles are 4 x 4 outputs, or 2 x 2 on short sums and where 2 x 2 needs no more products; neither
the batch nor the threads change that. On independent normal data the relative RMS error is at most 3 times that of the
direct sum. For 2 x 2, 4 x 4 and 5 x 5 taps tiles are 5 x 5, 3 x 3 and 2 x 2, on the 6 points of 4 x 4 for 3 x 3: with
about the same error. Short sums and small maps have no other variant there, so that this is for "auto" alone, which
leaves them to direct; dw is within 5 times of the direct sum, where that is in many short parts, and below 1.2e-6 in
float32. Where taps lie apart, tiles interleave: each takes every dilation-th pixel. This is for "auto" alone, too, as
are kernels in parts.
Integers are not exact. Infinity may become NaN, and NaN or infinity may spread over the tile it is in, in dw over the
taps, but never vanish.
"""
