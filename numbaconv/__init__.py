"""numbaconv: the convolution layer of deep learning as explicit Numba loops, for training on CPUs."""

from .ahead import explain, warmup
from .conv2d import Conv2D
from .functional import conv2d, conv2d_bias_grad, conv2d_input_grad, conv2d_weight_grad

__version__ = "0.1.0"
__all__ = [
    "Conv2D",
    "conv2d",
    "conv2d_bias_grad",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "explain",
    "warmup",
]
