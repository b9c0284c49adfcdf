"""Partial sums of the weight gradient, where they lie, and dw as the sum of all shares of them.

A line has the sums of a stretch of taps and of a block of channels, taps first; lines of a filter follow each other, or
each tap has all of its own behind those of another. Shares are added in order: the same bits for any number of threads.
"""

from __future__ import annotations

from ..geometry import Geometry
from . import tiling
from .jit import helper
from .launch import Address, Launch, NestKernel
from .rows import write_run
from .simd import (
    lanes_of,
    load,
    moved,
    pointer,
    prefetch,
    store,
    unpacked,
    vector_add,
    vector_load_first,
    vector_store,
)
from .turning import transpose_block
from .work import claim

MR = tiling.MR
# Filters whose shares are added as one piece of work, and how many of them ahead their sums are asked for: they are far
# apart, and the core does not look for them.
ROWS, ROWS_AHEAD = 16, 2


def adding(g: Geometry, values: dict[str, int | Address]) -> Launch:
    """The launch of :func:`add_shares` behind one that made the sums."""
    F = g.F // g.groups
    block_pitch = values["line"] * (1 if values["gathered"] else values["KH"] * values["apart"])
    f_pitch = -(-values["C"] // values["CB"]) * block_pitch
    values = values | {"line_pitch": values["line"], "block_pitch": block_pitch, "f_pitch": f_pitch}
    values |= {"share_pitch": g.groups * -(-F // MR) * MR * f_pitch}
    return Launch(add_shares, ADD_SHARES, values, g.groups * -(-F // ROWS))


def stage_elements(taps: int, lanes: int) -> int:
    """Elements of scratch of a worker of :func:`add_shares`."""
    return max(taps, lanes) * lanes


ADD_SHARES = (
    "record", "partial", "dw", "w_f", "w_c", "w_kh", "w_kw", "groups", "F", "C", "KH", "KW", "apart",
    "shares", "CB", "line_pitch", "block_pitch", "f_pitch", "share_pitch", "gathered", "accumulate", "scratch_size",
)  # fmt: skip
ADD_SHARES_COUNT = len(ADD_SHARES)


@NestKernel
def add_shares(scratch, arguments, worker):
    """dw (+)= the partial sums of all shares, added in their order."""
    (
        _, partial_address, dw_address, w_f, w_c, w_kh, w_kw, groups, F, C, KH, KW, taps_apart, shares, CB,
        line_pitch, block_pitch, f_pitch, share_pitch, gathered, accumulate, scratch_size,
    ) = unpacked(arguments, ADD_SHARES_COUNT)  # fmt: skip
    partial, dw = pointer(partial_address, scratch), pointer(dw_address, scratch)
    stage = moved(scratch, worker * scratch_size)
    lanes = lanes_of(scratch)
    taps = KH * KW
    padded_F = (F + MR - 1) // MR * MR
    in_order = w_kw == 1 and w_kh == KW and not accumulate
    transposed = taps == 1 and w_f == 1 and w_c != 1 and not accumulate
    f_blocks = (F + ROWS - 1) // ROWS
    while True:
        piece = claim(arguments, worker)
        if piece >= groups * f_blocks:
            return 0
        group, f_block = divmod(piece, f_blocks)
        f = f_block * ROWS
        rows = min(ROWS, F - f)
        sums = moved(partial, (group * padded_F + f) * f_pitch)
        for c in range(0, C, lanes):
            # A block of channels may end between two multiples of lanes of the stage.
            count = min(lanes, C - c)
            c_block, inner = divmod(c, CB)
            width = min(CB, C - c_block * CB)
            out = moved(dw, (group * F + f) * w_f + c * w_c)
            if transposed:
                for first in range(0, rows, lanes):
                    source, here = (
                        moved(sums, first * f_pitch + c_block * block_pitch + inner),
                        min(lanes, rows - first),
                    )
                    for r in range(here):
                        add_up(moved(stage, r * lanes), moved(source, r * f_pitch), shares, share_pitch, count)
                    transpose_block(moved(out, first), w_c, stage, lanes, here, count)
                continue
            for r in range(rows):
                for tap in range(taps):
                    place = c_block * block_pitch + inner + place_of_sums(tap, KW, taps_apart, line_pitch, width)
                    source = moved(sums, r * f_pitch + (tap * C + c if gathered else place))
                    prefetch(source, ROWS_AHEAD * f_pitch)
                    add_up(moved(stage, tap * lanes), source, shares, share_pitch, count)
                if taps == 1:
                    write_run(out, w_c, stage, count, accumulate)
                elif in_order:
                    write_taps(out, w_c, stage, taps, count)
                else:
                    for i in range(count):
                        for tap in range(taps):
                            kh, kw = divmod(tap, KW)
                            place = i * w_c + kh * w_kh + kw * w_kw
                            value = load(stage, tap * lanes + i)
                            store(out, place, load(out, place) + value if accumulate else value)
                out = moved(out, w_f)


@helper
def place_of_sums(tap, KW, taps_apart, line, channels):
    """Where the sums of a tap begin behind those of a filter and a block of so many channels."""
    kh, kw = divmod(tap, KW)
    apart, along = divmod(kw, KW // taps_apart)
    return (kh * taps_apart + apart) * line + along * channels


@helper
def add_up(total, partial, shares, pitch, count):
    """total[i] = sum over s < shares of partial[s * pitch + i], in order, for i < count; 0 for i < lanes."""
    value = vector_load_first(partial, 0, count)
    for share in range(1, shares):
        value = vector_add(value, vector_load_first(partial, share * pitch, count))
    vector_store(total, 0, value)


@helper
def write_taps(dw, w_c, stage, taps, channels):
    """dw[c * w_c + tap] = stage[tap * lanes + c] for c < channels, at most lanes: taps that follow each other."""
    lanes = lanes_of(stage)
    for tap in range(0, taps, lanes):
        transpose_block(moved(dw, tap), w_c, moved(stage, tap * lanes), lanes, min(lanes, taps - tap), channels)
