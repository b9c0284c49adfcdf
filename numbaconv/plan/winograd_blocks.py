"""The sums that Winograd's algorithm computes, the variant that it takes for them, and its blocks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod

import numpy as np

from ..geometry import LAYOUTS, Geometry
from ..kernels import tiling
from ..kernels.problem import Product
from ..kernels.winograd import forward, weight_grad
from ..kernels.winograd.algebra import GRAD_VARIANTS, VARIANTS
from ..kernels.winograd.maps import Maps
from .base import MOST_PIECES, PIECES, Axes, even_blocks, round_up

# Scratch of all workers is at most 8 MiB, an eighth of it for pixels on their way. y and dx make their blocks smaller
# where there are many threads, which moves no sum; dw, whose tiles decide its sums, has fewer channels in a piece, and
# then fewer workers.
TOTAL_BYTES = 8 << 20
FORWARD_BYTES, GRAD_BYTES = 10 << 17, 7 << 17
# The same for y and dx where a block has more filters than are transformed at a time, and what its larger sums cost.
FEW_BLOCKS_BYTES, MORE_FILTERS = 15 << 17, 1.05
# Filters that are transformed at a time: those of a block, whose sums for all its tiles stay in scratch, or some of
# them. The transform of x is done again for each block.
FB_BYTES = 64 * 4
# Channels whose transformed filters a worker keeps for all its tiles; above, blocks of channels in turns.
KC_BYTES, KC_BLOCK_BYTES = 64 * 4, 32 * 4
# Outputs of a tile along each axis for kernels of r x r that have one variant, with 6 points.
ONLY = {r: m for m, r in VARIANTS if r != 3}
SIZES, GRAD_SIZES = (sorted({r for _, r in variants}) for variants in (VARIANTS, GRAD_VARIANTS))
# Tiles that dw sums before it adds them to the rest: longer sums have larger rounding errors.
MOST_TILES = 64
# Blocks of them that dw adds up one after the other, for the same reason: in shares of so many bytes at most.
SHARE_BLOCKS, SHARES_BYTES = 128, 1 << 19
# Images of a block in HWCN, where they lie side by side: two cache lines, which memory brings together. With 16, 8
# layers take 3% longer in the mean.
IMAGES = 32


# -- sums and variants ----------------------------------------------------------------------------------


@cache
def maps_of(name: str, kernel_size: tuple[int, int], stride: tuple[int, int]) -> Maps:
    """How a kernel is cut into parts of r x r taps: so that an output has the fewest products.

    In dx at a stride each remainder of a pixel modulo the stride has taps of its own, and is a problem at stride 1.
    """
    if name == "input gradient":
        kernel_size, stride = _of_phase(kernel_size, stride), (1, 1)
    sizes = GRAD_SIZES if name == "weight gradient" else SIZES
    return min((Maps.cut(kernel_size, stride, r) for r in sizes), key=lambda maps: (products_of(maps), maps.all))


def _of_phase(extents: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int]:
    """Taps or pixels of the largest phase of dx."""
    return -(-extents[0] // stride[0]), -(-extents[1] // stride[1])


def products_of(maps: Maps) -> float:
    """Products of an output and a channel, on large tiles."""
    m = ONLY.get(maps.r, 4)
    return maps.all * ((m + maps.r - 1) / m) ** 2


@dataclass(frozen=True)
class Sums:
    """A pass of one group as sums over C channels of all maps, or in dw over pixels, for taps `dilation` apart.

    Extents are those of a map, or of every dilation-th pixel, which a tile sees: as many interleave. dx is y with x
    and dy in each other's place.
    """

    maps: Maps
    N: int
    C: int
    F: int
    H: int
    W: int
    OH: int
    OW: int
    dilation: tuple[int, int]

    @classmethod
    def of(cls, name: str, g: Geometry) -> Sums:
        """The pass `name`."""
        C, F, x, y = max(1, g.C // g.groups), g.F // g.groups, (g.H, g.W), (g.OH, g.OW)
        if name == "input gradient":
            C, F, x, y = F, C, y, _of_phase(x, g.stride)
        return cls.over(maps_of(name, (g.KH, g.KW), g.stride), g.N, C, F, x, y, g.dilation)

    @classmethod
    def over(
        cls,
        maps: Maps,
        N: int,
        C: int,
        F: int,
        x: tuple[int, int],
        y: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Sums:
        """From the extents of all pixels."""
        H, W = (-(-extent // (a * b)) for extent, a, b in zip(x, maps.stride, dilation, strict=True))
        OH, OW = (-(-extent // step) for extent, step in zip(y, dilation, strict=True))
        return cls(maps, max(1, N), C * maps.all, F, H, W, OH, OW, dilation)

    @property
    def r(self) -> int:
        """Taps along an axis."""
        return self.maps.r

    @property
    def inside(self) -> float:
        """The part of the map that is read, as far as it is no larger than the one that is written."""
        return min(1.0, self.H / self.OH) * min(1.0, self.W / self.OW)

    def tiles(self, m: int) -> tuple[int, int]:
        """Rows and columns of tiles on one of the maps that interleave."""
        return -(-self.OH // m), -(-self.OW // m)


def variant(products: float, OH: int, OW: int, enough: int) -> int:
    """Outputs of a tile of 3 x 3 taps along each axis, 2 or 4, for sums of so many products of a tap.

    4 needs 2.25 products for an output and 2 needs 4, but on short sums its rounding is more than 3 times that of the
    direct sum; on maps of up to 2 x 2, and where both need as many products, 2 is taken.
    """

    def work(m: int) -> int:
        return -(-OH // m) * -(-OW // m) * (m + 2) ** 2

    return 4 if products >= enough and work(4) < work(2) else 2


def forward_variant(s: Sums) -> int:
    """Variant of y or dx: by the channels of a sum.

    Sums at the border are shorter: what the padding adds counts for nothing, and maps of one tile are border all over:
    on those 64 channels, whose direct sums are cut in two, still have 3.3 times direct's rounding on 4 x 4 outputs.
    Where padding is half of what the taps meet, sums of any length have more than 3 times direct's rounding on 4 x 4
    outputs: a tile computes with all its positions, and fewer products come out.
    """
    if s.r != 3:
        return ONLY[s.r]
    if s.inside <= 0.5:
        return 2
    return variant(s.C * s.inside, s.OH, s.OW, 16 if min(s.OH, s.OW) > 4 else 65)


def grad_variant(g: Geometry) -> int:
    """Variant of dw: by the pixels of a sum in one image; with few channels shares of the pixels are summed apart."""
    s = Sums.of("weight gradient", g)
    if s.r != 3:
        return ONLY[s.r]
    return 2 if min(s.C, s.F) < 16 else variant(g.OH * g.OW, s.OH, s.OW, 49)


# -- what tiles cost ----------------------------------------------------------------------------------

# In what a multiply-add of a vector costs in a product; fitted to the times of 360 random layers, each part apart.
# A product of one vector of filters takes as long as 1.6 of many.
FIRST_VECTOR = 0.6
# Transforms, for each of the n x n vectors of a tile (of 16 or 36): packing included, NCHW.
INPUT, FILTERS, OUTPUT, TAPS = 11.5, 9.0, 11.0, 10.5
# By the taps along an axis: tiles for 5 bring 2 x 2 pixels and outputs, for 4 3 x 3 and for 2 5 x 5, on as many vectors
# as 4 x 4.
TRANSFORMS = {2: 1.2, 3: 1.0, 4: 0.7, 5: 0.45}


def work_of_tiles(tiles: int, C: int, CV: int, FV: int, times: int, turning: float) -> float:
    """Multiply-adds of vectors at a position that y or dx costs but for the filters; x is transformed so many times."""
    return tiles * (C * (FV + FIRST_VECTOR) + turning * (INPUT * CV * times + OUTPUT * FV))


# -- blocks ------------------------------------------------------------------------------------------


def _odd(vectors: int, lanes: int) -> int:
    """Elements of so many vectors or one more, an odd number, so that planes do not meet in the same sets of L1."""
    return (vectors | 1) * lanes


def _tile_block(N: int, rows: int, columns: int, most: int, batch_last: bool) -> tuple[int, int, int]:
    """(images, rows, columns) of a block of at most `most` tiles: images where they fit, or else a part of one.

    Where the batch lies together, a vector of images first.
    """
    if batch_last:
        images = even_blocks(N, min(most, IMAGES))
        _, height, width = _tile_block(1, rows, columns, most // images, False)
        return images, height, width
    if rows * columns <= most:
        return even_blocks(N, most // (rows * columns)), rows, columns
    widths = {even_blocks(columns, most // parts) for parts in range(1, most + 1)}
    blocks = [(even_blocks(rows, most // width), width) for width in sorted(widths, reverse=True)]
    # Whole blocks only: a last one that is cut short still transforms its filters.
    return 1, *max(blocks, key=lambda block: rows * columns / (-(-rows // block[0]) * -(-columns // block[1])))


def block_product(maps: Maps, p: Product, dtype: np.dtype, axes: Axes, threads: int) -> forward.Blocking:
    """Blocks of y or dx."""
    s = Sums.over(maps, p.N, p.C, p.F, (p.H, p.W), (p.OH, p.OW), p.dilation)
    return block_sums(forward_variant(s), s, dtype, axes, threads)


def block_sums(m: int, s: Sums, dtype: np.dtype, axes: Axes, threads: int) -> forward.Blocking:
    """Blocks of y or dx, for so many threads."""
    lanes = tiling.lanes(dtype.itemsize)
    r, N, C, F = s.r, s.N, s.C, s.F
    n, between, (tile_rows, tile_columns) = m + r - 1, prod(s.dilation), s.tiles(m)
    UB = even_blocks(F, FB_BYTES // dtype.itemsize, lanes)
    keeps = KC_BYTES // dtype.itemsize
    KC = round_up(max(1, C), lanes) if keeps >= C else even_blocks(C, KC_BLOCK_BYTES // dtype.itemsize, lanes)
    budget, room = (min(size, TOTAL_BYTES * 7 // 8 // threads) for size in (FORWARD_BYTES, FEW_BLOCKS_BYTES))
    most = max(2 * tiling.FILTERS_MR, (budget // dtype.itemsize // n**2 - UB * KC) // (UB + KC))
    most = max(1, most // between)
    images, rows, columns = _tile_block(N, tile_rows, tile_columns, most, axes == LAYOUTS["HWCN"])
    FB = UB
    if axes != LAYOUTS["HWCN"]:
        parts = -(-tile_rows // rows) * -(-tile_columns // columns)
        CV, room = -(-C // lanes), room // dtype.itemsize // n**2

        def finished(block: tuple[int, int]) -> tuple[float, int, int]:
            """When the last thread is done with blocks of so many images and filters."""
            images, FB = block
            pieces, FV = parts * -(-N // images) * -(-F // FB), FB // lanes
            work = work_of_tiles(images * rows * columns * between, C, CV, FV, 1, TRANSFORMS[r])
            work += TRANSFORMS[r] * FILTERS * C * FV
            return -(-pieces // threads) * work * (1 if FB == UB else MORE_FILTERS), -FB, -images

        # Of more filters than are transformed at a time, where they are not kept: x is transformed less often.
        sizes = {even_blocks(F, -(-F // blocks), lanes) for blocks in range(1, -(-F // UB) + 1 if C > KC else 1)}
        images, FB = min(
            (
                (few, size)
                for few in {even_blocks(N, most) for most in range(1, images + 1)}
                for size in sizes | {UB}
                if size == UB or (size > UB and UB * KC + few * rows * columns * between * (KC + size) <= room)
            ),
            key=finished,
        )
    capacity = round_up(images * rows * columns * between, tiling.FILTERS_MR)
    height, width = strip_extents(m, s, rows, columns)
    stage = KC * r * r + r * n + 1  # vectors of filters on their way
    return forward.Blocking(
        m=m,
        r=r,
        maps=s.maps,
        KC=KC,
        FB=FB,
        UB=UB,
        images=images,
        rows=rows,
        columns=columns,
        capacity=capacity,
        u_plane=_odd(UB // lanes * KC, lanes),
        v_plane=_odd(KC // lanes * capacity, lanes),
        m_plane=_odd(FB // lanes * capacity, lanes),
        strip=max(images * height * width + 1, stage) * lanes,
        lines=(n * width + 1) * lanes,
    )


def strip_extents(m: int, s: Sums, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of pixels that so many rows and columns of tiles see on all maps that interleave."""
    down, right = s.dilation
    return down * (rows * m + s.r - 1), right * (columns * m + s.r - 1)


