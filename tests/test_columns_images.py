"""dx by columns of images that lie together, in HWCN."""

import numpy as np
import pytest

import numbaconv

from .arrays import hwcn
from .cases import in_layout

# (C, H, W, F, kernel, options): blocks of rows that add to those of others, rows and columns of several remainders,
# pixels that no output reads, channels of several pieces, groups.
LAYERS = (
    (3, 61, 40, 45, (7, 7), {"stride": 2, "padding": 3}),
    (2, 41, 90, 33, (5, 5), {"stride": (3, 1), "padding": 1, "dilation": (1, 2)}),
    (3, 70, 70, 56, (2, 3), {"stride": 4}),
    (20, 13, 14, 50, (5, 5), {"stride": (2, 4)}),
    (4, 23, 30, 140, (3, 3), {"stride": 2, "padding": 1, "groups": 2}),
)
BATCHES = (16, 21, 70)


def problem(N, layer, number):
    """The shape of x, weight and dy in NCHW, of what `number` makes for a shape, and the options."""
    C, H, W, F, kernel, options = layer
    weight = number((F, C // options.get("groups", 1), *kernel))
    y = numbaconv.conv2d(np.zeros((N, C, H, W), weight.dtype), weight, **options)
    text = str(
        numbaconv.explain(in_layout("HWCN", N, C, H, W), weight.shape, layout="HWCN", dtype=weight.dtype, **options)
    )
    assert "by columns" in text
    return (N, C, H, W), weight, number(y.shape), options


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("N", BATCHES)
def test_integers_are_exact(N, layer):
    rng = np.random.default_rng(N)
    shape, weight, dy, options = problem(N, layer, lambda shape: rng.integers(-3, 4, shape).astype(np.float32))
    dx = numbaconv.conv2d_input_grad(dy, weight, shape, **options)
    of_images = numbaconv.conv2d_input_grad(hwcn(dy), weight, in_layout("HWCN", *shape), layout="HWCN", **options)
    np.testing.assert_array_equal(of_images, hwcn(dx))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_an_image_has_the_same_bits_in_every_batch_and_memory(layer):
    rng = np.random.default_rng(1)
    shape, weight, dy, options = problem(70, layer, lambda shape: rng.standard_normal(shape, dtype=np.float32))
    dx = numbaconv.conv2d_input_grad(hwcn(dy), weight, in_layout("HWCN", *shape), layout="HWCN", **options)
    for N in (1, 17, 33):
        some = numbaconv.conv2d_input_grad(
            hwcn(dy[:N]), weight, in_layout("HWCN", N, *shape[1:]), layout="HWCN", **options
        )
        np.testing.assert_array_equal(some, dx[..., :N])
    apart = np.zeros((*in_layout("HWCN", *shape)[:3], 140), np.float32)[..., ::2]
    memory = np.repeat(hwcn(dy), 2, axis=3)[..., ::2]
    numbaconv.conv2d_input_grad(memory, weight, in_layout("HWCN", *shape), layout="HWCN", out=apart, **options)
    np.testing.assert_array_equal(apart, dx)


def test_scratch_is_bounded():
    layer = {"stride": 2, "padding": 3, "layout": "HWCN"}
    plans = numbaconv.explain((224, 224, 3, 64), (64, 3, 7, 7), **layer)
    assert "by columns" in str(plans.input_grad)
    assert plans.input_grad.scratch_bytes < 2**20
