"""The extents of one convolution: padding rules, output sizes, and every error a shape can cause.

Everything here is plain integers in the order N, C, H, W. Layouts end at :func:`to_nchw`.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

#: Where the axes N, C, H, W stand in each layout.
LAYOUTS = {"NCHW": (0, 1, 2, 3), "NHWC": (0, 3, 1, 2), "HWCN": (3, 2, 0, 1)}
PADDING_NAMES = ("valid", "same", "same_lower")

# The largest size in bytes that NumPy can index, and so the largest any array of a call may have.
MAX_BYTES = 2**63 - 1

Padding = int | str | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Geometry:
    """One convolution in integers: what a kernel has to know besides its arrays.

    N images of C channels and H x W pixels meet F filters of KH x KW taps in `groups` groups and
    give OH x OW pixels each. `padding` is (top, bottom, left, right).
    """

    N: int
    C: int
    H: int
    W: int
    F: int
    KH: int
    KW: int
    OH: int
    OW: int
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    groups: int

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of x and dx as (N, C, H, W)."""
        return self.N, self.C, self.H, self.W

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of y and dy as (N, F, OH, OW)."""
        return self.N, self.F, self.OH, self.OW

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight and dw as (F, C / groups, KH, KW)."""
        return self.F, self.C // self.groups, self.KH, self.KW

    @property
    def flops(self) -> int:
        """Floating-point operations of a pass, two for each product: 2 N F OH OW (C / groups) KH KW."""
        return 2 * self.N * self.F * self.OH * self.OW * (self.C // self.groups) * self.KH * self.KW

    @property
    def activations(self) -> int:
        """Elements of x and y together."""
        return self.N * (self.C * self.H * self.W + self.F * self.OH * self.OW)


def to_nchw(shape: tuple[int, ...], layout: str) -> tuple[int, int, int, int]:
    """Turn a shape in `layout` into the order N, C, H, W."""
    n, c, h, w = LAYOUTS[layout]
    return shape[n], shape[c], shape[h], shape[w]


def from_nchw(shape: tuple[int, int, int, int], layout: str) -> tuple[int, ...]:
    """Turn a shape in the order N, C, H, W into `layout`."""
    result = [0, 0, 0, 0]
    for extent, axis in zip(shape, LAYOUTS[layout], strict=True):
        result[axis] = extent
    return tuple(result)


def check_layout(layout: Any) -> str:
    """Return `layout` if it is one."""
    if not isinstance(layout, str):
        raise TypeError(f"layout must be a string, got {layout!r}")
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(map(repr, LAYOUTS))}, got {layout!r}")
    return layout


