"""Activations into strips and panels and back: the only code that knows layouts, padding, stride and dilation.

A pixel of the output is numbered by (a, b, r), r fastest: (n, oh, ow), or (oh, ow, n) where the batch
lies together in memory. A run is a stretch of pixels with one a and b. Offsets and strides count elements.
Padding is a zero that is stored; memory outside the arrays is never read.
"""

from .jit import helper
from .rows import (
    clear,
    copy_rows,
    copy_run,
    copy_split,
    fill_channels,
    inside,
    merge_run,
    place_in_planes,
    prefetch_rows,
    prefetch_run,
    write_run,
)
from .simd import (
    lanes_of,
    load,
    load_integer,
    moved,
    vector_add,
    vector_fill,
    vector_load,
    vector_store,
    vector_zero,
)
from .turning import transpose_block


@helper
def pack_strip(
    strip, pitch, x, x_n, x_c, x_h, x_w, H, W, channels, phases_h, phases_w, stride_h, stride_w, base_h, base_w,
    step_h, step_w, images, rows, columns, batch, top, left,
):  # fmt: skip
    """Rows and columns of x that a block of outputs looks at, padded, sorted by their remainder modulo the stride.

    strip[c * pitch + ((((a * phases_w + b) * images + n) * rows + v) * columns + u) * batch + i] =
    x[image, c, top + v * stride_h + row_a, left + u * stride_w + column_b], and 0 outside; the image is n or, in HWCN,
    where batch > 1, i. row_a = (base_h + a * step_h) % stride_h is the remainder that tap a has, column_b likewise.

    So the output pixels of a block and what any tap of theirs reads are one and the same stretch of memory, moved by
    a constant: each element is copied once, and not once for each tap. Room for lanes is needed behind a channel; what
    a tail reads there is 0, since numbers out of old memory may be subnormal, and multiply-adds then take many times as
    long.
    """
    lanes = lanes_of(strip)
    step = stride_w * x_w
    by_channel = x_c == 1 and step != 1
    block = lanes if by_channel else 1
    plane = images * rows * columns * batch
    split = not by_channel and 2 <= step and step <= 4
    # All remainders of a row at once, where the pixels between two of one remainder are the others'.
    together = phases_w if split and x_w == 1 and phases_w == stride_w else 1
    for c in range(channels):
        vector_store(strip, c * pitch + phases_h * phases_w * plane, vector_zero(strip))
    if batch > 1:
        pack_images(
            strip, pitch, x, x_n, x_c, x_h, x_w, H, W, channels, phases_h, phases_w, stride_h, stride_w, base_h, base_w,
            step_h, step_w, rows, columns, batch, top, left,
        )  # fmt: skip
        return
    # Rows that follow each other are one, and of one there is nothing to decide: what would be takes as long as its
    # copy, and keeps the loads of the next channel out of the core's window.
    joined = rows == 1 or (x_h == columns and left == 0 and columns == W)
    if joined and step == 1 and stride_h == 1 and phases_h * phases_w == 1 and 0 <= top <= H - rows:
        first, last = inside(left, 1, W, columns)
        run = rows * columns
        last += run - columns
        for n in range(images):
            out, source = moved(strip, n * run), moved(x, n * x_n + top * x_h + left)
            if run <= 4 * lanes:
                copy_rows(out, pitch, source, x_c, channels, first, last, run)
            else:
                for _ in range(channels):
                    prefetch_run(moved(source, x_c), run)
                    copy_run(out, source, 1, first, last, run)
                    out, source = moved(out, pitch), moved(source, x_c)
        return
    seen, seen_end = max(0, left), min(W, left + columns * stride_w)
    # Rows of one vector are asked for in as much time as they are copied.
    ask = x_w == 1 and columns > lanes
    for a in range(phases_h):
        h = top + (base_h + a * step_h) % stride_h
        top_row, end_row = inside(h, stride_h, H, rows)
        for b in range(0, phases_w, together):
            w = left if together > 1 else left + (base_w + b * step_w) % stride_w
            first, last = inside(w, stride_w, W, columns)
            places, start, end = (0, -1, -1, -1), first * step, (last - 1) * step + 1
            if together > 1:
                places, start, end = places_of(plane, step, base_w, step_w), -left, W - left
            for c in range(0, channels, block):
                planes = moved(strip, c * pitch + (a * phases_w + b) * plane)
                if ask and b == 0:  # for what is copied next, and at first for what is copied now
                    rows_of_c, count = moved(x, c * x_c + seen), seen_end - seen
                    if a == 0 and c == 0:
                        prefetch_rows(rows_of_c, x_n, x_h, H, h, stride_h, images, rows, count)
                    if c + 1 < channels:
                        prefetch_rows(moved(rows_of_c, x_c), x_n, x_h, H, h, stride_h, images, rows, count)
                    elif a + 1 < phases_h:
                        below = top + (base_h + (a + 1) * step_h) % stride_h
                        prefetch_rows(moved(x, seen), x_n, x_h, H, below, stride_h, images, rows, count)
                source = moved(x, c * x_c + h * x_h + w * x_w)
                if split:
                    # The zeros first: whole vectors of them may reach into what follows.
                    for i in range(together * images if top_row > 0 or end_row < rows else 0):
                        clear(moved(planes, i * rows * columns), top_row * columns)
                        clear(moved(planes, (i * rows + end_row) * columns), (rows - end_row) * columns)
                    copy_split(
                        moved(planes, top_row * columns), places, rows * columns, columns,
                        moved(source, top_row * stride_h * x_h), x_n, stride_h * x_h, images, end_row - top_row,
                        start, end, columns, step,
                    )  # fmt: skip
                    continue
                for n in range(images):
                    out = moved(planes, n * rows * columns)
                    if not by_channel and step == 1 and columns <= 4 * lanes:
                        clear(out, top_row * columns)
                        inner = moved(out, top_row * columns)
                        image_rows = moved(source, n * x_n + top_row * stride_h * x_h)
                        copy_rows(inner, columns, image_rows, stride_h * x_h, end_row - top_row, first, last, columns)
                        clear(moved(out, end_row * columns), (rows - end_row) * columns)
                        continue
                    for v in range(rows):
                        row = moved(source, n * x_n + v * stride_h * x_h)
                        line = moved(out, v * columns)
                        here = top_row <= v and v < end_row
                        if by_channel:
                            end = last if here else first
                            fill_channels(line, pitch, row, step, first, end, columns, min(lanes, channels - c))
                        elif here:
                            copy_run(line, row, step, first, last, columns)
                        else:
                            clear(line, columns)


