"""The same numbers in every kind of memory that a NumPy array can have."""

import numpy as np


def strided(array):
    """Every second element along each axis of something larger, with NaN in between."""
    memory = np.full([2 * extent for extent in array.shape], np.nan, array.dtype)
    view = memory[(slice(1, None, 2),) * array.ndim]
    view[...] = array
    return view


def sliced(array):
    """The inside of something larger, surrounded by NaN."""
    memory = np.full([extent + 3 for extent in array.shape], np.nan, array.dtype)
    view = memory[tuple(slice(1, 1 + extent) for extent in array.shape)]
    view[...] = array
    return view


def reversed_strides(array):
    """Negative strides on every axis."""
    backwards = (slice(None, None, -1),) * array.ndim
    return array[backwards].copy()[backwards]


def mixed_signs(array):
    """A negative stride of two elements on the last axis."""
    memory = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan, array.dtype)
    view = memory[..., ::-2]
    view[...] = array
    return view


def transposed(array):
    """The axes stored in reverse order, as a view."""
    return array.T.copy().T


def rotated(array):
    """The axes stored in the order of another layout."""
    return np.moveaxis(np.moveaxis(array, 0, -1).copy(), -1, 0)


def fortran(array):
    return array.copy(order="F")


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def big_endian(array):
    return array.astype(array.dtype.newbyteorder(">"))


def little_endian(array):
    return array.astype(array.dtype.newbyteorder("<"))


def unaligned(array):
    """One byte past where an element should start."""
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def record_field(array):
    """A field of packed records: strides that are no multiple of the item size."""
    records = np.zeros(array.shape, [("tag", np.uint8), ("value", array.dtype), ("rest", np.uint16)])
    records["value"] = array
    return records["value"]


def aligned_field(array):
    """A field of records of twice the item size."""
    records = np.full(array.shape, np.nan, [("value", array.dtype), ("other", array.dtype)])
    records["value"] = array
    return records["value"]


def subclass(array):
    """A subclass without meaning of its own."""

    class Tagged(np.ndarray):
        pass

    return array.copy().view(Tagged)


VARIANTS = (
    strided,
    sliced,
    reversed_strides,
    mixed_signs,
    transposed,
    rotated,
    fortran,
    read_only,
    big_endian,
    little_endian,
    unaligned,
    record_field,
    aligned_field,
    subclass,
)
# Those that can be written to as `out`: in native byte order and not read-only.
WRITABLE = tuple(v for v in VARIANTS if v not in (read_only, big_endian, little_endian, subclass))


def hwcn(array):
    """A new array H x W x C x N from one of N x C x H x W."""
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
