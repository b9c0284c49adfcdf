"""Stretches of memory: copied, cleared, cut off at the edges of a map, asked for ahead.

A source is read inside the bounds that are given, and what lies outside them becomes a zero that is stored.
"""

from . import tiling
from .jit import helper
from .simd import (
    lanes_of,
    load,
    moved,
    prefetch,
    store,
    vector_add,
    vector_load,
    vector_load_between,
    vector_load_first,
    vector_load_split,
    vector_store,
    vector_store_first,
    vector_store_merged,
    vector_zero,
    zero_of,
)
from .turning import transpose_block

MR = tiling.MR
FAR_BYTES = tiling.FAR_BYTES
# Vectors of a cache line.
LINE_VECTORS = 64 // tiling.VECTOR_BYTES
# Channels of the weight that are asked for before they are packed, where they are far apart and the core does not look
# for them; 8 are no better.
AHEAD = 4


@helper
def inside(start, step, extent, count):
    """(first, last): the i < count with 0 <= start + i * step < extent are first <= i < last. step > 0."""
    if step == 1:  # a division costs as much as the run of a small image
        first, last = -start, extent - start
    else:
        first, last = -(start // step), (extent - 1 - start) // step + 1
    first = min(max(first, 0), count)
    return first, max(first, min(last, count))


@helper
def clear(destination, count):
    """destination[i] = 0 for i < count. May write up to lanes - 1 elements more."""
    for i in range(0, count, lanes_of(destination)):
        vector_store(destination, i, vector_zero(destination))


@helper
def clear_first(destination, count):
    """destination[i] = 0 for i < count, and nothing else."""
    lanes = lanes_of(destination)
    for i in range(0, count, lanes):
        vector_store_first(destination, i, vector_zero(destination), min(lanes, count - i))


@helper
def copy_run(destination, source, step, first, last, count):
    """destination[i] = source[i * step] if first <= i < last else 0, for i < count.

    May write up to lanes - 1 elements more.
    """
    lanes = lanes_of(destination)
    if step == 1:
        if first == 0 and last == count:
            i = 0
            while i + lanes <= count:
                vector_store(destination, i, vector_load(source, i))
                i += lanes
            if i < count:
                vector_store(destination, i, vector_load_first(source, i, count - i))
        else:
            for i in range(0, count, lanes):
                if first <= i and i + lanes <= last:
                    vector_store(destination, i, vector_load(source, i))
                else:
                    vector_store(destination, i, vector_load_between(source, i, first - i, last - i))
    elif 2 <= step and step <= 4:
        places, end = (0, -1, -1, -1), (last - 1) * step + 1
        copy_split(destination, places, 0, 0, source, 0, 0, 1, 1, first * step, end, count, step)
    else:
        # In three loops, so that no element is asked where it lies.
        clear(destination, first)
        for i in range(first, last):
            store(destination, i, load(source, i * step))
        clear(moved(destination, last), count - last)


@helper
def copy_few(destination, source, count, room):
    """destination[i] = source[i] for i < count, 0 for count <= i < room, and nothing else; few vectors."""
    lanes = lanes_of(destination)
    for i in range(0, room, lanes):
        value = vector_load_first(source, i, max(0, count - i))
        vector_store_first(destination, i, value, min(lanes, room - i))


@helper
def write_run(destination, step, source, count, accumulate):
    """destination[i * step] (+)= source[i] for i < count, and nothing else."""
    lanes = lanes_of(destination)
    if step != 1:
        for i in range(count):
            value = load(source, i)
            store(destination, i * step, load(destination, i * step) + value if accumulate else value)
        return
    whole = count // lanes * lanes
    for i in range(0, whole, lanes):
        value = vector_load(source, i)
        if accumulate:
            value = vector_add(vector_load(destination, i), value)
        vector_store(destination, i, value)
    if whole < count:
        value = vector_load_first(source, whole, count - whole)
        if accumulate:
            value = vector_add(vector_load_first(destination, whole, count - whole), value)
        vector_store_first(destination, whole, value, count - whole)


@helper
def copy_rows(destination, pitch, source, step, rows, first, last, columns):
    """destination[v * pitch + u] = source[v * step + u] if first <= u < last else 0, for v < rows, u < columns.

    May write up to lanes - 1 elements more behind the last row. A stretch of columns at a time, from the last to the
    first: all rows of it have one mask, and what it writes into the next row is written over after it.
    """
    lanes = lanes_of(destination)
    for u in range((columns - 1) // lanes * lanes, -1, -lanes):
        out, line = moved(destination, u), moved(source, u)
        if first <= u and u + lanes <= last:
            for _ in range(rows):
                vector_store(out, 0, vector_load(line, 0))
                out, line = moved(out, pitch), moved(line, step)
        else:
            for _ in range(rows):
                vector_store(out, 0, vector_load_between(line, 0, first - u, last - u))
                out, line = moved(out, pitch), moved(line, step)


@helper
def copy_split(
    destination, places, image_pitch, pitch, source, image_step, row_step, images, rows, first, last, columns, step
):  # fmt: skip
    """destination[places[r] + n * image_pitch + v * pitch + u] = source[n * image_step + v * row_step + j], or 0.

    With j = u * step + r, if first <= j < last. For n < images, v < rows, u < columns, and r < step, 2 to 4, where
    places[r] >= 0. All rows of a stretch of columns, as in :func:`copy_rows`; nothing is written behind the last row of
    an image.
    """
    lanes = lanes_of(destination)
    to_0, to_1, to_2, to_3 = places
    for u in range((columns - 1) // lanes * lanes, -1, -lanes):
        start, end = first - u * step, last - u * step
        for n in range(images):
            out, line = moved(destination, n * image_pitch + u), moved(source, n * image_step + u * step)
            room = (rows - 1) * pitch + columns - u
            for _ in range(rows):
                if step == 2:
                    value_0, value_1 = vector_load_split(line, 2, start, end)
                    put(out, to_0, value_0, room)
                    put(out, to_1, value_1, room)
                elif step == 3:
                    value_0, value_1, value_2 = vector_load_split(line, 3, start, end)
                    put(out, to_0, value_0, room)
                    put(out, to_1, value_1, room)
                    put(out, to_2, value_2, room)
                else:
                    value_0, value_1, value_2, value_3 = vector_load_split(line, 4, start, end)
                    put(out, to_0, value_0, room)
                    put(out, to_1, value_1, room)
                    put(out, to_2, value_2, room)
                    put(out, to_3, value_3, room)
                out, line, room = moved(out, pitch), moved(line, row_step), room - pitch


@helper
def merge_run(destination, source, step, places, plane, first, count):
    """destination[i] = source[j % step * plane + j // step], j = first + i, for i < count, and nothing else.

    The other way round of :func:`copy_split`; `places` are those of the first 4. Reads whole vectors.
    """
    if step > 4:
        for i in range(count):
            store(destination, i, load(source, place_in_planes(first + i, step, plane)))
        return
    lanes = lanes_of(destination)
    from_0, from_1, from_2, from_3 = places
    for i in range(0, count, step * lanes):
        out, left = moved(destination, i), min(step * lanes, count - i)
        value_0, value_1 = vector_load(source, from_0), vector_load(source, from_1)
        if step == 2:
            vector_store_merged(out, (value_0, value_1), left)
        elif step == 3:
            vector_store_merged(out, (value_0, value_1, vector_load(source, from_2)), left)
        else:
            vector_store_merged(out, (value_0, value_1, vector_load(source, from_2), vector_load(source, from_3)), left)
        source = moved(source, lanes)


@helper
def place_in_planes(i, step, plane):
    """Where element i is among `step` planes, sorted by remainder."""
    u, remainder = divmod(i, step)
    return remainder * plane + u


@helper
def put(destination, place, value, room):
    """destination[place + i] = value[i] for i < room, or a whole vector, if there is a place."""
    if place >= 0:
        if room >= lanes_of(destination):
            vector_store(destination, place, value)
        else:
            vector_store_first(destination, place, value, room)


@helper
def fill_channels(destination, pitch, source, step, first, last, count, channels):
    """destination[c * pitch + i] = source[c + i * step] if first <= i < last else 0.

    For i < count and c < channels, at most lanes; may write up to lanes - 1 elements more.
    """
    lanes = lanes_of(destination)
    if first > 0 or last < count:
        for c in range(channels):
            clear(moved(destination, c * pitch), count)
    for i in range(first, last, lanes):
        rows = min(lanes, last - i)
        transpose_block(moved(destination, i), pitch, moved(source, i * step), step, rows, channels)


@helper
def pack_rows(line, rows, source, step):
    """line[r] = source[r * step] for r < rows, and 0 for r < MR."""
    for r in range(rows):
        store(line, r, load(source, r * step))
    for r in range(rows, MR):
        store(line, r, zero_of(line))


@helper
def is_far(elements, p):
    """Whether so many elements, as p has them, are more than caches hold."""
    return elements * 64 >= FAR_BYTES * LINE_VECTORS * lanes_of(p)


@helper
def in_lines(address, p, start, steps):
    """Whether element `start` at the address, as p has them, begins a cache line, and all `steps` are whole lines."""
    line = LINE_VECTORS * lanes_of(p)
    whole = (address + start * (64 // line)) % 64 == 0
    for step in steps:
        whole = whole and step % line == 0
    return whole


@helper
def prefetch_run(p, count):
    """Ask for the cache lines of p[:count], which may lie anywhere.

    For the rows of the next channel: they are far from those of this one, where the core does not look for them. Layers
    whose copies come from memory take 1 to 6% less time.
    """
    for i in range(0, count, LINE_VECTORS * lanes_of(p)):
        prefetch(p, i)


@helper
def prefetch_rows(p, image_step, row_step, extent, top, stride, images, rows, count):
    """Ask for `count` elements of every `stride`-th row of some images, from row `top` on, as far as they have it."""
    first, last = inside(top, stride, extent, rows)
    for n in range(images):
        for v in range(first, last):
            prefetch_run(moved(p, n * image_step + (top + v * stride) * row_step), count)