@helper
def pack_images(
    strip, pitch, x, x_n, x_c, x_h, x_w, H, W, channels, phases_h, phases_w, stride_h, stride_w, base_h, base_w,
    step_h, step_w, rows, columns, batch, top, left,
):  # fmt: skip
    """:func:`pack_strip` of images that lie together.

    Pixel by pixel, whose channels are near each other, while the next pixel of a channel is pages away.
    """
    for a in range(phases_h):
        h = top + (base_h + a * step_h) % stride_h
        top_row, end_row = inside(h, stride_h, H, rows)
        for b in range(phases_w):
            w = left + (base_w + b * step_w) % stride_w
            first, last = inside(w, stride_w, W, columns)
            for v in range(rows):
                row = moved(x, (h + v * stride_h) * x_h + w * x_w)
                line = moved(strip, ((a * phases_w + b) * rows + v) * columns * batch)
                here = top_row <= v and v < end_row
                for u in range(columns):
                    out, pixel = moved(line, u * batch), moved(row, u * stride_w * x_w)
                    seen = batch if here and first <= u and u < last else 0
                    if x_n == 1:
                        copy_rows(out, pitch, pixel, x_c, channels, 0, seen, batch)
                        continue
                    for c in range(channels):
                        copy_run(moved(out, c * pitch), moved(pixel, c * x_c), x_n, 0, seen, batch)


