"""The weight in panels, packed ahead for all pieces of work: `a` of :mod:`.gemm`."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from . import tiling
from .jit import helper
from .launch import Address, Launch, NestKernel
from .problem import Product
from .rows import AHEAD, copy_few, pack_rows, prefetch_run
from .simd import integers, lanes_of, load_integer, moved, pointer, store_integer, unpacked
from .turning import turn_rows, turn_rows_to
from .work import claim

MR = tiling.MR
# Panels that are packed as one piece of work, and channels at a time: of filters side by side, some cache lines.
PANELS, CHANNELS = 8, 16


def _whole(p: Product) -> Product:
    """The problem with all the taps of its kernel, as far as the weight goes."""
    if p.part is None:
        return p
    (KH, KW), (h, w), (every_h, every_w) = p.part.taps, p.part.first, p.part.every
    w_kh, w_kw = p.w_strides[3] // every_h, p.w_strides[4] // every_w
    start = Address(p.weight.name, p.weight.offset - h * w_kh - w * w_kw)
    return replace(p, weight=start, w_strides=(*p.w_strides[:3], w_kh, w_kw), KH=KH, KW=KW)


def packing(p: Product) -> Launch:
    """The launch that packs the weight of a problem, or of all parts of its kernel."""
    every_h, every_w = p.part.every if p.part else (1, 1)
    p = _whole(p)
    values = p.arguments() | {"panels": Address("panels")}
    values |= {"every_h": min(every_h, p.KH), "every_w": min(every_w, p.KW)}
    return Launch(pack_weight, PACK_WEIGHT, values, p.groups * -(-p.F // (MR * PANELS)))


def panel_elements(p: Product, taps: int) -> int:
    """Elements of so many taps of the packed weight."""
    return p.groups * -(-p.F // MR) * MR * p.C * taps


def stage_elements(p: Product) -> int:
    """Elements of scratch of a worker that packs parts: where each tap belongs, two int64."""
    return 2 * 2 * prod(p.part.taps) if p.part else 0


PACK_WEIGHT = (
    "record", "weight", "w_group", "w_row", "w_channel", "w_kh", "w_kw", "panels", "groups", "F", "C", "KH", "KW",
    "every_h", "every_w", "scratch_size",
)  # fmt: skip
PACK_WEIGHT_COUNT = len(PACK_WEIGHT)


@NestKernel
def pack_weight(scratch, arguments, worker):
    """Panels of MR filters, [group][filter // MR][c, kh, kw][filter % MR]: `a` of :mod:`.gemm`.

    Or, where every_h * every_w > 1, such panels for each part of the taps, one part after the other.
    """
    (
        _, weight_address, w_group, w_row, w_channel, w_kh, w_kw, panels_address, groups, F, C, KH, KW,
        every_h, every_w, scratch_size,
    ) = unpacked(arguments, PACK_WEIGHT_COUNT)  # fmt: skip
    weight, panels = pointer(weight_address, scratch), pointer(panels_address, scratch)
    blocks = (F + MR - 1) // MR
    taps = KH * KW
    a_pitch = C * taps * MR
    in_parts = every_h * every_w > 1
    places = integers(moved(scratch, worker * scratch_size))
    if in_parts:
        place_parts(places, groups * blocks * C * MR, KH, KW, every_h, every_w)
    while True:
        piece = claim(arguments, worker)
        if piece >= groups * ((blocks + PANELS - 1) // PANELS):
            return 0
        group, part = divmod(piece, (blocks + PANELS - 1) // PANELS)
        first = part * PANELS
        panel = moved(panels, (group * blocks + first) * a_pitch)
        source = moved(weight, group * w_group + first * MR * w_row)
        if w_row == 1 and taps == 1:
            pack_filters_side_by_side(panel, a_pitch, min(PANELS * MR, F - first * MR), source, w_channel, C)
            continue
        # Filters that lie nearer to each other than channels, as in the input gradient, are read together.
        step = max(C, 1) if w_channel < w_row else CHANNELS
        for c in range(0, C, step):
            for block in range(first, min(first + PANELS, blocks)):
                from_here = moved(source, (block - first) * MR * w_row + c * w_channel)
                rows, channels = min(MR, F - block * MR), min(step, C - c)
                if not in_parts:
                    here = moved(panel, (block - first) * a_pitch + c * taps * MR)
                    pack_weight_panel(here, rows, from_here, w_row, w_channel, w_kh, w_kw, channels, KH, KW)
                    continue
                for i in range(channels):
                    prefetch_run(moved(from_here, (i + AHEAD) * w_channel), rows * taps)
                    index = ((group * blocks + block) * C + c + i) * MR
                    weight_of_channel = moved(from_here, i * w_channel)
                    pack_weight_apart(panels, places, index, rows, weight_of_channel, w_row, w_kh, w_kw, KH, KW)


@helper
def place_parts(places, plane, KH, KW, every_h, every_w):
    """places[2 * t], places[2 * t + 1]: where tap t of the first panel's first channel belongs, over how many taps.

    A tap of all panels takes `plane` elements. Parts are those of :class:`Part`, in its order.
    """
    before = 0
    for a in range(min(every_h, KH)):
        for b in range(min(every_w, KW)):
            rows, columns = (KH - a + every_h - 1) // every_h, (KW - b + every_w - 1) // every_w
            for kh in range(rows):
                for kw in range(columns):
                    t = (a + kh * every_h) * KW + b + kw * every_w
                    store_integer(places, 2 * t, before * plane + (kh * columns + kw) * MR)
                    store_integer(places, 2 * t + 1, rows * columns)
            before += rows * columns


@helper
def pack_weight_panel(panel, rows, weight, w_row, w_channel, w_kh, w_kw, channels, KH, KW):
    """panel[((c * KH + kh) * KW + kw) * MR + r] = weight[r, c, kh, kw] for r < rows, and 0 for r < MR."""
    lanes = lanes_of(panel)
    taps = KH * KW
    span = (KH - 1) * w_kh + (KW - 1) * w_kw + 1
    c, runs, length = 0, 0, taps
    follow = w_kw == 1 and w_kh == KW
    if follow:  # taps of a channel, and often channels too
        runs, length = (1, channels * taps) if w_channel == taps else (channels, taps)
    elif w_kw > 0 and w_kh >= KW * w_kw and span <= lanes:
        # Some of the taps, those of a phase of the input gradient: turned with what lies between them, and moved up.
        # The last channels are not, since no more may be written than the panel.
        runs, length = channels - (span - 1) // taps, span
    for run in range(runs):
        block = moved(panel, run * taps * MR)
        for i in range(0, length, lanes):
            source = moved(weight, run * w_channel + i)
            turn_rows(moved(block, i * MR), MR, source, w_row, rows, min(lanes, length - i))
        for t in range(1, 0 if follow else taps):
            kh, kw = divmod(t, KW)
            copy_few(moved(block, t * MR), moved(block, (kh * w_kh + kw * w_kw) * MR), MR, MR)
        c = channels if follow else run + 1
    while c < channels:
        for kh in range(KH):
            for kw in range(KW):
                line = moved(panel, ((c * KH + kh) * KW + kw) * MR)
                pack_rows(line, rows, moved(weight, c * w_channel + kh * w_kh + kw * w_kw), w_row)
        c += 1


@helper
def pack_weight_apart(panels, places, index, rows, weight, w_row, w_kh, w_kw, KH, KW):
    """panels[places[2 * t] + index * places[2 * t + 1] + r] = weight[r, kh, kw] for r < rows, and 0 for r < MR.

    t = kh * KW + kw.
    """
    taps = KH * KW
    if w_kw == 1 and w_kh == KW:
        lanes = lanes_of(panels)
        for t in range(0, taps, lanes):
            count = min(lanes, taps - t)
            turn_rows_to(panels, moved(places, 2 * t), index, moved(weight, t), w_row, rows, count)
        return
    for t in range(taps):
        kh, kw = divmod(t, KW)
        place = load_integer(places, 2 * t) + index * load_integer(places, 2 * t + 1)
        pack_rows(moved(panels, place), rows, moved(weight, kh * w_kh + kw * w_kw), w_row)


@helper
def pack_filters_side_by_side(panels, pitch, rows, weight, w_channel, channels):
    """panels[r // MR * pitch + c * MR + r % MR] = weight[c * w_channel + r] for r < rows, and 0 up to whole panels."""
    for c in range(channels):
        prefetch_run(moved(weight, (c + AHEAD) * w_channel), rows)
        for r in range(0, rows, MR):
            copy_few(moved(panels, r // MR * pitch + c * MR), moved(weight, c * w_channel + r), min(MR, rows - r), MR)
