"""The four passes as functions: check -> plan -> run."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import Array, as_activation, as_array, as_bool, as_output, finished
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
        ``"auto"`` or ``"loops"`` (explicit loops for every valid problem).
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
    inputs = {"x": x, "weight": weight, "bias": bias}
    x = as_activation("x", x)
    weight = as_array("weight", weight, 4, "(F, C / groups, KH, KW)", x.dtype)
    check_layout(layout)
    geometry = _geometry(x.dtype, to_nchw(x.shape, layout), weight.shape, stride, padding, dilation, groups)
    if bias is None:
        bias = np.empty(0, x.dtype)
    else:
        bias = as_array("bias", bias, 1, "(F,)", x.dtype)
        if bias.shape[0] != geometry.F:
            raise ValueError(
                f"bias must have one element per filter, shape ({geometry.F},), got {bias.shape}"
            )
    weight = _turned(weight, flip)
    check_algorithm(algorithm)
    y = as_output(out, from_nchw(geometry.output_shape, layout), x.dtype, inputs)
    g = geometry
    axes = LAYOUTS[layout]
    x_view, y_view = x.transpose(axes), y.transpose(axes)
    plan = plan_forward(g, x.dtype, algorithm, bias.size > 0, _steps(x_view), _steps(weight), _steps(y_view))
    if plan.program is None:
        loops.forward(x_view, weight, bias, y_view, g.stride, g.dilation, g.padding, g.groups, False)
    else:
        plan.program.run({"x": x_view, "weight": weight, "bias": bias, "y": y_view})
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
    inputs = {"dy": dy, "weight": weight}
    dy = as_activation("dy", dy)
    weight = as_array("weight", weight, 4, "(F, C / groups, KH, KW)", dy.dtype)
    check_layout(layout)
    shape = as_shape("input_shape", input_shape)
    geometry = _geometry(dy.dtype, to_nchw(shape, layout), weight.shape, stride, padding, dilation, groups)
    _check_dy(dy, geometry, layout)
    weight = _turned(weight, flip)
    check_algorithm(algorithm)
    dx = as_output(out, shape, dy.dtype, inputs, accumulate)
    accumulate = bool(accumulate)
    g = geometry
    axes = LAYOUTS[layout]
    dy_view, dx_view = dy.transpose(axes), dx.transpose(axes)
    steps = _steps(dy_view), _steps(weight), _steps(dx_view)
    plan = plan_input_grad(g, dy.dtype, algorithm, accumulate, *steps)
    if plan.program is None:
        loops.input_grad(dy_view, weight, dx_view, g.stride, g.dilation, g.padding, g.groups, accumulate)
    else:
        plan.program.run({"dy": dy_view, "weight": weight, "dx": dx_view})
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
    inputs = {"x": x, "dy": dy}
    x = as_activation("x", x)
    dy = as_array("dy", dy, 4, "an output in the layout of x", x.dtype)
    check_layout(layout)
    KH, KW = as_pair("kernel_size", kernel_size, 1)
    groups = as_int("groups", groups, 1)
    input_shape = to_nchw(x.shape, layout)
    weight_shape = (to_nchw(dy.shape, layout)[1], input_shape[1] // groups, KH, KW)
    if weight_shape[0] < 1:
        raise ValueError(f"dy must have at least one filter, got shape {dy.shape} in layout {layout}")
    geometry = _geometry(x.dtype, input_shape, weight_shape, stride, padding, dilation, groups)
    _check_dy(dy, geometry, layout)
    check_algorithm(algorithm)
    flip = as_bool("flip", flip)
    dw = as_output(out, geometry.weight_shape, x.dtype, inputs, accumulate)
    accumulate = bool(accumulate)
    g = geometry
    axes = LAYOUTS[layout]
    x_view, dy_view, dw_view = x.transpose(axes), dy.transpose(axes), _turned(dw, flip)
    plan = plan_weight_grad(
        g, x.dtype, algorithm, accumulate, _steps(x_view), _steps(dy_view), _steps(dw_view)
    )
    if plan.program is None:
        loops.weight_grad(x_view, dy_view, dw_view, g.stride, g.dilation, g.padding, g.groups, accumulate)
    else:
        plan.program.run({"x": x_view, "dy": dy_view, "dw": dw_view})
    return finished(dw, out)


def conv2d_bias_grad(
    dy: Array, *, layout: str = "NCHW", out: Array | None = None, accumulate: bool = False
) -> Array:
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
    _, F, OH, OW = to_nchw(dy.shape, layout)
    if F < 1 or OH < 1 or OW < 1:
        raise ValueError(f"dy must have at least one filter and one pixel, got shape {dy.shape} in {layout}")
    db = as_output(out, (F,), dy.dtype, inputs, accumulate)
    view = dy.transpose(LAYOUTS[layout])
    program = plan_bias_grad(
        view.shape, dy.dtype, bool(accumulate), _steps(view), db.strides[0] // db.itemsize
    )
    program.run({"dy": view, "db": db})
    return finished(db, out)


def _turned(weight: Array, flip: Any) -> Array:
    """The kernel turned by 180 degrees, as a view."""
    return weight[:, :, ::-1, ::-1] if as_bool("flip", flip) else weight


def _steps(array: Array) -> tuple[int, ...]:
    """Strides in elements."""
    return tuple(stride // array.itemsize for stride in array.strides)


def _geometry(
    dtype: np.dtype,
    input_shape: tuple[int, int, int, int],
    weight_shape: tuple[int, ...],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
) -> Geometry:
    return make_geometry(
        input_shape,
        weight_shape,
        as_pair("stride", stride, 1),
        as_padding(padding),
        as_pair("dilation", dilation, 1),
        as_int("groups", groups, 1),
        dtype.itemsize,
    )


def _check_dy(dy: Array, geometry: Geometry, layout: str) -> None:
    expected = from_nchw(geometry.output_shape, layout)
    if dy.shape != expected:
        raise ValueError(
            f"dy must have the shape of the output, {expected} in layout {layout}, got {dy.shape}"
        )
