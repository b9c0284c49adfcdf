"""The convolution layer in NumPy as tutorials write it: windows as a matrix, then one product.

Shapes: x (N, C, H, W), weight (F, C, KH, KW), bias (F,), y (N, F, OH, OW). Stride and padding are ints.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def columns(x: np.ndarray, kernel_size: tuple[int, int], stride: int, padding: int) -> np.ndarray:
    """Copy every window of the padded x into a row: (N * OH * OW, C * KH * KW)."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(padded, kernel_size, axis=(2, 3))[:, :, ::stride, ::stride]
    n, c, oh, ow, kh, kw = windows.shape
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * oh * ow, c * kh * kw)


def pixels(dy: np.ndarray) -> np.ndarray:
    """Gradients of the outputs in the order of the windows: (N * OH * OW, F)."""
    return dy.transpose(0, 2, 3, 1).reshape(-1, dy.shape[1])


def forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """y = columns(x) @ weight.T + bias."""
    n, _, h, w = x.shape
    f, _, kh, kw = weight.shape
    oh, ow = (h + 2 * padding - kh) // stride + 1, (w + 2 * padding - kw) // stride + 1
    y = columns(x, (kh, kw), stride, padding) @ weight.reshape(f, -1).T + bias
    return np.ascontiguousarray(y.reshape(n, oh, ow, f).transpose(0, 3, 1, 2))


def input_grad(
    dy: np.ndarray, weight: np.ndarray, input_shape: tuple[int, int, int, int], stride: int, padding: int
) -> np.ndarray:
    """dcolumns = dy @ weight, then each tap added to the pixels that it was read from (col2im)."""
    n, c, h, w = input_shape
    f, _, kh, kw = weight.shape
    oh, ow = dy.shape[2:]
    taps = (pixels(dy) @ weight.reshape(f, -1)).reshape(n, oh, ow, c, kh, kw).transpose(0, 3, 1, 2, 4, 5)
    dx = np.zeros((n, c, h + 2 * padding, w + 2 * padding), dy.dtype)
    for i in range(kh):
        for j in range(kw):
            dx[:, :, i : i + oh * stride : stride, j : j + ow * stride : stride] += taps[..., i, j]
    return np.ascontiguousarray(dx[:, :, padding : padding + h, padding : padding + w])


def weight_grad(x: np.ndarray, dy: np.ndarray, kernel_size: tuple[int, int], stride: int, padding: int) -> np.ndarray:
    """dw = dy.T @ columns(x)."""
    dw = pixels(dy).T @ columns(x, kernel_size, stride, padding)
    return dw.reshape(dy.shape[1], x.shape[1], *kernel_size)


def bias_grad(dy: np.ndarray) -> np.ndarray:
    """db = dy summed over images and pixels."""
    return dy.sum(axis=(0, 2, 3))
