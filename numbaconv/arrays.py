"""Which arrays a call takes and gives: types, dtypes, ranks, and where a result may be written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Cache lines, and arrays that begin with one: for smaller ones it takes longer than it saves, a microsecond.
LINE_BYTES, LARGE_BYTES = 64, 1 << 20
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def as_array(name: str, value: Any, rank: int, form: str, dtype: np.dtype | None = None) -> Array:
    """Return `value` as an array a kernel can read, `dtype` being that of the call's first array.

    Only what no kernel can address is copied: another byte order and unaligned data.
    """
    if type(value) is not np.ndarray:
        if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
            raise TypeError(
                f"{name} must be a numpy.ndarray, got {type(value).__name__}; "
                f"convert it with np.asarray({name}, dtype=np.float32)"
            )
        value = value.view(np.ndarray)
    if value.dtype not in FLOATS:
        native = value.dtype.newbyteorder("=")
        if native not in FLOATS:
            raise TypeError(
                f"{name} must be float32 or float64, got {value.dtype}; cast it with {name}.astype(np.float32)"
            )
        value = value.astype(native)
    if dtype is not None and value.dtype != dtype:
        raise TypeError(
            f"all arrays of a call must have one dtype: {name} is {value.dtype}, the first array is {dtype}; "
            f"cast it with {name}.astype(np.{dtype})"
        )
    if value.ndim != rank:
        hint = f"; for a single image pass {name}[None]" if rank == 4 and value.ndim == 3 else ""
        raise ValueError(f"{name} must have {rank} dimensions, {form}, got shape {value.shape}{hint}")
    array: Array = value if addressable(value) else value.copy()
    return array


def as_activation(name: str, value: Any) -> Array:
    """:func:`as_array` for the first array of a call, whose dtype the others follow."""
    return as_array(name, value, 4, "those of the layout")


def new_array(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """An array to write to; a large one begins with a cache line, where NumPy's begin 16 bytes behind one.

    Vectors as long as a line then are not parts of two, here and as the input of what comes next: depthwise 64@56 in
    NHWC takes 0.77 of the time.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE_BYTES:
        return np.empty(shape, dtype)
    memory = np.empty(size + LINE_BYTES, np.uint8)
    return np.ndarray(shape, dtype, memory, -memory.ctypes.data % LINE_BYTES)


def addressable(array: Array) -> bool:
    """Whether every element lies a whole number of elements from an aligned start.

    NumPy calls an array without elements aligned wherever it starts, so that one is not taken at its word.
    """
    return array.size > 0 and array.flags.aligned and all(stride % array.itemsize == 0 for stride in array.strides)


def as_bool(name: str, value: Any) -> bool:
    """Return `value` as a Python bool; an int is none."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def as_output(
    out: Any,
    shape: tuple[int, ...],
    dtype: np.dtype,
    inputs: Mapping[str, Array | None],
    accumulate: Any = False,
) -> Array:
    """Check `out` and return the array that the kernel writes: `out`, a stand-in for it, or a new one."""
    accumulate = as_bool("accumulate", accumulate)
    if out is None:
        if accumulate:
            raise ValueError("accumulate=True needs out, the array to add to; got out=None")
        return new_array(shape, dtype)
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a numpy.ndarray, got {type(out).__name__}")
    if out.dtype != dtype or not out.dtype.isnative:
        raise TypeError(f"out must have the dtype of the inputs in native byte order, {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have the shape of the result, {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out must be writeable, got a read-only array")
    if overlaps_itself(out):
        raise ValueError(f"out must not overlap itself, got shape {out.shape} with strides {out.strides} in bytes")
    for name, array in inputs.items():
        if array is not None and np.may_share_memory(out, array):
            raise ValueError(f"out must not overlap an input, got one that may share memory with {name}")
    plain: Array = out.view(np.ndarray)
    return plain if addressable(plain) else plain.copy()


def finished(result: Array, out: Array | None) -> Array:
    """Return the result in the user's own array where one was passed."""
    if out is None:
        return result
    if not addressable(out):
        out[...] = result
    return out


def overlaps_itself(array: Array) -> bool:
    """Whether two elements of `array` share a byte."""
    if array.flags.c_contiguous or array.size == 0:
        return False
    axes = sorted((abs(s), extent) for s, extent in zip(array.strides, array.shape, strict=True) if extent > 1)
    reach = array.itemsize  # bytes that the axes so far cover
    for stride, extent in axes:
        if stride < reach:
            break
        reach += stride * (extent - 1)
    else:
        return False
    # Axes that interleave may still miss each other (as_strided can make such): look at every address.
    offsets = np.zeros(1, np.int64)
    for stride, extent in axes:
        offsets = (offsets[:, None] + np.arange(extent) * stride).ravel()
    return bool(np.diff(np.sort(offsets)).min() < array.itemsize)
