"""Winograd's minimal filtering in a few lines of NumPy, and the matrices of it, derived from points.

The transposed form of Toom and Cook's product of polynomials: a filter g of r taps slid over d gives m outputs with
n = m + r - 1 multiplications in place of m r, one for each of n points at which polynomials are evaluated::

    y = A^T [(G g) * (B^T d)]                    * element by element
    Y = A^T [(G g G^T) * (B^T d B)] A            in two dimensions: n^2 in place of m^2 r^2

Summed over channels before A^T and A are applied, each of the n^2 positions is a product of matrices. The input
gradient is the same with the turned kernel; for the weight gradient m and r change places, and the sum runs over
tiles. A larger kernel, or one at a stride, is a sum over r x r parts of it. :func:`forward`, :func:`weight_grad` and
:func:`in_parts` below are all of it.

Sources: S. Winograd, Arithmetic Complexity of Computations (SIAM 1980); A. Lavin, S. Gray, Fast Algorithms for
Convolutional Neural Networks (CVPR 2016); for the choice of points B. Barabasz et al., Error Analysis and Improving
the Accuracy of Winograd Convolution for Deep Neural Networks (ACM TOMS 46, 2020); for kernels in parts D. Huang et al.,
DWM: A Decomposable Winograd Method for Convolution Acceleration (AAAI 2020).
"""

from __future__ import annotations

from fractions import Fraction
from math import prod

import numpy as np
from numpy.typing import NDArray

Matrix = tuple[tuple[Fraction, ...], ...]

# The finite points for tiles of n x n pixels; infinity is always one more. They decide the error: on float32 with 64
# channels and 3 x 3 taps, y is 2.4 times as wrong with 0, +-1, +-2 as with these.
POINTS = {
    4: (Fraction(0), Fraction(1), Fraction(-1)),
    6: (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2)),
}
# (m, r): tiles of m x m outputs for r x r taps, that there are kernels for; and those of dw, where 5 x 5 outputs of dy
# take as long as direct sums.
VARIANTS = ((2, 3), (4, 3), (3, 4), (2, 5), (5, 2))
GRAD_VARIANTS = VARIANTS[:4]


def polynomial(roots: tuple[Fraction, ...]) -> list[Fraction]:
    """Coefficients of the product of all (x - root), lowest power first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [*(root * c for c in coefficients), Fraction(0)]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def input_matrix(points: tuple[Fraction, ...]) -> Matrix:
    """B^T, n x n: row j is the polynomial whose roots are the other points, and that of all points for infinity."""
    others = [polynomial(points[:j] + points[j + 1 :]) + [Fraction(0)] for j in range(len(points))]
    return tuple(map(tuple, [*others, polynomial(points)]))


def filter_matrix(points: tuple[Fraction, ...], taps: int) -> Matrix:
    """G, n x taps: the filter's polynomial at each point, over the product of the distances to the others."""
    rows = []
    for j, point in enumerate(points):
        distances = prod((point - other for other in points[:j] + points[j + 1 :]), start=Fraction(1))
        rows.append(tuple(point**k / distances for k in range(taps)))
    return (*rows, tuple(Fraction(k == taps - 1) for k in range(taps)))


def output_matrix(points: tuple[Fraction, ...], outputs: int) -> Matrix:
    """A^T, outputs x n: the powers of each point; infinity gives to the highest alone."""
    return tuple((*(point**k for point in points), Fraction(k == outputs - 1)) for k in range(outputs))


def as_array(matrix: Matrix, dtype: np.dtype | type = np.float64) -> NDArray:
    """The matrix in floating point."""
    return np.array([[float(value) for value in row] for row in matrix], dtype)


def tiles_of(image: NDArray, size: int, step: int) -> NDArray:
    """(C, H, W) to (C, rows, columns, size, size): windows `step` apart."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (size, size), axis=(1, 2))
    return windows[:, ::step, ::step]


def forward(x: NDArray, weight: NDArray, m: int) -> NDArray:
    """y (F, OH, OW) of x (C, OH + r - 1, OW + r - 1) and weight (F, C, r, r), OH and OW multiples of m."""
    r = weight.shape[2]
    n = m + r - 1
    BT, G, AT = (
        as_array(matrix, x.dtype)
        for matrix in (input_matrix(POINTS[n]), filter_matrix(POINTS[n], r), output_matrix(POINTS[n], m))
    )
    V = BT @ tiles_of(x, n, m) @ BT.T
    U = G @ weight @ G.T
    M = np.einsum("fcij,chwij->fhwij", U, V)
    Y = AT @ M @ AT.T
    F, rows, columns = Y.shape[:3]
    return Y.transpose(0, 1, 3, 2, 4).reshape(F, rows * m, columns * m)


def weight_grad(x: NDArray, dy: NDArray, m: int) -> NDArray:
    """dw (F, C, r, r) of x (C, OH + r - 1, OW + r - 1) and dy (F, OH, OW), OH and OW multiples of m."""
    r = x.shape[1] - dy.shape[1] + 1
    n = m + r - 1
    BT, G, AT = (
        as_array(matrix, x.dtype)
        for matrix in (input_matrix(POINTS[n]), filter_matrix(POINTS[n], m), output_matrix(POINTS[n], r))
    )
    V = BT @ tiles_of(x, n, m) @ BT.T
    D = G @ tiles_of(dy, m, m) @ G.T
    return AT @ np.einsum("fhwij,chwij->fcij", D, V) @ AT.T


def in_parts(x: NDArray, weight: NDArray, r: int, stride: int) -> tuple[NDArray, NDArray]:
    """Maps of x and r x r parts of a larger kernel, whose :func:`forward` is the pass of that kernel at a stride.

    Part (p, a) has the taps a + stride (r p + i), i < r, of an axis, and slides over every stride-th pixel.
    """
    K, (H, W) = weight.shape[2], x.shape[1:]
    parts = -(-K // (stride * r))
    size = parts * stride * r
    x = np.pad(x, ((0, 0), (0, size), (0, size)))
    weight = np.pad(weight, ((0, 0), (0, 0), (0, size - K), (0, size - K)))
    OH, OW = (H - K) // stride + 1, (W - K) // stride + 1
    first = [a + stride * r * p for p in range(parts) for a in range(stride)]
    pairs = [(i, j) for i in first for j in first]
    maps = [x[:, i::stride, j::stride][:, : OH + r - 1, : OW + r - 1] for i, j in pairs]
    kernels = [weight[:, :, i::stride, j::stride][:, :, :r, :r] for i, j in pairs]
    return np.concatenate(maps), np.concatenate(kernels, axis=1)
