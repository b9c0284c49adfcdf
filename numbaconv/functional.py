"""The four passes as functions: check -> plan -> run."""

from __future__ import annotations

from typing import Any

from .arrays import Array, as_activation, as_array, as_bool, as_output, finished, new_array
from .calls import Known, key_of, known_calls, remember
from .geometry import (
    LAYOUTS,
    Geometry,
    Padding,
    as_int,
    as_padding,
    as_pair,
    as_shape,
    check_layout,
    from_nchw,
    make_geometry,
    to_nchw,
)
from .kernels import loops
from .plan import check_algorithm, plan_bias_grad, plan_forward, plan_input_grad, plan_weight_grad

Pair = int | tuple[int, int]


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    out: Array | None = None,
) -> Array:
    """2-D convolution of a batch of images with F filters: the forward pass.

    Parameters
    ----------
    x : ndarray of float32 or float64, shape (N, C, H, W) in `layout`
        The images. Any strides; never written to.
    weight : ndarray of the same dtype, shape (F, C / groups, KH, KW)
        The filters, in this order of axes for every layout.
    bias : ndarray of the same dtype, shape (F,), optional
        Added to every pixel of its filter.
    stride : int or (vertical, horizontal)
        Pixels from one position of the kernel to the next.
    padding : int, (vertical, horizontal), ((top, bottom), (left, right)) or str
        Zeros around x. ``"valid"``: none. ``"same"``: as many as make OH = ceil(H / stride), the odd one
        at the bottom or right. ``"same_lower"``: the odd one at the top or left.
    dilation : int or (vertical, horizontal)
        Pixels from one tap of the kernel to the next; 1 is a dense kernel.
    groups : int
        Splits C and F: filters of group g look at channels of group g only. ``groups=C`` is depthwise.
    layout : {"NCHW", "NHWC", "HWCN"}
        The order of axes of x and y.
    flip : bool
        False: cross-correlation, what deep learning calls convolution. True: the kernel is turned by
        180 degrees, convolution as mathematics has it. Padding stays where it is.
    algorithm : str
        ``"direct"`` (register-tiled kernels) or ``"loops"`` (explicit loops), each for every valid problem;
        ``"winograd"`` (fewer products, other rounding), for 3x3 kernels at stride 1 and dilation 1; or ``"auto"``,
        which takes the one that is expected to be the fastest: see :func:`numbaconv.explain`.
    out : ndarray of the same dtype, shape of y, optional
        Written to and returned. Any strides; must not overlap itself or an input.

    Returns
    -------
    y : ndarray of the same dtype, shape (N, F, OH, OW) in `layout`

    Raises
    ------
    TypeError
        If an array is not a float32 or float64 ndarray or the dtypes differ, or if a parameter is of a
        wrong type. Raised, like ValueError, before anything is computed or written.
    ValueError
        If shapes or parameters do not fit each other.

    Notes
    -----
    With c over the channels of the group of f and x zero in the padding::

        y[n, f, oh, ow] = bias[f] + sum over c, kh, kw of
            x[n, c, oh stride - top + kh dilation, ow stride - left + kw dilation] weight[f, c, kh, kw]

    OH = (H + top + bottom - dilation (KH - 1) - 1) // stride + 1, likewise OW. See Goodfellow, Bengio,
    Courville, Deep Learning (2016), section 9.1, for both conventions of the kernel.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> conv2d(x, np.ones((1, 1, 2, 2)))
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    options = (stride, padding, dilation, groups, layout, flip, algorithm)
    key = key_of("y", x, weight, bias, None, options) if out is None else None
    if key is not None and (known := known_calls.get(key)):
        y = new_array(known.shape, known.dtype)
        if known.plan.run(x, weight, bias, y):
            return y
    inputs = {"x": x, "weight": weight, "bias": bias}
    x = as_activation("x", x)
    weight = as_array("weight", weight, 4, "(F, C / groups, KH, KW)", x.dtype)
    geometry = geometry_of(x, weight.shape, options)
    if bias is not None:
        bias = as_array("bias", bias, 1, "(F,)", x.dtype)
        if bias.shape[0] != geometry.F:
            raise ValueError(f"bias must have one element per filter, shape ({geometry.F},), got {bias.shape}")
    y = as_output(out, from_nchw(geometry.output_shape, layout), x.dtype, inputs)
    step = None if bias is None else _steps(bias)[0]
    steps = _steps(x), _steps(weight), step, _steps(y)
    plan = plan_forward(geometry, x.dtype, algorithm, LAYOUTS[layout], flip, *steps)
    remember(key, inputs, (x, weight, bias), Known(plan, y.shape, y.dtype))
    plan.run(x, weight, bias, y)
    return finished(y, out)


def conv2d_input_grad(
    dy: Array,
    weight: Array,
    input_shape: tuple[int, int, int, int],
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    out: Array | None = None,
    accumulate: bool = False,
) -> Array:
    """Gradient of a loss with respect to x, from its gradient dy with respect to y = conv2d(x, weight).

    Parameters
    ----------
    dy : ndarray of float32 or float64, shape (N, F, OH, OW) in `layout`
        Gradient with respect to y.
    weight : ndarray of the same dtype, shape (F, C / groups, KH, KW)
        The filters of the forward pass.
    input_shape : tuple of int
        Shape of x in `layout`; above stride 1 several inputs give the same OH x OW.
    stride, padding, dilation, groups, layout, flip, algorithm
        As in :func:`conv2d`, with the values of the forward pass.
    out : ndarray of the same dtype, shape `input_shape`, optional
        Written to and returned. Any strides; must not overlap itself or an input.
    accumulate : bool
        True: the gradient is added to `out`, in one addition per element.

    Returns
    -------
    dx : ndarray of the same dtype, shape `input_shape`
        Rows and columns that the stride does not reach are 0.

    Raises
    ------
    TypeError, ValueError
        As :func:`conv2d`; ValueError also if dy has not the shape of the output, or for `accumulate`
        without `out`.

    Notes
    -----
    dx[n, c, h, w] is the sum of dy[n, f, oh, ow] weight[f, c, kh, kw] over every f of the group and all
    taps and outputs with oh stride - top + kh dilation = h, and likewise for w: dy, spread out by the
    stride and padded, convolved with the turned kernel.

    Examples
    --------
    >>> import numpy as np
    >>> conv2d_input_grad(np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2)), (1, 1, 3, 3))
    array([[[[1., 2., 1.],
             [2., 4., 2.],
             [1., 2., 1.]]]])
    """
    options = (stride, padding, dilation, groups, layout, flip, algorithm)
    key = key_of("dx", dy, weight, None, input_shape, options) if out is None else None
    if key is not None and not accumulate and (known := known_calls.get(key)):
        dx = new_array(known.shape, known.dtype)
        if known.plan.run(dy, weight, None, dx):
            return dx
    inputs = {"dy": dy, "weight": weight}
    dy = as_activation("dy", dy)
    weight = as_array("weight", weight, 4, "(F, C / groups, KH, KW)", dy.dtype)
    shape = as_shape("input_shape", input_shape)
    geometry = geometry_of(shape, weight.shape, options, dy.dtype.itemsize)
    _check_dy(dy, geometry, layout)
    dx = as_output(out, shape, dy.dtype, inputs, accumulate)
    steps = _steps(dy), _steps(weight), _steps(dx)
    plan = plan_input_grad(geometry, dy.dtype, algorithm, LAYOUTS[layout], flip, bool(accumulate), *steps)
    remember(key, inputs, (dy, weight), Known(plan, dx.shape, dx.dtype))
    plan.run(dy, weight, None, dx)
    return finished(dx, out)


def conv2d_weight_grad(
    x: Array,
    dy: Array,
    kernel_size: Pair,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    out: Array | None = None,
    accumulate: bool = False,
) -> Array:
    """Gradient of a loss with respect to the weight of y = conv2d(x, weight).

    Parameters
    ----------
    x : ndarray of float32 or float64, shape (N, C, H, W) in `layout`
        The input of the forward pass.
    dy : ndarray of the same dtype, shape (N, F, OH, OW) in `layout`
        Gradient with respect to y.
    kernel_size : int or (KH, KW)
        Taps of the kernel.
    stride, padding, dilation, groups, layout, flip, algorithm
        As in :func:`conv2d`, with the values of the forward pass.
    out : ndarray of the same dtype, shape (F, C / groups, KH, KW), optional
        Written to and returned. Any strides; must not overlap itself or an input.
    accumulate : bool
        True: the gradient is added to `out`, in one addition per element.

    Returns
    -------
    dw : ndarray of the same dtype, shape (F, C / groups, KH, KW)
        The gradient of the weight as it was passed, turned or not.

    Raises
    ------
    TypeError, ValueError
        As :func:`conv2d_input_grad`.

    Notes
    -----
    dw[f, c, kh, kw] is the sum of dy[n, f, oh, ow] x[n, c, oh stride - top + kh dilation,
    ow stride - left + kw dilation] over n, oh, ow, with x zero in the padding: x convolved with dy.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> conv2d_weight_grad(x, np.ones((1, 1, 2, 2)), 2)
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    options = (stride, padding, dilation, groups, layout, flip, algorithm)
    key = key_of("dw", x, dy, None, kernel_size, options) if out is None else None
    if key is not None and not accumulate and (known := known_calls.get(key)):
        dw = new_array(known.shape, known.dtype)
        if known.plan.run(x, dy, None, dw):
            return dw
    inputs = {"x": x, "dy": dy}
    x = as_activation("x", x)
    dy = as_array("dy", dy, 4, "an output in the layout of x", x.dtype)
    check_layout(layout)
    KH, KW = as_pair("kernel_size", kernel_size, 1)
    F = to_nchw(dy.shape, layout)[1]
    if F < 1:
        raise ValueError(f"dy must have at least one filter, got shape {dy.shape} in layout {layout}")
    C = to_nchw(x.shape, layout)[1]
    geometry = geometry_of(x, (F, C // as_int("groups", groups, 1), KH, KW), options)
    _check_dy(dy, geometry, layout)
    dw = as_output(out, geometry.weight_shape, x.dtype, inputs, accumulate)
    steps = _steps(x), _steps(dy), _steps(dw)
    plan = plan_weight_grad(geometry, x.dtype, algorithm, LAYOUTS[layout], flip, bool(accumulate), *steps)
    remember(key, inputs, (x, dy), Known(plan, dw.shape, dw.dtype))
    plan.run(x, dy, None, dw)
    return finished(dw, out)


def conv2d_bias_grad(dy: Array, *, layout: str = "NCHW", out: Array | None = None, accumulate: bool = False) -> Array:
    """Gradient of a loss with respect to the bias of y = conv2d(x, weight, bias).

    Parameters
    ----------
    dy : ndarray of float32 or float64, shape (N, F, OH, OW) in `layout`
        Gradient with respect to y.
    layout : {"NCHW", "NHWC", "HWCN"}
        The order of axes of dy.
    out : ndarray of the same dtype, shape (F,), optional
        Written to and returned. Any stride; must not overlap itself or dy.
    accumulate : bool
        True: the gradient is added to `out`, in one addition per element.

    Returns
    -------
    db : ndarray of the same dtype, shape (F,)
        dy summed over images and pixels.

    Raises
    ------
    TypeError, ValueError
        As :func:`conv2d_input_grad`.

    Examples
    --------
    >>> import numpy as np
    >>> conv2d_bias_grad(np.ones((2, 3, 4, 4)))
    array([32., 32., 32.])
    """
    inputs = {"dy": dy}
    dy = as_activation("dy", dy)
    check_layout(layout)
    shape = to_nchw(dy.shape, layout)
    if min(shape[1:]) < 1:
        raise ValueError(f"dy must have at least one filter and one pixel, got shape {dy.shape} in {layout}")
    db = as_output(out, (shape[1],), dy.dtype, inputs, accumulate)
    axes = LAYOUTS[layout]
    program = plan_bias_grad(dy.shape, dy.dtype, axes, bool(accumulate), _steps(dy), _steps(db)[0])
    if program is None:
        loops.bias_grad(dy.transpose(axes), db, bool(accumulate))
    else:
        program.run(dy, dy, db, dy)
    return finished(db, out)


def _steps(array: Array) -> tuple[int, ...]:
    """Strides in elements."""
    return tuple([stride // array.itemsize for stride in array.strides])


def geometry_of(
    x: Array | tuple[int, ...], weight_shape: tuple[int, ...], options: tuple[Any, ...], itemsize: int = 0
) -> Geometry:
    """The geometry of a call, with its options checked; `x` is the input or its shape."""
    stride, padding, dilation, groups, layout, flip, algorithm = options
    check_layout(layout)
    check_algorithm(algorithm)
    as_bool("flip", flip)
    shape, itemsize = (x, itemsize) if isinstance(x, tuple) else (x.shape, x.itemsize)
    return make_geometry(
        to_nchw(shape, layout),
        weight_shape,
        as_pair("stride", stride, 1),
        as_padding(padding),
        as_pair("dilation", dilation, 1),
        as_int("groups", groups, 1),
        itemsize,
    )


def _check_dy(dy: Array, geometry: Geometry, layout: str) -> None:
    expected = from_nchw(geometry.output_shape, layout)
    if dy.shape != expected:
        raise ValueError(f"dy must have the shape of the output, {expected} in layout {layout}, got {dy.shape}")
