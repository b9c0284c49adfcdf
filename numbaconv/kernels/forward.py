"""Forward pass: y[f, pixel] = bias[f] + sum over c, kh, kw of weight[f, c, kh, kw] * x[c, what (kh, kw) reads].

A product of F x K and K x pixels, K = (c, kh, kw): the packed weight is `a`, the packed input `b`.

    for a block of MC filters, and a chunk of NC pixels:      one piece of work
        for a block of channels:                              so that the panel stays in L2
            pack the input into a panel [c, kh, kw][pixel]
            macro-kernel                                      sums [filter][pixel] in scratch
        add the bias and write the sums to y

Pieces write different filters or pixels of y, and the order of each sum is that of K, whoever claims the
piece: the same bits for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import tiling
from .gemm import macro_kernel
from .launch import Address, Launch, NestKernel
from .packing import pack_input, pack_weight_panel, unpack_output
from .simd import claim, lanes_of, moved, pointer, unpacked

MR = tiling.MR


@dataclass(frozen=True)
class Product:
    """One dense problem of the nest: y[f, pixel] from x[c, what (kh, kw) reads], per group.

    `x`, `weight` and `y` name arrays; strides count elements and follow (n, c, h, w), (group, f, c, kh, kw) and
    (n, f, h, w). C and F are those of one group. Output pixel (oh, ow) reads row oh * stride + offset + kh * dilation.
    """

    x: str
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


@dataclass(frozen=True)
class Blocking:
    """Sizes of the nest: NC pixels, KC channels and MC filters of a block; elements of a line and of the strip."""

    batch_runs: bool
    NC: int
    KC: int
    MC: int
    pitch: int
    strip: int


def launches(p: Product, b: Blocking) -> list[Launch]:
    """Pack the weight, then multiply."""
    weight = dict(zip(("w_group", "w_row", "w_channel", "w_kh", "w_kw"), p.w_strides, strict=True))
    sizes = {"groups": p.groups, "C": p.C, "F": p.F, "KH": p.KH, "KW": p.KW}
    panels = {"panels": Address("panels")}
    packing = Launch(
        pack_weight, PACK_WEIGHT, {"weight": p.weight, **weight, **panels, **sizes}, p.groups * -(-p.F // MR)
    )
    values: dict[str, int | Address] = {"x": Address(p.x), "y": p.y, **panels, **sizes}
    values |= {"bias": 0 if p.bias is None else Address(p.bias), "bias_f": p.bias_step}
    values |= dict(zip(("x_n", "x_c", "x_h", "x_w"), p.x_strides, strict=True))
    values |= dict(zip(("y_n", "y_f", "y_h", "y_w"), p.y_strides, strict=True))
    for name, pair in (("stride", p.stride), ("offset", p.offset), ("dilation", p.dilation)):
        values |= {f"{name}_h": pair[0], f"{name}_w": pair[1]}
    values |= {"H": p.H, "W": p.W, "N": p.N, "OH": p.OH, "OW": p.OW, "accumulate": p.accumulate}
    values |= {"batch_runs": b.batch_runs, "NC": b.NC, "KC": b.KC, "MC": b.MC}
    values |= {"pitch": b.pitch, "strip_size": b.strip}
    pieces = p.groups * -(-p.F // b.MC) * -(-p.N * p.OH * p.OW // b.NC)
    return [packing, Launch(forward, FORWARD, values, pieces)]


def panel_elements(p: Product) -> int:
    """Elements of the packed weight."""
    return p.groups * -(-p.F // MR) * MR * p.C * p.KH * p.KW


FORWARD = (
    "counter", "x", "x_n", "x_c", "x_h", "x_w", "H", "W", "panels", "bias", "bias_f", "y", "y_n", "y_f", "y_h", "y_w",
    "N", "OH", "OW", "groups", "C", "F", "KH", "KW", "stride_h", "stride_w", "offset_h", "offset_w",
    "dilation_h", "dilation_w", "batch_runs", "NC", "KC", "MC", "pitch", "strip_size", "accumulate", "scratch_size",
)  # fmt: skip
FORWARD_COUNT = len(FORWARD)


@NestKernel
def forward(scratch, arguments, worker):
    """C and F are those of one group; KC counts channels, NC pixels; pitch >= NC + lanes."""
    (
        _, x_address, x_n, x_c, x_h, x_w, H, W, panels_address, bias_address, bias_f, y_address, y_n, y_f, y_h, y_w,
        N, OH, OW, groups, C, F, KH, KW, stride_h, stride_w, offset_h, offset_w,
        dilation_h, dilation_w, batch_runs, NC, KC, MC, pitch, strip_size, accumulate, scratch_size,
    ) = unpacked(arguments, FORWARD_COUNT)  # fmt: skip
    x, y = pointer(x_address, scratch), pointer(y_address, scratch)
    panels, bias = pointer(panels_address, scratch), pointer(bias_address, scratch)
    sums = moved(scratch, worker * scratch_size)
    strip = moved(sums, MC * pitch)
    panel = moved(strip, strip_size + lanes_of(scratch))
    pixels = N * OH * OW
    taps = KH * KW
    chunks = (pixels + NC - 1) // NC
    blocks = (F + MC - 1) // MC
    a_pitch = C * taps * MR
    group_pitch = (F + MR - 1) // MR * a_pitch
    while True:
        piece = claim(arguments)
        if piece >= groups * blocks * chunks:
            return 0
        group_block, chunk = divmod(piece, chunks)
        group, block = divmod(group_block, blocks)
        start = chunk * NC
        count = min(NC, pixels - start)
        f = block * MC
        rows = min(MC, F - f)
        for c in range(0, max(C, 1), KC):
            channels = min(KC, C - c)
            pack_input(
                panel, pitch, strip, strip_size, moved(x, (group * C + c) * x_c), x_n, x_c, x_h, x_w, H, W, channels,
                KH, KW, OH, OW, N, stride_h, stride_w, offset_h, offset_w, dilation_h, dilation_w, batch_runs,
                start, count,
            )  # fmt: skip
            a = moved(panels, group * group_pitch + f // MR * a_pitch + c * taps * MR)
            macro_kernel(rows, count, (1, 1, channels * taps), (0, 0, pitch), a, a_pitch, panel, sums, pitch, c == 0)
        unpack_output(
            sums, pitch, rows, (moved(bias, (group * F + f) * bias_f), bias_f, bias_address != 0),
            moved(y, (group * F + f) * y_f), y_n, y_f, y_h, y_w, N, OH, OW, batch_runs, start, count, accumulate,
        )  # fmt: skip


PACK_WEIGHT = (
    "counter", "weight", "w_group", "w_row", "w_channel", "w_kh", "w_kw", "panels", "groups", "F", "C", "KH", "KW",
)  # fmt: skip
PACK_WEIGHT_COUNT = len(PACK_WEIGHT)


@NestKernel
def pack_weight(scratch, arguments, worker):
    """Panels of MR filters, [group][filter // MR][c, kh, kw][filter % MR]: `a` of the macro-kernel."""
    _, weight_address, w_group, w_row, w_channel, w_kh, w_kw, panels_address, groups, F, C, KH, KW = unpacked(
        arguments, PACK_WEIGHT_COUNT
    )
    weight, panels = pointer(weight_address, scratch), pointer(panels_address, scratch)
    blocks = (F + MR - 1) // MR
    while True:
        piece = claim(arguments)
        if piece >= groups * blocks:
            return 0
        group, block = divmod(piece, blocks)
        pack_weight_panel(
            moved(panels, piece * C * KH * KW * MR), MR, min(MR, F - block * MR),
            moved(weight, group * w_group + block * MR * w_row), w_row, w_channel, w_kh, w_kw, C, KH, KW,
        )  # fmt: skip