def block_weight_grad(
    g: Geometry, dtype: np.dtype, axes: Axes, threads: int, whole: bool = False
) -> weight_grad.Blocking:
    """Blocks of dw for so many threads; `whole` if it may be written without partial sums."""
    lanes = tiling.lanes(dtype.itemsize)
    s = Sums.of("weight gradient", g)
    m, r, N, C, F = grad_variant(g), s.r, s.N, s.C, s.F
    n, between, (tile_rows, tile_columns) = m + r - 1, prod(s.dilation), s.tiles(m)
    FB = even_blocks(F, FB_BYTES // dtype.itemsize, lanes)
    CB = even_blocks(C, FB_BYTES // dtype.itemsize, lanes)
    most = max(4, min(MOST_TILES, (GRAD_BYTES // dtype.itemsize // n**2 - FB * CB) // (FB + CB)))
    most = max(1, most // between)
    images, rows, columns = _tile_block(N, tile_rows, tile_columns, most, axes == LAYOUTS["HWCN"])
    height, width = strip_extents(m, s, rows, columns)
    blocks = -(-N // images) * -(-tile_rows // rows) * -(-tile_columns // columns)
    filters = _odd(-(-round_up(FB, tiling.FILTERS_MR) // lanes), lanes)
    capacity = images * rows * columns * between
    pieces = g.groups * -(-F // FB) * -(-C // CB)
    size = g.groups * round_up(F, weight_grad.MR) * -(-C // CB) * r * r * CB * dtype.itemsize
    many = min(-(-blocks // SHARE_BLOCKS), MOST_PIECES, SHARES_BYTES // max(1, size))
    shares = max(1, min(blocks, max(-(-PIECES // pieces), many)))

    def blocking(CB: int) -> weight_grad.Blocking:
        return weight_grad.Blocking(
            m=m,
            r=r,
            maps=s.maps,
            shares=shares,
            whole=whole and shares == 1,
            FB=FB,
            CB=CB,
            images=images,
            rows=rows,
            columns=columns,
            line=r * CB,
            filters=filters,
            capacity=capacity,
            v_plane=_odd(CB // lanes * capacity, lanes),
            d_plane=_odd(filters // lanes * capacity, lanes),
            m_plane=_odd(CB // lanes * filters, lanes),
            strip=(images * height * width + 1) * lanes,
            lines=(n * width + 1) * lanes,
        )

    b = blocking(CB)
    if threads > min(shares * pieces, TOTAL_BYTES // (b.scratch * dtype.itemsize)):
        # Fewer channels for each piece move no sum. They repeat transforms of dy: 20% of the work.
        return blocking(even_blocks(C, CB // 2, lanes))
    return b
