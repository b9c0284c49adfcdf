"""Larger kernels, and strides, as sums over r x r taps at stride 1: each part of the kernel slides over its own map.

Along an axis, at stride s, tap k of a kernel is i = 0 ... r - 1 of part (p, a) where k = a + s (r p + i), a < s::

    y[o] = sum over k of w[k] x[s o + k] = sum over (p, a) and i of w[a + s (r p + i)] x[a + s r p + s (o + i)]

Map (p, a) is every s-th pixel of x, from a + s r p on. As the sum over maps is one more sum over channels, the
transforms and the products are those of r x r taps on as many channels as all maps have together; taps that a part
lacks are 0. :func:`split` makes the parts of a kernel, and :func:`join_weight` a kernel's gradient from theirs.

Source: D. Huang et al., DWM: A Decomposable Winograd Method for Convolution Acceleration (AAAI 2020).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from ...geometry import Geometry
from ..jit import helper
from ..launch import Address, Launch, NestKernel
from ..pixels import pack_pixels
from ..problem import Product
from ..rows import clear, inside
from ..simd import integers, lanes_of, load, load_integer, moved, pointer, store, store_integer, unpacked
from ..weight_vectors import Tap, packing, places_of_taps
from ..work import claim

# Filters that are joined as one piece of work.
ROWS = 16


@dataclass(frozen=True)
class Maps:
    """The maps that x is seen as: `count` along each axis, of every stride-th pixel, for r x r taps of a kernel's."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    r: int
    count: tuple[int, int]

    @classmethod
    def cut(cls, kernel_size: tuple[int, int], stride: tuple[int, int], r: int) -> Maps:
        """Those that all taps of a kernel need."""
        h, w = (-(-max(1, -(-taps // step)) // r) * step for taps, step in zip(kernel_size, stride, strict=True))
        return cls(kernel_size, stride, r, (h, w))

    @property
    def plain(self) -> bool:
        """Whether x itself is the only map, and the kernel its only part."""
        return self.kernel_size == (self.r, self.r) and self.stride == (1, 1)

    @property
    def all(self) -> int:
        """Maps of a channel."""
        return self.count[0] * self.count[1]

    @property
    def taps(self) -> int:
        """Taps of a channel in all parts of the kernel, those that are 0 included."""
        return self.all * self.r**2

    def places(self, C: int) -> list[int]:
        """Where parts of C channels have the taps of channel 0, [map][channel][i, j]; in the order of (kh, kw)."""
        (KH, KW), (down, right), r = self.kernel_size, self.stride, self.r
        found = []
        for kh, kw in product(range(KH), range(KW)):
            (p_h, i), (p_w, j) = divmod(kh // down, r), divmod(kw // right, r)
            q = (p_h * down + kh % down) * self.count[1] + p_w * right + kw % right
            found.append((q * C * r + i) * r + j)
        return found

    def strides(self, C: int) -> tuple[int, int, int, int]:
        """Elements from a filter, channel, row and column to the next one, in all parts of a kernel of C channels."""
        return C * self.taps, self.r**2, self.r, 1

    def arguments(self) -> dict[str, int]:
        """Those of a kernel that packs maps."""
        return {"maps": self.all, "maps_w": self.count[1], "stride_h": self.stride[0], "stride_w": self.stride[1]}


def split(products: list[tuple[Product, Maps]], lanes: int) -> tuple[list[Launch], list[Product], int]:
    """The launch that makes the parts of the weights, the problems with those, and the elements of all parts.

    Parts are vectors of `lanes` filters, [group][filter // lanes][map, channel][i, j], as the filters' transform reads
    them.
    """
    taps, with_parts, start = [], [], 0
    for p, maps in products:
        r, of = maps.r, maps.taps
        first, found = start // lanes, dict(zip(maps.places(p.C), places_of_taps(p), strict=True))
        for q, i in product(range(maps.all if p.C > 0 else 0), range(r * r)):
            at = q * p.C * r * r + i
            taps.append(Tap(found.get(at), first + at, of, index=0))
        strides = -(-p.F // lanes) * lanes * p.C * of, p.C * of, r * r * lanes, 0, 0
        with_parts.append(replace(p, weight=Address("panels", start), w_strides=strides, KH=r, KW=r))
        start += p.groups * strides[0]
    # Pixels that no tap reads are sums of no channels. All parts have as many taps.
    p, maps = max(products, key=lambda item: item[0].C)
    launches = [packing(p, taps, p.C, maps.r**2, lanes)] if start > 0 else []
    return launches, with_parts, start


def join(g: Geometry, values: dict[str, int | Address], maps: Maps) -> Launch:
    """The launch that makes dw of its parts; `values` are those of :func:`..weight_grad.arguments_of`."""
    F, C = g.F // g.groups, g.C // g.groups
    places = {f"place {t}": place for t, place in enumerate(maps.places(C))}
    values = values | places | {"parts": Address("parts"), "taps": maps.taps, "step": maps.r**2}
    values |= {"groups": g.groups, "F": F, "C": C, "KH": g.KH, "KW": g.KW}
    return Launch(join_weight, (*JOIN_WEIGHT, *places), values, g.groups * -(-F // ROWS))


JOIN_WEIGHT = (
    "record", "parts", "dw", "w_f", "w_c", "w_kh", "w_kw", "groups", "F", "C", "KH", "KW", "taps", "step", "accumulate",
)  # fmt: skip
JOIN_WEIGHT_COUNT = len(JOIN_WEIGHT)


@NestKernel
def join_weight(scratch, arguments, worker):
    """dw (+)= its parts, parts[group, f, map, c, i, j]; behind the arguments, where they have each tap of channel 0."""
    (
        _, parts_address, dw_address, w_f, w_c, w_kh, w_kw, groups, F, C, KH, KW, taps, step, accumulate,
    ) = unpacked(arguments, JOIN_WEIGHT_COUNT)  # fmt: skip
    parts, dw = pointer(parts_address, scratch), pointer(dw_address, scratch)
    places = moved(arguments, JOIN_WEIGHT_COUNT)
    blocks = (F + ROWS - 1) // ROWS
    while True:
        piece = claim(arguments, worker)
        if piece >= groups * blocks:
            return 0
        group, block = divmod(piece, blocks)
        for f in range(group * F + block * ROWS, group * F + min(F, (block + 1) * ROWS)):
            source, out = moved(parts, f * C * taps), moved(dw, f * w_f)
            for c in range(C):
                for kh in range(KH):
                    for kw in range(KW):
                        value = load(source, load_integer(places, kh * KW + kw) + c * step)
                        place = c * w_c + kh * w_kh + kw * w_kw
                        store(out, place, load(out, place) + value if accumulate else value)


@helper
def pack_maps(
    strip, places, x, x_n, x_c, x_h, x_w, H, W, images, rows, columns, first, channels, top, left, r, maps
):  # fmt: skip
    """strip[((n * rows + v) * columns + u) * lanes + i] = pixel (v, u) of channel first + i of a sum, 0 outside.

    For i < channels <= lanes. (top, left) is the pixel of x that is the first one of map 0. `maps` is (channels of x,
    maps along a row, stride_h, stride_w); `places` has room for 4 int64 for each channel.
    """
    lanes = lanes_of(strip)
    C, maps_w, stride_h, stride_w = maps
    q, c = divmod(first, C)
    whole = c + channels <= C  # all of one map
    if channels < lanes or not whole:  # numbers out of old memory may be subnormal, and slow
        clear(strip, images * rows * columns * lanes)
    if whole:
        h, w = top + first_of_map(q // maps_w, r, stride_h), left + first_of_map(q % maps_w, r, stride_w)
        v, h = divmod(h, stride_h)
        u, w = divmod(w, stride_w)
        pack_pixels(
            strip, lanes, moved(x, c * x_c + h * x_h + w * x_w), x_n, x_c, stride_h * x_h, stride_w * x_w,
            (H - h + stride_h - 1) // stride_h, (W - w + stride_w - 1) // stride_w, images, rows, columns,
            channels, v, u,
        )  # fmt: skip
        return
    table = integers(places)
    for i in range(channels):
        q, c = divmod(first + i, C)
        h, w = top + first_of_map(q // maps_w, r, stride_h), left + first_of_map(q % maps_w, r, stride_w)
        start, end = inside(w, stride_w, W, columns)
        store_integer(table, 4 * i, h)
        store_integer(table, 4 * i + 1, c * x_c + h * x_h + w * x_w)
        store_integer(table, 4 * i + 2, start)
        store_integer(table, 4 * i + 3, end)
    step = stride_w * x_w
    for line in range(images * rows):  # all channels of a row, which stays in L1
        n, v = divmod(line, rows)
        out, row = moved(strip, line * columns * lanes), moved(x, n * x_n + v * stride_h * x_h)
        for i in range(channels):
            h = load_integer(table, 4 * i) + v * stride_h
            if 0 <= h < H:
                source, u = moved(row, load_integer(table, 4 * i + 1)), load_integer(table, 4 * i + 2)
                # The end is read each time, or the compiler makes gathers and scatters of the loop, 4 times as slow.
                while u < load_integer(table, 4 * i + 3):
                    store(out, u * lanes + i, load(source, u * step))
                    u += 1


@helper
def first_of_map(q, r, stride):
    """The first pixel of map q along an axis."""
    p, a = divmod(q, stride)
    return a + stride * r * p