def as_int(name: str, value: Any, minimum: int | None = None) -> int:
    """Return `value` as a Python int; NumPy integers are ints, floats and bools are not."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an int, got the bool {value!r}")
    try:
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}") from None
    if minimum is not None and result < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return result


def as_pair(name: str, value: Any, minimum: int) -> tuple[int, int]:
    """Return an int or (vertical, horizontal) as a pair."""
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"{name} must be an int or (vertical, horizontal), got {value!r}")
        return as_int(name, value[0], minimum), as_int(name, value[1], minimum)
    if isinstance(value, str):
        raise TypeError(f"{name} must be an int or (vertical, horizontal), got {value!r}")
    number = as_int(name, value, minimum)
    return number, number


def as_shape(name: str, value: Any) -> tuple[int, ...]:
    """Return a 4-D shape as a tuple of ints."""
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name} must be a tuple of four ints, got {value!r}")
    if len(value) != 4:
        hint = f"; for a single image put a 1 first: {(1, *value)!r}" if len(value) == 3 else ""
        raise ValueError(f"{name} must have four extents, got {value!r}{hint}")
    return tuple(as_int(name, extent, 0) for extent in value)


def as_padding(value: Any) -> str | tuple[int, int, int, int]:
    """Return padding as (top, bottom, left, right), or the name of a rule that needs the extents."""
    form = "padding must be an int, (vertical, horizontal), ((top, bottom), (left, right)) or one of "
    form += ", ".join(map(repr, PADDING_NAMES))
    if isinstance(value, str):
        if value not in PADDING_NAMES:
            raise ValueError(f"{form}; got {value!r}")
        return value
    if not isinstance(value, tuple | list):
        try:
            number = as_int("padding", value, 0)
        except TypeError:
            raise TypeError(f"{form}; got {value!r} of type {type(value).__name__}") from None
        return number, number, number, number
    nested = [isinstance(side, tuple | list) for side in value]
    if len(value) != 2 or any(nested) != all(nested):
        raise ValueError(f"{form}; got {value!r}")
    if not any(nested):
        vertical, horizontal = (as_int("padding", side, 0) for side in value)
        return vertical, vertical, horizontal, horizontal
    if any(len(side) != 2 for side in value):
        raise ValueError(f"{form}; got {value!r}")
    (top, bottom), (left, right) = ((as_int("padding", end, 0) for end in side) for side in value)
    return top, bottom, left, right


def same_padding(extent: int, taps: int, stride: int, dilation: int, *, lower: bool) -> tuple[int, int]:
    """Padding before and after an axis that makes its output ceil(extent / stride) long.

    The rule of TensorFlow, JAX, Keras, MATLAB and ONNX's SAME_UPPER; `lower` puts the odd row or
    column first (SAME_LOWER).
    """
    out = -(-extent // stride)
    total = max(0, (out - 1) * stride + dilation * (taps - 1) + 1 - extent)
    small, large = total // 2, total - total // 2
    return (large, small) if lower else (small, large)


@lru_cache(maxsize=1024)
def make_geometry(
    input_shape: tuple[int, int, int, int],
    weight_shape: tuple[int, int, int, int],
    stride: tuple[int, int],
    padding: str | tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
    itemsize: int = 8,
) -> Geometry:
    """Check the extents of one convolution against each other and derive the rest.

    Parameters
    ----------
    input_shape : tuple of int
        (N, C, H, W).
    weight_shape : tuple of int
        (F, C / groups, KH, KW).
    stride, dilation : tuple of int
        (vertical, horizontal), each at least 1.
    padding : str or tuple of int
        As :func:`as_padding` returns it.
    groups : int
        At least 1.
    itemsize : int
        Bytes of an element, for the check that no array overflows.

    Raises
    ------
    ValueError
        If the extents do not fit each other, leave no output or overflow.

    Notes
    -----
    OH = (H + top + bottom - dilation (KH - 1) - 1) // stride + 1, likewise OW.
    """
    N, C, H, W = input_shape
    F, CG, KH, KW = weight_shape
    if F < 1:
        raise ValueError(f"weight must have at least one filter, got F = {F}")
    if KH < 1 or KW < 1:
        raise ValueError(f"weight must have a kernel_size of at least 1 x 1, got {KH} x {KW}")
    if C % groups:
        raise ValueError(f"groups must divide the channels of x: got groups = {groups}, C = {C}")
    if F % groups:
        raise ValueError(f"groups must divide the filters of weight: got groups = {groups}, F = {F}")
    if C // groups != CG:
        raise ValueError(
            f"weight must have C / groups = {C // groups} channels for x with C = {C} and groups = {groups}, got {CG}"
        )
    if padding == "valid":
        padding = (0, 0, 0, 0)
    elif isinstance(padding, str):
        lower = padding == "same_lower"
        vertical = same_padding(H, KH, stride[0], dilation[0], lower=lower)
        padding = (*vertical, *same_padding(W, KW, stride[1], dilation[1], lower=lower))
    top, bottom, left, right = padding
    OH = (H + top + bottom - dilation[0] * (KH - 1) - 1) // stride[0] + 1
    OW = (W + left + right - dilation[1] * (KW - 1) - 1) // stride[1] + 1
    if OH < 1 or OW < 1:
        raise ValueError(
            f"the kernel must fit into the padded input: kernel_size {KH} x {KW} with dilation {dilation} "
            f"covers {dilation[0] * (KH - 1) + 1} x {dilation[1] * (KW - 1) + 1}, "
            f"x padded by (top, bottom, left, right) = {padding} is {H + top + bottom} x {W + left + right}"
        )
    # A size counts its empty extents as 1, so that one empty array does not hide a huge one; the
    # padded input is never stored, but its indices are computed.
    for name, shape in (
        ("the padded input", (N, C, H + top + bottom, W + left + right)),
        ("the weight", weight_shape),
        ("the output", (N, F, OH, OW)),
    ):
        size = itemsize
        for extent in shape:
            size *= max(1, extent)
        if size > MAX_BYTES or max(stride) > MAX_BYTES or max(dilation) > MAX_BYTES:
            raise ValueError(
                f"the size of {name}, {shape}, overflows (with padding {padding}, stride {stride}, dilation {dilation})"
            )
    return Geometry(N, C, H, W, F, KH, KW, OH, OW, stride, dilation, padding, groups)
