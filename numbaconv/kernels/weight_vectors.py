"""The weight where filters are in the vector: panels of `lanes` filters, which :mod:`.product` reads in order."""

from .jit import helper
from .launch import Address, Launch, NestKernel
from .problem import Product
from .rows import clear
from .simd import lanes_of, load, moved, pointer, store, unpacked, vector_load_first, vector_store
from .turning import transpose_block
from .work import claim


def panel_elements(p: Product, lanes: int) -> int:
    """Elements of the packed weight."""
    return p.groups * -(-p.F // lanes) * lanes * p.C * p.KH * p.KW


def packing(p: Product, panels: Address, CB: int, lanes: int) -> Launch:
    """The launch that packs the weight of a problem, in blocks of CB channels."""
    values = p.arguments() | {"panels": panels, "CB": CB}
    return Launch(pack_vectors, PACK_VECTORS, values, p.groups * -(-p.F // lanes))


PACK_VECTORS = (
    "record", "weight", "w_group", "w_row", "w_channel", "w_kh", "w_kw", "panels", "groups", "C", "F", "KH", "KW",
    "CB",
)  # fmt: skip
PACK_VECTORS_COUNT = len(PACK_VECTORS)


@NestKernel
def pack_vectors(scratch, arguments, worker):
    """Panels of `lanes` filters, [group][filter // lanes][c // CB][kh, kw, c % CB][filter % lanes]."""
    (
        _, weight_address, w_group, w_row, w_channel, w_kh, w_kw, panels_address, groups, C, F, KH, KW, CB,
    ) = unpacked(arguments, PACK_VECTORS_COUNT)  # fmt: skip
    weight, panels = pointer(weight_address, scratch), pointer(panels_address, scratch)
    lanes = lanes_of(scratch)
    blocks = (F + lanes - 1) // lanes
    if w_kh == KW * w_kw:  # taps that follow each other are one row of taps
        KH, KW = 1, KH * KW
    while True:
        piece = claim(arguments, worker)
        if piece >= groups * blocks:
            return 0
        group, block = divmod(piece, blocks)
        filters = min(lanes, F - block * lanes)
        panel = moved(panels, piece * C * KH * KW * lanes)
        if filters < lanes:
            clear(panel, C * KH * KW * lanes)
        for first in range(0, C, CB):
            channels = min(CB, C - first)
            for kh in range(KH):
                source = moved(weight, group * w_group + block * lanes * w_row + first * w_channel + kh * w_kh)
                pack_row_of_taps(panel, source, w_row, w_channel, w_kw, filters, channels, KW)
                panel = moved(panel, KW * channels * lanes)


@helper
def pack_row_of_taps(panel, weight, w_row, w_channel, w_kw, filters, channels, KW):
    """panel[(kw * channels + c) * lanes + r] = weight[r * w_row + c * w_channel + kw * w_kw] for r < filters."""
    lanes = lanes_of(panel)
    if w_row == 1:
        for k in range(KW * channels):
            kw, c = divmod(k, channels)
            vector_store(panel, k * lanes, vector_load_first(weight, kw * w_kw + c * w_channel, filters))
    elif KW > 1 and (w_kw == 1 or w_kw == -1):  # filters lie apart, taps together, forwards or backwards
        start, pitch = (0, channels * lanes) if w_kw == 1 else ((KW - 1) * channels * lanes, -channels * lanes)
        row = moved(weight, min(0, (KW - 1) * w_kw))
        for c in range(channels):
            for i in range(0, KW, lanes):
                out = moved(panel, start + c * lanes + i * pitch)
                transpose_block(out, pitch, moved(row, c * w_channel + i), w_row, filters, min(lanes, KW - i))
    elif KW == 1 and w_channel == 1:
        for c in range(0, channels, lanes):
            count = min(lanes, channels - c)
            transpose_block(moved(panel, c * lanes), lanes, moved(weight, c), w_row, filters, count)
    else:
        for k in range(KW * channels):
            kw, c = divmod(k, channels)
            for r in range(filters):
                store(panel, k * lanes + r, load(weight, kw * w_kw + c * w_channel + r * w_row))
