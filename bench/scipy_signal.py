"""The convolution layer in SciPy: one 2-D correlation for each image, filter and channel, stride 1.

Shapes: x (N, C, H, W), weight (F, C, KH, KW), bias (F,), y (N, F, OH, OW). Padding is an int.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import convolve2d, correlate2d


def pad(x: np.ndarray, padding: int) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))


def forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, padding: int) -> np.ndarray:
    """y[n, f] = sum over c of x[n, c] correlated with weight[f, c], plus bias[f]."""
    return np.array(
        [
            [sum(map(valid, image, kernel)) + b for kernel, b in zip(weight, bias, strict=True)]
            for image in pad(x, padding)
        ]
    )


def valid(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return correlate2d(image, kernel, mode="valid")


def input_grad(dy: np.ndarray, weight: np.ndarray, padding: int) -> np.ndarray:
    """dx[n, c] = sum over f of dy[n, f] convolved with weight[f, c], without the padding."""
    n, f, oh, ow = dy.shape
    _, c, kh, kw = weight.shape
    dx = np.zeros((n, c, oh + kh - 1, ow + kw - 1), dy.dtype)
    for i in range(n):
        for j in range(c):
            for k in range(f):
                dx[i, j] += convolve2d(dy[i, k], weight[k, j], mode="full")
    return np.ascontiguousarray(dx[:, :, padding : dx.shape[2] - padding, padding : dx.shape[3] - padding])


def weight_grad(x: np.ndarray, dy: np.ndarray, padding: int) -> np.ndarray:
    """dw[f, c] = sum over n of x[n, c] correlated with dy[n, f]."""
    padded = pad(x, padding)
    return np.array([[sum(map(valid, padded[:, c], dy[:, f])) for c in range(x.shape[1])] for f in range(dy.shape[1])])
