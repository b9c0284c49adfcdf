"""Before the first call: what would run and why, and compilation ahead of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import FLOATS
from .functional import Pair, geometry_of
from .geometry import LAYOUTS, Geometry, Padding, as_shape, from_nchw
from .plan import Plan, kernels, plan_forward, plan_input_grad, plan_weight_grad
from .plan.base import contiguous


@dataclass(frozen=True)
class Explanation:
    """The plans of the three passes with a kernel; prints as text."""

    geometry: Geometry
    forward: Plan
    input_grad: Plan
    weight_grad: Plan

    @property
    def plans(self) -> tuple[Plan, Plan, Plan]:
        """The plans in the order y, dx, dw."""
        return self.forward, self.input_grad, self.weight_grad

    def __str__(self) -> str:
        g = self.geometry
        head = (
            f"x {g.input_shape}, weight {g.weight_shape} -> y {g.output_shape} in the order N, C, H, W; "
            f"stride {g.stride}, dilation {g.dilation}, padding (top, bottom, left, right) {g.padding}, "
            f"groups {g.groups}"
        )
        return "\n".join([head, *map(str, self.plans)])

    __repr__ = __str__


def explain(
    input_shape: tuple[int, int, int, int],
    weight_shape: tuple[int, int, int, int],
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    dtype: Any = np.float32,
) -> Explanation:
    """What :func:`conv2d` and its gradients would run on new C-contiguous arrays of these shapes, and why.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of x in `layout`.
    weight_shape : tuple of int
        (F, C / groups, KH, KW).
    stride, padding, dilation, groups, layout, flip, algorithm
        As in :func:`conv2d`.
    dtype : float32 or float64

    Returns
    -------
    Explanation
        Prints the algorithm and its reason, tile and blocks, bytes of scratch memory and floating-point operations
        of each pass; `forward`, `input_grad` and `weight_grad` hold them.

    Raises
    ------
    TypeError, ValueError
        As :func:`conv2d`.

    Examples
    --------
    >>> print(explain((4, 64, 56, 56), (64, 64, 3, 3), padding=1).forward.algorithm)
    winograd
    """
    kind = np.dtype(dtype)
    if dtype is None or kind not in FLOATS:
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}")
    shape = as_shape("input_shape", input_shape)
    options = (stride, padding, dilation, groups, layout, flip, algorithm)
    g = geometry_of(shape, as_shape("weight_shape", weight_shape), options, kind.itemsize)
    x, y = contiguous(shape), contiguous(from_nchw(g.output_shape, layout))
    w = contiguous(g.weight_shape)
    how = kind, algorithm, LAYOUTS[layout], flip
    return Explanation(
        g,
        plan_forward(g, *how, x, w, 1, y).now(),
        plan_input_grad(g, *how, False, y, w, x).now(),
        plan_weight_grad(g, *how, False, x, y, w).now(),
    )


def warmup(dtypes: Iterable[Any] = (np.float32,), *, progress: bool | None = None) -> None:
    """Compile every kernel ahead of its first call, or load it from the cache.

    Parameters
    ----------
    dtypes : iterable of dtype
        float32, float64 or both.
    progress : bool, optional
        Whether to show a progress bar, which needs tqdm. Default: if tqdm is installed.

    Raises
    ------
    TypeError
        If a dtype is neither float32 nor float64.
    ModuleNotFoundError
        If `progress` is True and tqdm is not installed.
    """
    kinds = [np.dtype(dtype) for dtype in dtypes]
    for kind in kinds:
        if kind not in FLOATS:
            raise TypeError(f"dtypes must be float32 or float64, got {kind}")
    work = [(name, kind, compiler) for kind in kinds for name, compiler in kernels()]
    bar = None
    if progress is not False:
        try:
            from tqdm import tqdm

            bar = tqdm(total=len(work), desc="compiling", unit="kernel")
        except ModuleNotFoundError:
            if progress:
                raise ModuleNotFoundError('the progress bar needs tqdm: pip install "numbaconv[demo]"') from None
    for name, kind, compiler in work:
        if bar is not None:
            bar.set_postfix_str(f"{name} {kind}")
        compiler(kind)
        if bar is not None:
            bar.update()
    if bar is not None:
        bar.close()
