"""Activations and weights into panels and back: the only code that knows layouts, padding, stride and dilation.

A pixel of the output is numbered by (a, b, r), r fastest: (n, oh, ow), or (oh, ow, n) where the batch
lies together in memory. A run is a stretch of pixels with one a and b. Offsets and strides count elements.
Padding is a zero that is stored; memory outside the arrays is never read.
"""

from numba import njit

from .simd import (
    lanes_of,
    load,
    moved,
    store,
    transpose_block,
    vector_add,
    vector_even,
    vector_fill,
    vector_load,
    vector_load_between,
    vector_load_first,
    vector_store,
    vector_store_first,
    vector_zero,
    zero_of,
)


@njit(error_model="numpy")
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
    elif step == 2:
        for i in range(0, count, lanes):
            start, end = 2 * (first - i), 2 * (last - i) - 1
            low = vector_load_between(source, 2 * i, start, end)
            high = vector_load_between(source, 2 * i + lanes, start - lanes, end - lanes)
            vector_store(destination, i, vector_even(low, high))
    else:
        for i in range(count):
            store(destination, i, load(source, i * step) if first <= i < last else zero_of(source))


@njit(error_model="numpy")
def clear(destination, count):
    """destination[i] = 0 for i < count. May write up to lanes - 1 elements more."""
    for i in range(0, count, lanes_of(destination)):
        vector_store(destination, i, vector_zero(destination))


