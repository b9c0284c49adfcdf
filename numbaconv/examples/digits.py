"""Train a classifier of handwritten digits with convolutions only: the network and its training loop.

Convolutions with stride 2 take the place of pooling and a last one over the whole map that of a dense
layer, as in Springenberg et al., Striving for Simplicity: The All Convolutional Net (2015).
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from numbaconv import Conv2D


def network(input_shape, classes, *, seed=0, dtype=np.float32, algorithm="auto"):
    """Return the layers for images of shape (C, H, W); a ReLU follows each of them but the last.

    The one at stride 1 behind the first at stride 2 has most of the products: Winograd's algorithm computes it by
    default.
    """
    C, H, W = input_shape
    options = {"dtype": dtype, "algorithm": algorithm, "rng": np.random.default_rng(seed)}
    layers = [Conv2D(C, 16, 3, padding="same", **options)]
    while max(H, W) > 4:
        layers.append(Conv2D(layers[-1].out_channels, 64, 3, stride=2, padding="same", **options))
        H, W = -(-H // 2), -(-W // 2)
        if len(layers) == 2:
            layers.append(Conv2D(64, 64, 3, padding="same", **options))
    return [*layers, Conv2D(layers[-1].out_channels, classes, (H, W), **options)]


def forward(layers, x, training=True):
    """Return the scores (N, classes) of images x (N, C, H, W), and the input of each layer."""
    inputs = [x]
    for layer in layers[:-1]:
        inputs.append(np.maximum(layer.forward(inputs[-1], training), 0))
    return layers[-1].forward(inputs[-1], training)[:, :, 0, 0], inputs


def backward(layers, inputs, dscores):
    """Set the gradients of all layers, given that of the loss with respect to the scores."""
    dy = dscores[:, :, None, None]
    for layer, x in zip(layers[:0:-1], inputs[:0:-1], strict=True):
        dy = layer.backward(dy) * (x > 0)
    layers[0].backward(dy, input_grad=False)


def cross_entropy(scores, y):
    """Return the mean softmax cross-entropy for labels y (N,), and its gradient (N, classes)."""
    log_p = scores - scores.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    truth = np.arange(len(y)), y
    dscores = np.exp(log_p)
    dscores[truth] -= 1
    return -log_p[truth].mean(), dscores / len(y)


def shifted(x, rng):
    """Return x with each image moved by a part of a pixel in one of 8 directions; zeros move in."""
    N, _, H, W = x.shape
    windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (H, W), (2, 3))
    moved = windows[np.arange(N), :, rng.integers(3, size=N), rng.integers(3, size=N)]
    return x + rng.random((N, 1, 1, 1), x.dtype) * (moved - x)


def parameters(layers):
    """Yield ("0.weight", parameter, gradient), ("0.bias", ...), ("1.weight", ...) and so on."""
    for i, layer in enumerate(layers):
        for name, parameter, gradient in layer.parameters():
            yield f"{i}.{name}", parameter, gradient


def train_epoch(layers, velocity, x, y, epoch, *, seed=0, batch_size=32, lr=0.05, momentum=0.9, start=0):
    """Run epoch 1, 2, ... of SGD with momentum; yield (images, loss, right answers) after each batch."""
    order = np.random.default_rng([seed, epoch]).permutation(len(x))
    rate = lr * 0.95 ** (epoch - 1)
    for i in range(start, len(x), batch_size):
        batch = order[i : i + batch_size]
        scores, inputs = forward(layers, shifted(x[batch], np.random.default_rng([seed, epoch, i + 1])))
        loss, dscores = cross_entropy(scores, y[batch])
        backward(layers, inputs, dscores)
        for key, parameter, gradient in parameters(layers):
            velocity[key] = momentum * velocity.get(key, 0) - rate * gradient
            parameter += velocity[key]
        yield len(batch), float(loss), int((scores.argmax(axis=1) == y[batch]).sum())


def predict(layers, x, batch_size=256):
    """Return the likeliest class of each image, shape (N,)."""
    batches = (x[i : i + batch_size] for i in range(0, len(x), batch_size))
    return np.concatenate([forward(layers, b, training=False)[0].argmax(axis=1) for b in batches])


def load(layers, arrays):
    """Copy in what ``python -m numbaconv train`` wrote: ``load(layers, np.load("weights.npz"))``."""
    for i, layer in enumerate(layers):
        layer.load_state_dict({name: arrays[f"{i}.{name}"] for name in layer.state_dict()})
