"""The convolution layer: holds weight and bias, keeps its input, dispatches to the four passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .ahead import Explanation, explain
from .arrays import Array, as_array, as_output
from .functional import Pair, conv2d, conv2d_bias_grad, conv2d_input_grad, conv2d_weight_grad
from .geometry import Padding, as_int, as_padding, as_pair, check_layout
from .plan import check_algorithm, check_kernel


class Conv2D:
    """2-D convolution layer with its gradients.

    Parameters
    ----------
    in_channels, out_channels : int
        C and F, at least 1.
    kernel_size : int or (KH, KW)
        Taps of the kernel.
    stride, padding, dilation, groups
        As in :func:`numbaconv.conv2d`; they apply to both directions.
    bias : bool
        Whether the layer has a bias.
    layout : {"NCHW", "NHWC", "HWCN"}
        The order of axes of the activations.
    flip : bool
        True: the kernel is turned by 180 degrees (convolution as mathematics has it).
    dtype : float32 or float64
        Of the parameters, and so of everything the layer takes and returns.
    algorithm : str
        As in :func:`numbaconv.conv2d`.
    rng : int or numpy.random.Generator, optional
        Seed or generator of the initial parameters.

    Attributes
    ----------
    weight : ndarray, shape (F, C / groups, KH, KW)
    bias : ndarray, shape (F,), or None
    weight_grad, bias_grad : ndarray or None
        Gradients of the last backward pass, None until there was one.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or value, or C or F is no multiple of `groups`.

    Notes
    -----
    Weight and bias start as U(-b, b) with b = 1 / sqrt(fan_in), fan_in = C / groups * KH * KW: the
    default of PyTorch's layer, from LeCun et al., Efficient BackProp (1998), up to the factor.

    The input is kept by reference: changing it in place between forward and backward changes the
    gradient, and of two forward passes before a backward pass the last one counts.

    Examples
    --------
    >>> import numpy as np
    >>> layer = Conv2D(3, 8, 3, padding="same", rng=0)
    >>> layer
    Conv2D(3, 8, 3, padding='same')
    >>> y = layer(np.ones((2, 3, 5, 5), np.float32))
    >>> y.shape
    (2, 8, 5, 5)
    >>> layer.backward(np.ones_like(y)).shape
    (2, 3, 5, 5)
    >>> layer.weight_grad.shape, layer.bias_grad.shape
    ((8, 3, 3, 3), (8,))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        layout: str = "NCHW",
        flip: bool = False,
        dtype: Any = np.float32,
        algorithm: str = "auto",
        rng: int | np.random.Generator | None = None,
    ) -> None:
        self.in_channels = as_int("in_channels", in_channels, 1)
        self.out_channels = as_int("out_channels", out_channels, 1)
        self.kernel_size = as_pair("kernel_size", kernel_size, 1)
        self.stride = as_pair("stride", stride, 1)
        ends = as_padding(padding)
        self.padding: Any = ends if isinstance(ends, str) else (ends[:2], ends[2:])
        self.dilation = as_pair("dilation", dilation, 1)
        self.groups = as_int("groups", groups, 1)
        for name, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise ValueError(f"groups must divide {name}: got groups = {self.groups}, {name} = {channels}")
        for name, value in (("bias", bias), ("flip", flip)):
            if not isinstance(value, bool | np.bool_):
                raise TypeError(f"{name} must be True or False, got {value!r}")
        self.layout = check_layout(layout)
        self.flip = bool(flip)
        try:
            self.dtype = np.dtype(dtype)
        except TypeError:
            raise TypeError(f"dtype must be float32 or float64, got {dtype!r}") from None
        if dtype is None or self.dtype not in (np.float32, np.float64):
            raise TypeError(f"dtype must be float32 or float64 in native byte order, got {dtype!r}")
        check_algorithm(algorithm)
        check_kernel(algorithm, self.kernel_size, self.stride, self.dilation)
        self.algorithm = algorithm
        if isinstance(rng, bool | float):
            raise TypeError(f"rng must be a seed, a numpy.random.Generator or None, got {rng!r}")

        try:
            generator = np.random.default_rng(rng)
        except (TypeError, ValueError) as error:
            raise type(error)(f"rng must be a seed, a numpy.random.Generator or None, got {rng!r}") from None
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        bound = 1 / np.sqrt(shape[1] * shape[2] * shape[3])
        self.weight: Array = generator.uniform(-bound, bound, shape).astype(self.dtype)
        self.bias: Array | None = None
        if bias:
            self.bias = generator.uniform(-bound, bound, self.out_channels).astype(self.dtype)
        self.weight_grad: Array | None = None
        self.bias_grad: Array | None = None
        self._x: Array | None = None

    def forward(self, x: Array, training: bool = True) -> Array:
        """Return y = conv2d(x, weight, bias) and keep x for :meth:`backward`.

        Parameters
        ----------
        x : ndarray of the layer's dtype, shape (N, C, H, W) in its layout
        training : bool
            False: nothing is kept, and what was kept is dropped.

        Returns
        -------
        y : ndarray, shape (N, F, OH, OW) in the layout

        Raises
        ------
        TypeError, ValueError
            As :func:`numbaconv.conv2d`.
        """
        y = conv2d(x, self.weight, self.bias, **self._options())
        self._x = x if training else None
        return y

    __call__ = forward

    def backward(self, dy: Array, *, input_grad: bool = True, accumulate: bool = False) -> Array | None:
        """Set `weight_grad` and `bias_grad` and return dx, all for the x of the last forward pass.

        Parameters
        ----------
        dy : ndarray of the layer's dtype, shape of y
            Gradient of the loss with respect to y.
        input_grad : bool
            False: dx is not computed, and None is returned; a first layer needs none.
        accumulate : bool
            True: the gradients are added to the arrays that `weight_grad` and `bias_grad` are. False:
            they are new arrays.

        Returns
        -------
        dx : ndarray, shape of x, or None

        Raises
        ------
        RuntimeError
            If there was no forward pass with ``training=True``.
        TypeError, ValueError
            As :func:`numbaconv.conv2d_input_grad`.
        """
        x = self._x
        if x is None:
            raise RuntimeError("backward needs the x of a forward pass: call forward(x, training=True) first")
        for name, value in (("input_grad", input_grad), ("accumulate", accumulate)):
            if not isinstance(value, bool | np.bool_):
                raise TypeError(f"{name} must be True or False, got {value!r}")
        options = self._options()
        # All that can be wrong is found before anything is written: the arrays to add to here, dy and the weight
        # by the input gradient or, without one, dy by the weight gradient.
        targets = [_target(gradient, accumulate) for gradient in (self.weight_grad, self.bias_grad)]
        for parameter, target in zip((self.weight, self.bias), targets, strict=True):
            if parameter is not None and target:
                as_output(target["out"], parameter.shape, x.dtype, {"x": x, "dy": dy}, accumulate)
        as_array("dy", dy, 4, "an output in the layout of x", x.dtype)
        dx = conv2d_input_grad(dy, self.weight, x.shape, **options) if input_grad else None
        self.weight_grad = conv2d_weight_grad(x, dy, self.kernel_size, **options, **targets[0])
        if self.bias is not None:
            self.bias_grad = conv2d_bias_grad(dy, layout=self.layout, **targets[1])
        return dx

    def parameters(self) -> Iterator[tuple[str, Array, Array | None]]:
        """Yield (name, parameter, gradient) of the weight and of the bias where there is one."""
        yield "weight", self.weight, self.weight_grad
        if self.bias is not None:
            yield "bias", self.bias, self.bias_grad

    def state_dict(self) -> dict[str, Array]:
        """Return copies of the parameters under PyTorch's names, ``"weight"`` and ``"bias"``."""
        return {name: parameter.copy() for name, parameter, _ in self.parameters()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copy parameters into those of this layer.

        Parameters
        ----------
        state : mapping
            Exactly the keys of :meth:`state_dict`, with real arrays of the same shapes; they are
            cast to the layer's dtype.

        Raises
        ------
        KeyError
            If a key is missing or unknown.
        TypeError, ValueError
            If a value is no real array, or of another shape. Nothing is copied then.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a mapping of names to arrays, got {type(state).__name__}")
        own = {name: parameter for name, parameter, _ in self.parameters()}
        if missing := own.keys() - state.keys():
            raise KeyError(f"state lacks {sorted(missing)}; its keys must be {sorted(own)}")
        if unknown := state.keys() - own.keys():
            raise KeyError(f"state has unknown keys {sorted(map(str, unknown))}; it must have exactly {sorted(own)}")
        arrays = {name: np.asarray(state[name]) for name in own}
        for name, array in arrays.items():
            if array.dtype.kind not in "fiu":
                raise TypeError(f"state[{name!r}] must hold real numbers, got dtype {array.dtype}")
            if array.shape != own[name].shape:
                raise ValueError(f"state[{name!r}] must have shape {own[name].shape}, got {array.shape}")
        for name, array in arrays.items():
            own[name][...] = array

    def explain(self, input_shape: tuple[int, int, int, int]) -> Explanation:
        """What the passes would run for an x of this shape in the layer's layout; see :func:`numbaconv.explain`."""
        return explain(input_shape, self.weight.shape, dtype=self.dtype, **self._options())

    def _options(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "layout": self.layout,
            "flip": self.flip,
            "algorithm": self.algorithm,
        }

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_x": None}

    def __repr__(self) -> str:
        parts = [repr(self.in_channels), repr(self.out_channels), _short(self.kernel_size)]
        padding = self.padding
        if not isinstance(padding, str):
            ends = [repr(side) for side in padding]
            padding = _short(tuple(side[0] for side in padding)) if all(a == b for a, b in padding) else None
            padding = padding or f"({', '.join(ends)})"
        given = {
            "stride": (_short(self.stride), "1"),
            "padding": (repr(self.padding) if isinstance(self.padding, str) else padding, "0"),
            "dilation": (_short(self.dilation), "1"),
            "groups": (repr(self.groups), "1"),
            "bias": (repr(self.bias is not None), "True"),
            "layout": (repr(self.layout), "'NCHW'"),
            "flip": (repr(self.flip), "False"),
            "dtype": (repr(self.dtype.name), "'float32'"),
            "algorithm": (repr(self.algorithm), "'auto'"),
        }
        parts += [f"{name}={text}" for name, (text, default) in given.items() if text != default]
        return f"Conv2D({', '.join(parts)})"


def _short(pair: tuple[int, int]) -> str:
    """One number for two equal ones."""
    return repr(pair[0]) if pair[0] == pair[1] else repr(pair)


def _target(gradient: Array | None, accumulate: bool) -> dict[str, Any]:
    """Where a gradient goes: into the array that is there, or a new one."""
    return {"out": gradient, "accumulate": True} if accumulate and gradient is not None else {}
