"""Training steps of mixed layers and a digest of all their bits: what threads and processes run and compare."""

import hashlib

import numpy as np

from numbaconv import Conv2D

from .cases import ALGORITHMS

# Arguments of the layer, its options, the shape of x.
LAYERS = (
    *(((16, 32, 3), {"padding": 1, "algorithm": name}, (2, 16, 12, 13)) for name in ALGORITHMS),
    ((3, 8, 5), {"algorithm": "loops", "layout": "NHWC"}, (2, 14, 13, 3)),
    ((20, 20, 3), {"groups": 20, "stride": 2, "dtype": np.float64}, (3, 20, 15, 17)),
    ((8, 6, 1), {"layout": "HWCN"}, (9, 10, 8, 5)),
    ((4, 6, 3), {"flip": True, "stride": 2, "groups": 2, "padding": "same"}, (2, 4, 21, 20)),
)
LARGE = (((16, 32, 3), {"padding": 1}, (2, 16, 40, 40)),)


def train(count, layers=LAYERS):
    """The digest of what `count` steps of gradient descent compute, one layer after the other."""
    digest = hashlib.sha256()
    rng = np.random.default_rng(0)
    state = []
    for arguments, options, shape in layers:
        layer = Conv2D(*arguments, **options, rng=rng)
        state.append((layer, rng.standard_normal(shape).astype(layer.dtype)))
    for step in range(count):
        layer, x = state[step % len(state)]
        y = layer(x)
        dx = layer.backward(y, accumulate=step % 2 == 1)
        for result in (y, dx, layer.weight_grad, layer.bias_grad):
            digest.update(result.tobytes())
        for _, parameter, gradient in layer.parameters():
            parameter -= np.float32(1e-3) * gradient
    return digest.hexdigest()


class Digests:
    """A data set in the way of PyTorch, each item of which is computed by training."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return train(10)
