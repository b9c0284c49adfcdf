"""The weight where filters are in the vector: panels of `lanes` filters, which :mod:`.product` reads in order.

What a pass multiplies is often not the kernel in its order, but the taps of a phase of dx, or of a map of Winograd's
algorithm. A table says for each tap where its vectors go, so that all are read in the order of the memory, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .jit import helper
from .launch import Address, Launch, NestKernel
from .problem import Product
from .rows import AHEAD, prefetch_run
from .simd import (
    integers,
    lanes_of,
    load,
    moved,
    pointer,
    store,
    store_integer,
    unpacked,
    vector_load_first,
    vector_store,
    vector_zero,
)
from .turning import transpose_block, turn_block_to
from .work import claim

# Panels that are packed as one piece of work where filters lie side by side: a page of the weight is then looked at for
# some cache lines. dx of 1024>1024@7 1x1 in NHWC packs in 0.12 ms instead of 0.2.
SIDE_BY_SIDE = 4


@dataclass(frozen=True)
class Tap:
    """Where a tap is, and where its vectors go.

    It is element `place` of the weight for filter 0 and channel 0, or none if it is 0. Panels have `of` vectors of each
    channel. That of panel p and channel c, in a block of `channels` from `first` on, is vector
    `start + (p * C + first) * of + index * channels + (c - first) * step`, with one step for all taps.
    """

    place: int | None
    start: int
    of: int
    index: int


def panel_elements(p: Product, lanes: int) -> int:
    """Elements of the packed weight."""
    return p.groups * -(-p.F // lanes) * lanes * p.C * p.KH * p.KW


def places_of_taps(p: Product) -> list[int]:
    """Where the taps of a problem are in the weight, in the order of (kh, kw)."""
    _, _, _, w_kh, w_kw = p.w_strides
    return [p.weight.offset + kh * w_kh + kw * w_kw for kh in range(p.KH) for kw in range(p.KW)]


def channels_listed(taps: int, lanes: int) -> int:
    """Channels whose taps are listed together, where they follow each other: so that whole blocks are turned."""
    return lanes if taps < lanes else 1


def stage_bytes(taps: int, lanes: int) -> int:
    """Bytes of scratch of a worker that packs up to so many taps: where the vectors of listed ones go, two int64."""
    return 16 * max(taps, lanes * min(taps, lanes - 1))


def packing(p: Product, taps: Sequence[Tap], CB: int, step: int, lanes: int) -> Launch:
    """The launch that packs the weight of problems which differ in their taps only, in blocks of CB channels.

    `step` vectors lie between those of a tap for a channel and for the next one.
    """
    found = sorted((tap for tap in taps if tap.place is not None), key=lambda tap: tap.place)
    first = found[0].place if found else 0
    _, w_row, w_channel, _, _ = p.w_strides
    follow = w_row != 1 and [tap.place - first for tap in found] == list(range(len(found)))
    values = p.arguments() | {"weight": Address("weight", first), "panels": Address("panels"), "CB": CB, "step": step}
    values |= {"taps": len(found), "zeros": len(taps) - len(found), "follow": follow}
    values |= {"listed": channels_listed(len(found), lanes) if follow and w_channel == len(found) else 1}
    values |= {"together": SIDE_BY_SIDE if w_row == 1 else 1}
    names = PACK_VECTORS
    for t, tap in enumerate([*found, *(tap for tap in taps if tap.place is None)]):
        place = 0 if tap.place is None else tap.place - first
        row = dict(zip((f"{name} {t}" for name in TAP), (place, tap.start, tap.of, tap.index), strict=True))
        names, values = (*names, *row), values | row
    return Launch(pack_vectors, names, values, p.groups * -(-p.F // (values["together"] * lanes)))


PACK_VECTORS = (
    "record", "weight", "w_group", "w_row", "w_channel", "panels", "groups", "C", "F", "CB", "step", "taps", "zeros",
    "follow", "listed", "together", "scratch_size",
)  # fmt: skip
PACK_VECTORS_COUNT = len(PACK_VECTORS)
# Of each tap, behind these, those that are 0 after the others.
TAP = "place", "start", "of", "index"
TAP_COUNT = len(TAP)


@NestKernel
def pack_vectors(scratch, arguments, worker):
    """Panels of `lanes` filters, of which each tap's vectors lie as :class:`Tap` has it."""
    (
        _, weight_address, w_group, w_row, w_channel, panels_address, groups, C, F, CB, step, taps, zeros,
        follow, listed, together, scratch_size,
    ) = unpacked(arguments, PACK_VECTORS_COUNT)  # fmt: skip
    weight, panels = pointer(weight_address, scratch), pointer(panels_address, scratch)
    table = moved(arguments, PACK_VECTORS_COUNT)
    places = integers(moved(scratch, worker * scratch_size))
    lanes = lanes_of(scratch)
    blocks = (F + lanes - 1) // lanes
    while True:
        piece = claim(arguments, worker)
        if piece >= groups * ((blocks + together - 1) // together):
            return 0
        group, several = divmod(piece, (blocks + together - 1) // together)
        block = several * together
        panel, filters = group * blocks + block, min(together * lanes, F - block * lanes)
        for first in range(0, C, CB):
            channels = min(CB, C - first)
            source = moved(weight, group * w_group + block * lanes * w_row + first * w_channel)
            for t in range(taps + zeros):
                place, start, of, index = unpacked(moved(table, t * TAP_COUNT), TAP_COUNT)
                vector = start + (panel * C + first) * of + index * channels
                if follow and t < taps:
                    for c in range(listed):
                        store_integer(places, 2 * (c * taps + t), (vector + c * step) * lanes)
                        store_integer(places, 2 * (c * taps + t) + 1, listed * step * lanes)
                    continue
                to, tap = moved(panels, vector * lanes), moved(source, place)
                if t >= taps:
                    for r in range(0, filters, lanes):
                        for c in range(channels):
                            vector_store(to, r * C * of + c * step * lanes, vector_zero(to))
                elif w_row == 1:
                    pack_filters_side_by_side(to, C * of * lanes, step * lanes, tap, w_channel, filters, channels)
                else:
                    pack_tap(to, step * lanes, tap, w_row, w_channel, filters, channels)
            if follow:
                pack_taps_that_follow(panels, places, source, w_row, w_channel, filters, channels, taps, listed)


@helper
def pack_taps_that_follow(panels, places, weight, w_row, w_channel, filters, channels, taps, listed):
    """Vectors of weight[r * w_row + c * w_channel + t], r < filters, to where they belong, with 0 for other r.

    For `listed` channels at a time: the vector of channel c and tap t is at panels[places[i] + c // listed *
    places[i + 1]] where i = 2 * (c % listed * taps + t). Requires w_channel == taps if listed > 1.
    """
    lanes = lanes_of(panels)
    for c in range(0, channels, listed):
        run = moved(weight, c * w_channel)
        count = min(listed, channels - c) * taps
        if 0 < w_row < w_channel:  # the input gradient's: filters lie together, channels far apart
            prefetch_run(moved(run, AHEAD * w_channel), filters * w_row)
        for i in range(0, count, lanes):
            here = moved(places, 2 * i)
            turn_block_to(panels, here, c // listed, moved(run, i), w_row, filters, min(lanes, count - i))


@helper
def pack_tap(panel, pitch, weight, w_row, w_channel, filters, channels):
    """panel[c * pitch + r] = weight[r * w_row + c * w_channel] for r < filters, and 0 for others."""
    lanes = lanes_of(panel)
    for c in range(channels if filters < lanes else 0):
        vector_store(panel, c * pitch, vector_zero(panel))
    if w_channel == 1:
        for c in range(0, channels, lanes):
            count = min(lanes, channels - c)
            transpose_block(moved(panel, c * pitch), pitch, moved(weight, c), w_row, filters, count)
        return
    for c in range(channels):
        for r in range(filters):
            store(panel, c * pitch + r, load(weight, c * w_channel + r * w_row))


@helper
def pack_filters_side_by_side(panels, panel, pitch, weight, w_channel, filters, channels):
    """panels[r // lanes * panel + c * pitch + r % lanes] = weight[c * w_channel + r] for r < filters, 0 for others.

    One function for panels of any width, MR as in :mod:`.weight_panels` too, takes two to three times as long for both.
    """
    lanes = lanes_of(panels)
    for c in range(channels):
        for r in range(0, filters, lanes):
            vector = vector_load_first(weight, c * w_channel + r, min(lanes, filters - r))
            vector_store(panels, r // lanes * panel + c * pitch, vector)
