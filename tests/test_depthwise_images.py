"""Depthwise layers whose images lie together, in HWCN: images are in the vector, in the place of channels."""

import numpy as np
import pytest

import numbaconv

from .arrays import hwcn

# Of whole vectors, of half of one, of some and a rest, and of more than a block has.
BATCHES = (8, 16, 21, 32, 130, 272)
LAYERS = (
    {"stride": 1, "padding": 1},
    {"stride": 2, "padding": 1},
    {"stride": (1, 3), "padding": (2, 0), "dilation": (2, 1)},
)
CHANNELS, H, W = 9, 7, 11


def arrays(N, layer, number):
    """x, weight, bias and dy in NCHW, of what `number` makes for a shape."""
    x, weight, bias = number((N, CHANNELS, H, W)), number((CHANNELS, 1, 3, 3)), number((CHANNELS,))
    y = numbaconv.conv2d(x, weight, bias, groups=CHANNELS, **layer)
    return x, weight, bias, number(y.shape)


def passes(x, weight, bias, dy, layout, layer):
    """y, dx and dw."""
    options = layer | {"groups": CHANNELS, "layout": layout, "algorithm": "direct"}
    y = numbaconv.conv2d(x, weight, bias, **options)
    dx = numbaconv.conv2d_input_grad(dy, weight, x.shape, **options)
    return y, dx, numbaconv.conv2d_weight_grad(x, dy, (3, 3), **options)


def some(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return lambda shape: rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("N", BATCHES)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_integers_are_exact(N, layer, dtype):
    rng = np.random.default_rng(N)
    x, weight, bias, dy = arrays(N, layer, lambda shape: rng.integers(-3, 4, shape).astype(dtype))
    y, dx, dw = passes(x, weight, bias, dy, "NCHW", layer)
    of_images = passes(hwcn(x), weight, bias, hwcn(dy), "HWCN", layer)
    np.testing.assert_array_equal(of_images[0], hwcn(y))
    np.testing.assert_array_equal(of_images[1], hwcn(dx))
    np.testing.assert_array_equal(of_images[2], dw)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("N", BATCHES)
def test_strides_change_no_bits(N, layer):
    """New arrays have channels behind each other; of every second image, or channel, they are taken one by one."""
    x, weight, bias, dy = arrays(N, layer, some(np.float32))
    x, dy = hwcn(x), hwcn(dy)
    expected = passes(x, weight, bias, dy, "HWCN", layer)
    for axis in (2, 3):
        spread = [np.repeat(array, 2, axis)[(slice(None),) * axis + (slice(None, None, 2),)] for array in (x, dy)]
        for result, like in zip(passes(spread[0], weight, bias, spread[1], "HWCN", layer), expected, strict=True):
            np.testing.assert_array_equal(result, like)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_an_image_has_the_bits_that_it_has_alone(layer):
    x, weight, bias, dy = arrays(32, layer, some(np.float32))
    y, dx, _ = passes(hwcn(x), weight, bias, hwcn(dy), "HWCN", layer)
    for n in (0, 13, 31):
        one = passes(hwcn(x[n : n + 1]), weight, bias, hwcn(dy[n : n + 1]), "HWCN", layer)
        np.testing.assert_array_equal(one[0][..., 0], y[..., n])
        np.testing.assert_array_equal(one[1][..., 0], dx[..., n])


@pytest.mark.parametrize("N", (21, 32))
def test_sums_are_added_to_dw_and_dx(N):
    layer = LAYERS[1]
    x, weight, bias, dy = arrays(N, layer, some(np.float64))
    x, dy = hwcn(x), hwcn(dy)
    _, dx, dw = passes(x, weight, bias, dy, "HWCN", layer)
    options = layer | {"groups": CHANNELS, "layout": "HWCN", "algorithm": "direct", "accumulate": True}
    out = np.ones_like(dx)
    numbaconv.conv2d_input_grad(dy, weight, x.shape, out=out, **options)
    np.testing.assert_allclose(out, dx + 1, rtol=1e-13, atol=1e-13)
    out = np.ones_like(dw)
    numbaconv.conv2d_weight_grad(x, dy, (3, 3), out=out, **options)
    np.testing.assert_allclose(out, dw + 1, rtol=1e-13, atol=1e-13)


def test_explain_says_what_a_block_has():
    layer = {"stride": 2, "padding": 1, "groups": 64, "layout": "HWCN", "algorithm": "direct"}
    for plan in numbaconv.explain((112, 112, 64, 16), (64, 1, 3, 3), **layer).plans:
        assert "depthwise" in plan.reason
        assert plan.blocks["images"] == 16
        assert 1 < plan.blocks["channels"] <= 64


def test_scratch_does_not_grow_with_the_batch():
    """Nor do partial sums of dw, of which each channel has its own."""
    layer = {"stride": 1, "padding": 1, "groups": 64, "layout": "HWCN"}
    sizes = []
    for N in (512, 4096):
        plans = numbaconv.explain((28, 28, 64, N), (64, 1, 3, 3), **layer).plans
        assert all("depthwise" in plan.reason for plan in plans)
        sizes.append([(plan.scratch_bytes, plan.shared_bytes) for plan in plans])
    assert sizes[0] == sizes[1]
