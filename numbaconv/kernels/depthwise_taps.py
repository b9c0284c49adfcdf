"""Taps of the depthwise kernels: their weights as vectors over channels, and lists of what each of them reads."""

from .jit import helper
from .simd import lanes_of, load, load_integer, moved, store, store_integer, vector_load, vector_store, vector_turned
from .turning import transpose_block


@helper
def pack_taps(taps, weight, w_c, w_kh, w_kw, KH, KW, channels):
    """taps[(kh * KW + kw) * lanes + c] = weight[c, kh, kw]."""
    lanes = lanes_of(taps)
    if w_kw == 1 and w_kh == KW:
        for tap in range(0, KH * KW, lanes):
            count = min(lanes, KH * KW - tap)
            transpose_block(moved(taps, tap * lanes), lanes, moved(weight, tap), w_c, channels, count)
        return
    for kh in range(KH):
        for kw in range(KW):
            for c in range(channels):
                store(taps, (kh * KW + kw) * lanes + c, load(weight, c * w_c + kh * w_kh + kw * w_kw))


@helper
def pack_group_taps(taps, weight, w_group, w_out, w_in, w_kh, w_kw, group, KH, KW, channels):
    """Taps of groups of `group` channels and as many filters, a power of two that lanes are a multiple of.

    taps[((j * KH + kh) * KW + kw) * lanes + i] = what filter i of these has for channel (i + j) % group of its group:
    the products of tap j of all filters are those of a vector whose channels are turned by j within each group.
    """
    lanes = lanes_of(taps)
    for i in range(channels):
        q, r = divmod(i, group)
        for j in range(group):
            source = moved(weight, q * w_group + r * w_out + (r + j) % group * w_in)
            out = moved(taps, j * KH * KW * lanes + i)
            for kh in range(KH):
                for kw in range(KW):
                    store(out, (kh * KW + kw) * lanes, load(source, kh * w_kh + kw * w_kw))


@helper
def turn_groups(strip, pitch, count, group):
    """strip[j * pitch + i] = strip[i // group * group + (i + j) % group] for 0 < j < group, 2 or 4, and i < count."""
    for i in range(0, count if group > 1 else 0, lanes_of(strip)):
        value = vector_load(strip, i)
        if group == 2:
            vector_store(strip, pitch + i, vector_turned(value, 2, 1))
        else:
            vector_store(strip, pitch + i, vector_turned(value, 4, 1))
            vector_store(strip, 2 * pitch + i, vector_turned(value, 4, 2))
            vector_store(strip, 3 * pitch + i, vector_turned(value, 4, 3))


@helper
def place_elements(taps, lanes):
    """Elements of scratch that `places` of so many taps take, in whole vectors: two int64 each."""
    return (4 * taps + lanes - 1) // lanes * lanes


@helper
def fill_places(places, vertical, horizontal, KW, lanes, unit):
    """List taps: places[2 * t] is what a tap reads behind a pixel, places[2 * t + 1] where its vector is; their number.

    `vertical` is (first tap, step to the next, how many, units of elements from what one reads to what the next one
    does), `horizontal` the same for columns.
    """
    kh, kh_step, height, row_step = vertical
    kw, kw_step, width, column_step = horizontal
    for a in range(height):
        for b in range(width):
            t = 2 * (a * width + b)
            store_integer(places, t, (a * row_step + b * column_step) * unit)
            store_integer(places, t + 1, ((kh + a * kh_step) * KW + kw + b * kw_step) * lanes)
    return height * width


@helper
def sum_columns(width, stride):
    """Columns of a row of sums of dx: up to the fourth of a remainder are written, and those of other rows stay."""
    return width if width // stride >= 4 else width + 3 * stride


@helper
def taps_of(place, taps, stride, dilation, extent, first_row):
    """(first tap, step to the next, how many, row of the first, rows to the next) that a pixel gets products from.

    It is at `place` = h + padding, and its taps k are those with (place - k * dilation) divisible by the stride and the
    quotient in [0, extent), counted from `first_row`.
    """
    step, back = stride, dilation
    if stride > 1:
        a, b = stride, dilation
        while b:
            a, b = b, a % b
        step, back = stride // a, dilation // a
    k = 0
    while k < taps and ((place - k * dilation) % stride != 0 or (place - k * dilation) // stride >= extent):
        k += 1
    row = (place - k * dilation) // stride
    count = 0
    if k < taps and row >= 0:
        count = min((taps - 1 - k) // step, row // back) + 1
    return k, step, count, row - first_row, -back


@helper
def list_rows(
    rows, places, place, height, KH, KW, stride, dilation, extent, low, columns, lanes, unit, turns, left, reach,
    stride_w, dilation_w, before,
):  # fmt: skip
    """rows[2 * h], rows[2 * h + 1]: where the lists of :func:`list_columns` for row h begin, and its row of the strip.

    All columns of a remainder have the same taps, those outside dy meet the zeros; and nearly all rows of one.
    """
    step = 2 * KH * KW + 3 * turns
    count = 0
    for h in range(height):
        kh, kh_step, count_h, v, v_step = taps_of(place + h, KH, stride, dilation, extent, low)
        like = -1, -1
        if h >= stride:
            kh_before, _, count_before, _, _ = taps_of(place + h - stride, KH, stride, dilation, extent, low)
            like = kh_before, count_before
        if like == (kh, count_h):
            store_integer(rows, 2 * h, load_integer(rows, 2 * (h - stride)))
        else:
            vertical = kh, kh_step, count_h, v_step * columns
            list_columns(
                moved(places, count * step), vertical, KH, KW, lanes, unit, turns, left, reach, stride_w, dilation_w,
                before,
            )  # fmt: skip
            store_integer(rows, 2 * h, count * step)
            count += 1
        store_integer(rows, 2 * h + 1, v)


@helper
def list_columns(places, vertical, KH, KW, lanes, unit, turns, left, reach, stride, dilation, before):
    """The lists of :func:`fill_places` for columns w, w + stride, ..., w < turns, one after the other.

    Behind them, from 2 * KH * KW on, where each begins, its taps, and the column of dy that the first one reads.
    """
    start = 0
    for w in range(turns):
        kw, kw_step, count, u, u_step = taps_of(
            w + left + reach * stride, KW, stride, dilation, 1 << 40, reach - before
        )
        about = moved(places, 2 * KH * KW + 3 * w)
        taps = fill_places(moved(places, 2 * start), vertical, (kw, kw_step, count, u_step), KW, lanes, unit)
        store_integer(about, 0, start)
        store_integer(about, 1, taps)
        store_integer(about, 2, u)
        start += taps
