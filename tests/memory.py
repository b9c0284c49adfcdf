"""Addresses of arrays in compiled test code, as the kernels take them."""

from numba import types
from numba.extending import intrinsic


@intrinsic
def pointer_like(typingctx, array):
    """A null pointer to elements of the array's type, to name the type by."""
    kind = types.CPointer(array.dtype)
    return kind(array), lambda context, builder, signature, args: context.get_constant_null(kind)
