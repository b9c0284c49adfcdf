"""The dense problem that y, and each phase of dx, is: what the planners cut into blocks and the nests compute."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import gcd

from ..geometry import Geometry
from .launch import Address


@dataclass(frozen=True)
class Part:
    """The taps of a kernel that one of several problems has: those from `first` on, each `every`-th, along each axis.

    The problems of all `first` below `every` share the kernel's `taps` among themselves.
    """

    taps: tuple[int, int]
    first: tuple[int, int]
    every: tuple[int, int]

    def before(self) -> int:
        """Taps of the problems that come before this one, row by row of `first`."""
        # Of `taps` there are taps // every with each remainder, and one more with the first taps % every.
        (whole_h, rest_h), (whole_w, rest_w) = (divmod(t, e) for t, e in zip(self.taps, self.every, strict=True))
        h, w = self.first
        rows_above, rows = whole_h * h + min(h, rest_h), whole_h + (h < rest_h)
        return rows_above * self.taps[1] + rows * (whole_w * w + min(w, rest_w))


@dataclass(frozen=True)
class Pixels:
    """Which of `extents` rows and columns a problem's outputs are: those from `first` on, each `every`-th."""

    first: tuple[int, int]
    every: tuple[int, int]
    extents: tuple[int, int]


@dataclass(frozen=True)
class Product:
    """One dense problem of the nest: y[f, pixel] from x[c, what (kh, kw) reads], per group.

    `x`, `weight` and `y` name arrays; strides count elements and follow (n, c, h, w), (group, f, c, kh, kw) and
    (n, f, h, w). C and F are those of one group. Output pixel (oh, ow) reads row oh * stride + offset + kh * dilation.
    """

    x: Address
    x_strides: tuple[int, int, int, int]
    H: int
    W: int
    weight: Address
    w_strides: tuple[int, int, int, int, int]
    bias: str | None
    bias_step: int
    y: Address
    y_strides: tuple[int, int, int, int]
    N: int
    C: int
    F: int
    OH: int
    OW: int
    KH: int
    KW: int
    groups: int
    stride: tuple[int, int]
    offset: tuple[int, int]
    dilation: tuple[int, int]
    accumulate: bool
    part: Part | None = None
    #: Where the outputs are among those of several problems that have all of them together.
    pixels: Pixels | None = None

    def arguments(self) -> dict[str, int | Address]:
        """The problem as the arguments of a kernel, by name."""
        values: dict[str, int | Address] = {"x": self.x, "weight": self.weight, "y": self.y}
        values |= {"bias": 0 if self.bias is None else Address(self.bias), "bias_f": self.bias_step}
        values |= dict(zip(("x_n", "x_c", "x_h", "x_w"), self.x_strides, strict=True))
        values |= dict(zip(("w_group", "w_row", "w_channel", "w_kh", "w_kw"), self.w_strides, strict=True))
        values |= dict(zip(("y_n", "y_f", "y_h", "y_w"), self.y_strides, strict=True))
        for name in ("H", "W", "N", "C", "F", "OH", "OW", "KH", "KW", "groups", "accumulate"):
            values[name] = getattr(self, name)
        for name, pair in (("stride", self.stride), ("offset", self.offset), ("dilation", self.dilation)):
            values |= {f"{name}_h": pair[0], f"{name}_w": pair[1]}
        for name, axis in (("h", 0), ("w", 1)):
            values |= {f"phases_{name}": self.phases(axis), f"reach_{name}": self.reach(axis)}
        return values

    def of_images(self, first: int, count: int) -> Product:
        """The problem of some images alone."""
        x, y = self.x, self.y
        x = Address(x.name, x.offset + first * self.x_strides[0])
        y = Address(y.name, y.offset + first * self.y_strides[0])
        return replace(self, x=x, y=y, N=count)

    @property
    def pointwise(self) -> bool:
        """Whether a 1 x 1 kernel sees each pixel once, and no padding."""
        same = self.stride == (1, 1) and self.offset == (0, 0) and (self.H, self.W) == (self.OH, self.OW)
        return self.KH == self.KW == 1 and same

    def reach(self, axis: int) -> int:
        """Rows (axis 0) or columns (axis 1) of a strip beyond those of its outputs."""
        taps = (self.KH, self.KW)[axis]
        return max(0, taps - 1) * abs(self.dilation[axis]) // self.stride[axis]

    def phases(self, axis: int) -> int:
        """Remainders modulo the stride that the taps of an axis have: those of the first so many taps."""
        return min((self.KH, self.KW)[axis], self.stride[axis] // gcd(*self._step(axis)))

    def _step(self, axis: int) -> tuple[int, int]:
        return self.stride[axis], abs(self.dilation[axis])


def together(products: list[Product]) -> tuple[Product, list[Product]]:
    """Problems whose outputs are pixels of one array as a whole and its parts, whose taps walk forwards.

    The whole sees all that the parts see of x, and has as many outputs as the largest of them. Parts without taps are
    the pixels that no problem has, which are 0.
    """
    p, pixels = products[0], products[0].pixels
    assert pixels is not None
    every, extents, taps, offset = pixels.every, pixels.extents, [0, 0], [0, 0]
    outputs = [-(-extent // step) for extent, step in zip(extents, every, strict=True)]
    for axis in (0, 1):
        reach = max(q.offset[axis] + ((q.KH, q.KW)[axis] - 1) * q.dilation[axis] for q in products)
        offset[axis] = min(q.offset[axis] for q in products)
        taps[axis] = -(-(reach - offset[axis]) // p.dilation[axis]) + 1
    y_n, y_f, y_h, y_w = p.y_strides
    y_h, y_w = y_h // every[0], y_w // every[1]
    begin = p.y.offset - pixels.first[0] * y_h - pixels.first[1] * y_w
    whole = replace(
        p,
        y=Address(p.y.name, begin),
        y_strides=(y_n, y_f, y_h, y_w),
        OH=outputs[0],
        OW=outputs[1],
        KH=taps[0],
        KW=taps[1],
        offset=(offset[0], offset[1]),
        part=None,
    )
    parts = {q.pixels.first: q for q in products if q.pixels is not None}
    for first in product(*(range(min(n, step)) for n, step in zip(extents, every, strict=True))):
        OH, OW = (-(-(n - start) // step) for n, start, step in zip(extents, first, every, strict=True))
        empty = replace(whole, OH=OH, OW=OW, KH=0, KW=0, pixels=replace(pixels, first=first))
        parts.setdefault(first, empty)
    return whole, [parts[first] for first in sorted(parts)]


def forward_problem(
    g: Geometry,
    x: tuple[str, tuple[int, int, int, int]],
    weight: tuple[Address, tuple[int, int, int, int]],
    y: tuple[str, tuple[int, int, int, int]],
    bias: int | None,
    accumulate: bool,
) -> Product:
    """The problem of a forward pass, from the arrays and their strides; `bias` is a stride, or None."""
    F, w = g.F // g.groups, weight[1]
    return Product(
        x=Address(x[0]),
        x_strides=x[1],
        H=g.H,
        W=g.W,
        weight=weight[0],
        w_strides=(F * w[0], *w),
        bias=None if bias is None else "bias",
        bias_step=bias or 0,
        y=Address(y[0]),
        y_strides=y[1],
        N=g.N,
        C=g.C // g.groups,
        F=F,
        OH=g.OH,
        OW=g.OW,
        KH=g.KH,
        KW=g.KW,
        groups=g.groups,
        stride=g.stride,
        offset=(-g.padding[0], -g.padding[2]),
        dilation=g.dilation,
        accumulate=accumulate,
    )