@njit(error_model="numpy")
def inside(start, step, extent, count):
    """(first, last): the i < count with 0 <= start + i * step < extent are first <= i < last. step > 0."""
    if step == 1:  # a division costs as much as the run of a small image
        first, last = -start, extent - start
    else:
        first, last = -(start // step), (extent - 1 - start) // step + 1
    first = min(max(first, 0), count)
    return first, max(first, min(last, count))


@njit(error_model="numpy")
def fill_lines(
    lines, pitch, x, x_n, x_c, x_h, x_w, H, W, channels, KH, KW, OH, OW, N,
    stride_h, stride_w, offset_h, offset_w, dilation_h, dilation_w, batch_runs, start, pixels,
):  # fmt: skip
    """:func:`pack_input` tap by tap, straight from x."""
    lanes = lanes_of(lines)
    A, B, R = (OH, OW, N) if batch_runs else (N, OH, OW)
    step = x_n if batch_runs else stride_w * x_w
    by_channel = x_c == 1 and step != 1
    first_ab, first_r = divmod(start, R)
    first_a, first_b = divmod(first_ab, B)
    for c in range(0, channels, lanes if by_channel else 1):
        for kh in range(KH):
            for kw in range(KW):
                line = moved(lines, ((c * KH + kh) * KW + kw) * pitch)
                j = 0
                a, b, r = first_a, first_b, first_r
                while j < pixels:
                    count = min(R - r, pixels - j)
                    n, oh, ow = (r, a, b) if batch_runs else (a, b, r)
                    h = oh * stride_h + offset_h + kh * dilation_h
                    w = ow * stride_w + offset_w + kw * dilation_w
                    if batch_runs:
                        first, last = 0, count if 0 <= w < W else 0
                    else:
                        first, last = inside(w, stride_w, W, count)
                    if not 0 <= h < H:
                        first, last = 0, 0
                    source = moved(x, n * x_n + c * x_c + h * x_h + w * x_w)
                    if by_channel:
                        block = min(lanes, channels - c)
                        fill_channels(moved(line, j), KH * KW * pitch, source, step, first, last, count, block)
                    else:
                        copy_run(moved(line, j), source, step, first, last, count)
                    j += count
                    r = 0
                    b += 1
                    if b == B:
                        a, b = a + 1, 0


@njit(error_model="numpy")
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


@njit(error_model="numpy")
def copy_rows(destination, source, head, count, width, step):
    """Copy `count` elements out of rows `step` apart: `head` from the first, which ends at its end, then `width` each.

    May write up to lanes - 1 elements more, and read as many.
    """
    lanes = lanes_of(destination)
    if width <= lanes:
        # One vector a row, and no counting: what a row writes too much, the next one writes over.
        vector_store(destination, 0, vector_load(source, 0))
        destination = moved(destination, head)
        source = moved(source, step - (width - head))
        for _ in range((count - head + width - 1) // width):
            vector_store(destination, 0, vector_load(source, 0))
            destination = moved(destination, width)
            source = moved(source, step)
        return
    for k in range(0, head, lanes):
        vector_store(destination, k, vector_load(source, k))
    done = head
    source = moved(source, step - (width - head))
    while done + width <= count:
        for k in range(0, width, lanes):
            vector_store(destination, done + k, vector_load(source, k))
        done += width
        source = moved(source, step)
    for k in range(0, count - done, lanes):
        vector_store(destination, done + k, vector_load(source, k))


@njit(error_model="numpy")
def pack_input(
    lines, pitch, strip, strip_size, x, x_n, x_c, x_h, x_w, H, W, channels, KH, KW, OH, OW, N,
    stride_h, stride_w, offset_h, offset_w, dilation_h, dilation_w, batch_runs, start, pixels,
):  # fmt: skip
    """lines[((c * KH + kh) * KW + kw) * pitch + j] = what tap (kh, kw) of channel c reads for pixel start + j.

    Requires pitch >= pixels + lanes - 1, and room for lanes behind the last line and behind the strip.

    The rows that the pixels look at go to a strip first, padded and, above stride 1, sorted by the column
    modulo the stride; the lines are then whole-vector copies out of L1. Each element of x is so looked up
    once and not KH * KW times: 14% of the time of a layer 64>64@56 with one look-up per tap.
    """
    lanes = lanes_of(lines)
    # The strip holds the columns [left, left + span) and, row by row, planes of one column modulo the stride.
    left = offset_w + min(0, (KW - 1) * dilation_w)
    top = offset_h + min(0, (KH - 1) * dilation_h)
    width = min(OW, pixels)
    plane = width + (KW - 1) * abs(dilation_w) // stride_w + 1
    plane = (plane + lanes - 1) // lanes * lanes
    row_pitch = plane * stride_w
    most_rows = (min(OH, (pixels + OW - 2) // OW + 1) - 1) * stride_h + (KH - 1) * abs(dilation_h) + 1
    image = most_rows * row_pitch
    by_channel = x_c == 1 and x_w != 1
    block = lanes if by_channel else min(lanes, max(1, strip_size // image))
    if batch_runs or KH * KW <= 1 or image * block > strip_size:
        fill_lines(
            lines, pitch, x, x_n, x_c, x_h, x_w, H, W, channels, KH, KW, OH, OW, N,
            stride_h, stride_w, offset_h, offset_w, dilation_h, dilation_w, batch_runs, start, pixels,
        )  # fmt: skip
        return
    for c in range(0, channels, block):
        here = min(block, channels - c)
        j = 0
        while j < pixels:  # rows of one image
            n, pixel = divmod(start + j, OH * OW)
            oh, ow = divmod(pixel, OW)
            count = min(OH * OW - pixel, pixels - j)
            if OW > width:  # a row has no room in the strip, but the part of one has
                count = min(count, OW - ow)
            rows = (ow + count + OW - 1) // OW
            column = ow if rows == 1 else 0
            span = (rows - 1) * stride_h + (KH - 1) * abs(dilation_h) + 1
            columns = plane if rows > 1 else (count + (KW - 1) * abs(dilation_w) // stride_w + 1)
            step = stride_w * x_w
            for p in range(stride_w):
                w = column * stride_w + left + p
                first, last = inside(w, stride_w, W, columns)
                for i in range(1 if by_channel else here):  # rows of a channel follow each other in memory
                    source = moved(x, n * x_n + (c + i) * x_c + w * x_w)
                    for v in range(span):
                        h = oh * stride_h + top + v
                        out = moved(strip, i * image + v * row_pitch + p * plane)
                        if by_channel:
                            end = last if 0 <= h < H else first
                            fill_channels(out, image, moved(source, h * x_h), step, first, end, columns, here)
                        elif 0 <= h < H:
                            copy_run(out, moved(source, h * x_h), step, first, last, columns)
                        else:
                            clear(out, columns)
            for i in range(here):
                for kh in range(KH):
                    v = kh * dilation_h - min(0, (KH - 1) * dilation_h)
                    for kw in range(KW):
                        u = kw * dilation_w - min(0, (KW - 1) * dilation_w)
                        u, p = divmod(u, stride_w)
                        source = moved(strip, i * image + v * row_pitch + p * plane + u + ow - column)
                        line = moved(lines, (((c + i) * KH + kh) * KW + kw) * pitch + j)
                        copy_rows(line, source, min(OW - ow, count), count, OW, row_pitch * stride_h)
            j += count


@njit(error_model="numpy")
def unpack_output(sums, pitch, rows, bias, y, y_n, y_f, y_h, y_w, N, OH, OW, batch_runs, start, pixels, accumulate):
    """y[f, pixel start + j] (+)= sums[f, j] + bias[f] for f < rows, j < pixels; `bias` is (pointer, step, whether)."""
    lanes = lanes_of(sums)
    A, B, R = (OH, OW, N) if batch_runs else (N, OH, OW)
    step = y_n if batch_runs else y_w
    # Rows that follow each other in memory are one run.
    joined = not batch_runs and y_h == OW * y_w
    if joined:
        B, R = 1, OH * OW
    values, bias_step, biased = bias
    for f in range(rows if biased else 0):
        value = vector_fill(sums, load(values, f * bias_step))
        for j in range(0, pixels, lanes):
            vector_store(sums, f * pitch + j, vector_add(vector_load(sums, f * pitch + j), value))
    j = 0
    while j < pixels:
        ab, r = divmod(start + j, R)
        a, b = divmod(ab, B)
        count = min(R - r, pixels - j)
        out = moved(y, a * y_h + b * y_w + r * y_n) if batch_runs else moved(y, a * y_n + b * y_h + r * y_w)
        if y_f == 1 and step != 1 and not accumulate:
            for f in range(0, rows, lanes):
                for i in range(0, count, lanes):
                    transpose_block(
                        moved(out, f + i * step), step, moved(sums, f * pitch + j + i), pitch,
                        min(lanes, rows - f), min(lanes, count - i),
                    )  # fmt: skip
        else:
            for f in range(rows):
                write_run(moved(out, f * y_f), step, moved(sums, f * pitch + j), count, accumulate)
        j += count


@njit(error_model="numpy")
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
        value = vector_load(source, whole)
        if accumulate:
            value = vector_add(vector_load_first(destination, whole, count - whole), value)
        vector_store_first(destination, whole, value, count - whole)


@njit(error_model="numpy")
def pack_weight_panel(panel, MR, rows, weight, w_row, w_channel, w_kh, w_kw, channels, KH, KW):
    """panel[((c * KH + kh) * KW + kw) * MR + r] = weight[r, c, kh, kw] for r < rows, and 0 for r < MR."""
    lanes = lanes_of(panel)
    taps = KH * KW
    if rows < MR:
        for i in range(channels * taps):
            for r in range(rows, MR):
                store(panel, i * MR + r, zero_of(panel))
    if taps == 1 and w_row == 1:
        for c in range(channels):
            value = vector_load_first(weight, c * w_channel, rows)
            vector_store_first(panel, c * MR, value, rows)
    elif w_kw == 1 and w_kh == KW and MR <= lanes:
        # Taps of a channel, and often channels too, follow each other.
        runs, length = (1, channels * taps) if w_channel == taps else (channels, taps)
        for run in range(runs):
            for i in range(0, length, lanes):
                transpose_block(
                    moved(panel, (run * length + i) * MR), MR, moved(weight, run * w_channel + i), w_row,
                    rows, min(lanes, length - i),
                )  # fmt: skip
    else:
        for c in range(channels):
            for kh in range(KH):
                for kw in range(KW):
                    line = moved(panel, ((c * KH + kh) * KW + kw) * MR)
                    source = moved(weight, c * w_channel + kh * w_kh + kw * w_kw)
                    for r in range(rows):
                        store(line, r, load(source, r * w_row))


@njit(error_model="numpy")
def pack_pixels(strip, pitch, x, x_n, x_c, x_h, x_w, H, W, images, rows, columns, channels, top, left):
    """strip[((n * rows + v) * columns + u) * pitch + c] = x[n, c, top + v, left + u], or 0 outside the image.

    Requires channels <= pitch. Room for lanes behind it is needed; what lies between channels and pitch is
    not defined.
    """
    lanes = lanes_of(strip)
    first, last = inside(left, 1, W, columns)
    for n in range(images):
        for v in range(rows):
            line = moved(strip, (n * rows + v) * columns * pitch)
            h = top + v
            if not 0 <= h < H:
                clear(line, columns * pitch)
                continue
            source = moved(x, n * x_n + h * x_h + left * x_w)
            clear(line, first * pitch)
            if x_w == 1 and x_c != 1:
                for c in range(0, channels, lanes):
                    for u in range(first, last, lanes):
                        transpose_block(
                            moved(line, u * pitch + c), pitch, moved(source, c * x_c + u), x_c,
                            min(lanes, channels - c), min(lanes, last - u),
                        )  # fmt: skip
            else:
                for u in range(first, last):
                    copy_run(moved(line, u * pitch), moved(source, u * x_w), x_c, 0, channels, channels)
            clear(moved(line, last * pitch), (columns - last) * pitch)


@njit(error_model="numpy")
def unpack_pixels(pixels, pitch, columns, y, y_c, y_h, y_w, height, width, channels, accumulate):
    """y[c, h, w] (+)= pixels[(h * columns + w) * pitch + c] for h < height, w < width, c < channels."""
    lanes = lanes_of(pixels)
    if width == columns and y_h == columns * y_w:
        height, width = 1, height * width
    for h in range(height):
        out = moved(y, h * y_h)
        source = moved(pixels, h * columns * pitch)
        if y_w == 1 and y_c != 1 and not accumulate:
            for w in range(0, width, lanes):
                count = min(lanes, width - w)
                transpose_block(moved(out, w), y_c, moved(source, w * pitch), pitch, count, channels)
        else:
            for w in range(width):
                write_run(moved(out, w * y_w), y_c, moved(source, w * pitch), channels, accumulate)


@njit(error_model="numpy")
def pack_output_grad(panels, MR, dy, y_n, y_f, y_h, y_w, images, rows, columns, filters):
    """panels[f // MR][((n * rows + oh) * columns + ow) * MR + f % MR] = dy[n, f, oh, ow]."""
    lanes = lanes_of(panels)
    pixels = images * rows * columns
    height, width = (1, rows * columns) if y_h == columns * y_w else (rows, columns)
    for f in range(0, filters, MR):
        count = min(MR, filters - f)
        for n in range(images):
            for h in range(height):
                out = moved(panels, f * pixels + (n * rows * columns + h * width) * MR)
                source = moved(dy, n * y_n + f * y_f + h * y_h)
                if y_f == 1 and y_w != 1:
                    for w in range(width):
                        vector = vector_load_first(source, w * y_w, count)
                        vector_store_first(out, w * MR, vector, count)
                elif y_w == 1:
                    for w in range(0, width, lanes):
                        transpose_block(moved(out, w * MR), MR, moved(source, w), y_f, count, min(lanes, width - w))
                else:
                    for w in range(width):
                        for r in range(count):
                            store(out, w * MR + r, load(source, r * y_f + w * y_w))