@helper
def place_of_tap(kh, kw, v, u, phases_h, phases_w, stride_h, stride_w, plane, columns, batch):
    """Where tap (kh, kw) of the first output begins in a channel of a strip of such planes.

    v and u are its rows and columns behind the lowest ones that a tap reads.
    """
    phase = kh % phases_h * phases_w + kw % phases_w
    return phase * plane + (v // stride_h * columns + u // stride_w) * batch


@helper
def places_of(plane, step, base_w, step_w):
    """Where a strip has the columns of remainder 0 to 3 modulo the step: column b * step_w of a tap is in plane b."""
    place_0, place_1, place_2, place_3 = 0, 0, 0, 0
    for b in range(step):
        remainder = (base_w + b * step_w) % step
        if remainder == 0:
            place_0 = b * plane
        elif remainder == 1:
            place_1 = b * plane
        elif remainder == 2:
            place_2 = b * plane
        else:
            place_3 = b * plane
    return place_0, place_1, place_2, place_3


@helper
def compress_taps(panel, pitch, strip, table, taps, images, rows, columns, strip_rows, strip_columns):
    """panel[t * pitch + (n * rows + v) * columns + u] = strip[table[t] + (n * strip_rows + v) * strip_columns + u].

    The taps of a channel, of its rows without what lies between them. May write `lanes` elements more, and read
    lanes - 1: behind the last pixel of a tap is a 0, as behind a strip.
    """
    lanes = lanes_of(panel)
    for t in range(taps):
        line = moved(panel, t * pitch)
        tap = moved(strip, load_integer(table, t))
        for n in range(images):
            source = moved(tap, n * strip_rows * strip_columns)
            for _ in range(rows):
                vector_store(line, 0, vector_load(source, 0))  # most rows are no longer than one vector
                for u in range(lanes, columns, lanes):
                    vector_store(line, u, vector_load(source, u))
                line, source = moved(line, columns), moved(source, strip_columns)
        vector_store(line, 0, vector_zero(line))


@helper
def add_bias(sums, pitch, filters, columns, bias, bias_step):
    """sums[f, :columns] += bias[f], and up to lanes - 1 columns more."""
    for f in range(filters):
        value = vector_fill(sums, load(bias, f * bias_step))
        for j in range(0, columns, lanes_of(sums)):
            vector_store(sums, f * pitch + j, vector_add(vector_load(sums, f * pitch + j), value))


@helper
def unpack_sums(
    sums, pitch, filters, y, y_n, y_f, y_h, y_w, images, rows, columns, strip_rows, strip_columns, batch,
    accumulate,
):  # fmt: skip
    """y[n, f, h, w] (+)= sums[f * pitch + ((n * strip_rows + h) * strip_columns + w) * batch + i].

    In HWCN, where batch > 1, i counts images.
    """
    lanes = lanes_of(sums)
    if rows > 1 and strip_columns == columns and y_h == columns * y_w:  # rows that follow each other are one
        rows, columns, strip_rows, strip_columns = 1, rows * columns, 1, strip_rows * columns
    transposes = batch == 1 and y_f == 1 and y_w != 1 and not accumulate
    for n in range(images):
        for h in range(rows):
            source = moved(sums, (n * strip_rows + h) * strip_columns * batch)
            out = moved(y, n * y_n + h * y_h)
            if transposes:
                for f in range(0, filters, lanes):
                    for w in range(0, columns, lanes):
                        transpose_block(
                            moved(out, f + w * y_w), y_w, moved(source, f * pitch + w), pitch,
                            min(lanes, filters - f), min(lanes, columns - w),
                        )  # fmt: skip
            elif batch == 1:
                for f in range(filters):
                    write_run(moved(out, f * y_f), y_w, moved(source, f * pitch), columns, accumulate)
            else:
                for w in range(columns):
                    for f in range(filters):
                        pixel = moved(source, f * pitch + w * batch)
                        write_run(moved(out, f * y_f + w * y_w), y_n, pixel, batch, accumulate)


@helper
def unpack_map(
    dx, dx_n, dx_c, dx_h, dx_w, H, W, maps, map_pitch, plane, lines, line, images, height, width, channels, stride_h,
    stride_w, top, left, first, count, batch, accumulate,
):  # fmt: skip
    """Write `count` rows of each remainder from the top of the map: rows (first + v) * stride_h - top + a of dx.

    In HWCN, where batch > 1, a column of the map is as many images.
    """
    if stride_w == 1 or batch > 1:
        for a in range(stride_h):
            # The v < count with 0 <= h + v * stride_h < H, and columns likewise.
            h = first * stride_h - top + a
            low, high = inside(h, stride_h, H, count)
            for b in range(stride_w):
                w = b - left
                start, end = inside(w, stride_w, W, width)
                unpack_sums(
                    moved(maps, (a * stride_w + b) * plane + (low * width + start) * batch), map_pitch, channels,
                    moved(dx, (h + low * stride_h) * dx_h + (w + start * stride_w) * dx_w), dx_n, dx_c,
                    stride_h * dx_h, stride_w * dx_w, images, high - low, end - start, height, width, batch, accumulate,
                )  # fmt: skip
        return
    # Row by row of a channel; or of all channels, where those of a pixel lie together.
    in_place = dx_w == 1 and not accumulate
    together = 1 if in_place else channels
    places = (
        place_in_planes(left, stride_w, plane),
        place_in_planes(left + 1, stride_w, plane),
        place_in_planes(left + 2, stride_w, plane),
        place_in_planes(left + 3, stride_w, plane),
    )
    begin, end = max(0, first * stride_h - top), min(H, (first + count) * stride_h - top)
    for n in range(images):
        for c in range(0, channels, together):
            v, a = divmod(begin + top, stride_h)
            for h in range(begin, end):
                source = moved(maps, c * map_pitch + a * stride_w * plane + (n * height + v - first) * width)
                out = moved(dx, n * dx_n + c * dx_c + h * dx_h)
                for i in range(together):
                    target = out if in_place else moved(lines, i * line)
                    merge_run(target, moved(source, i * map_pitch), stride_w, places, plane, left, W)
                if not in_place:
                    unpack_sums(lines, line, channels, out, dx_n, dx_c, dx_h, dx_w, 1, 1, W, 1, W, 1, accumulate)
                v, a = (v, a + 1) if a + 1 < stride_h else (v + 1, 0)
