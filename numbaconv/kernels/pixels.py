"""Pixels with their channels side by side, and back: for the nests whose vector runs over channels or filters.

What layout, padding and strides an activation has ends here, as it does in :mod:`.packing` for pixels side by side.
"""

from . import tiling
from .jit import helper
from .rows import clear, clear_first, copy_few, copy_rows, copy_run, inside, pack_rows, write_run
from .simd import (
    lanes_of,
    load,
    moved,
    store,
    vector_load,
    vector_load_first,
    vector_store,
    vector_store_first,
    vector_store_merged,
)
from .turning import (
    WHOLE_BLOCKS,
    transpose_block,
    transpose_every_second,
    transpose_rows,
    transpose_whole,
    turn_rows,
)

MR = tiling.MR
# Channels whose pixels are merged in vectors, instead of being turned.
MERGED = 4


@helper
def pack_pixels(strip, pitch, x, x_n, x_c, x_h, x_w, H, W, images, rows, columns, channels, top, left):
    """strip[((n * rows + v) * columns + u) * pitch + c] = x[n, c, top + v, left + u], or 0 outside the image.

    Requires channels <= pitch. Room for lanes behind it is needed; what lies between channels and pitch is
    not defined.
    """
    lanes = lanes_of(strip)
    if left == 0 and columns == W and x_h == columns * x_w and 0 <= top <= H - rows:  # rows that follow each other
        x, top, rows, columns = moved(x, top * x_h), 0, 1, rows * columns
        H, W = 1, columns
    first, last = inside(left, 1, W, columns)
    if x_n == 1 and x_c != 1 and images > 1:  # images lie side by side, and are turned against channels
        image = rows * columns * pitch
        for v in range(rows):
            outside = not 0 <= top + v < H
            for u in range(columns):
                pixel = moved(strip, (v * columns + u) * pitch)
                if outside or u < first or u >= last:
                    for n in range(images):
                        clear_first(moved(pixel, n * image), channels)
                    continue
                source = moved(x, (top + v) * x_h + (left + u) * x_w)
                for c in range(0, channels, lanes):
                    for n in range(0, images, lanes):
                        transpose_block(
                            moved(pixel, n * image + c), image, moved(source, c * x_c + n), x_c,
                            min(lanes, channels - c), min(lanes, images - n),
                        )  # fmt: skip
        return
    # The padding first: whole vectors of zeros may reach into what is copied then.
    top_row, end_row = inside(top, 1, H, rows)
    height, width, line = end_row - top_row, last - first, columns * pitch
    for n in range(images):
        plane = moved(strip, n * rows * line)
        clear(plane, top_row * line)
        for v in range(top_row, end_row):
            clear(moved(plane, v * line), first * pitch)
            clear(moved(plane, v * line + last * pitch), (columns - last) * pitch)
        clear(moved(plane, end_row * line), (rows - end_row) * line)
    # A loop over rows for each kind: what all kinds compute ahead of one would take as long as a short row.
    for n in range(images if height > 0 and width > 0 else 0):
        out = moved(strip, (n * rows + top_row) * line + first * pitch)
        source = moved(x, n * x_n + (top + top_row) * x_h + (left + first) * x_w)
        if x_w == 1 and x_c != 1 and pitch == channels and channels <= MERGED:
            for v in range(height):
                merge_channels(moved(out, v * line), moved(source, v * x_h), x_c, width, channels)
        elif x_w == 1 and x_c != 1:
            transpose_rows(out, pitch, source, x_c, x_h, height, width, line - width * pitch, channels)
        elif x_w == 2 and x_c != 1:
            for c in range(0, channels, lanes):
                for v in range(height):
                    for u in range(0, width, lanes // 2):
                        transpose_every_second(
                            moved(out, v * line + u * pitch + c), pitch, moved(source, v * x_h + c * x_c + 2 * u), x_c,
                            min(lanes, channels - c), 2 * min(lanes // 2, width - u) - 1,
                        )  # fmt: skip
        elif x_c == 1 and x_w == channels and pitch == channels:
            for v in range(height):
                copy_run(moved(out, v * line), moved(source, v * x_h), 1, 0, width * channels, width * channels)
        elif x_c == 1 and channels <= 4 * lanes:
            for v in range(height):
                copy_rows(moved(out, v * line), pitch, moved(source, v * x_h), x_w, width, 0, channels, channels)
        else:
            for v in range(height):
                for u in range(width):
                    pixel = moved(out, v * line + u * pitch)
                    copy_run(pixel, moved(source, v * x_h + u * x_w), x_c, 0, channels, channels)


@helper
def merge_channels(line, source, step, pixels, channels):
    """line[u * channels + c] = source[c * step + u] for u < pixels and c < channels, 1 to 4 of them."""
    lanes = lanes_of(line)
    for u in range(0, pixels, lanes):
        out, count = moved(line, u * channels), min(lanes, pixels - u)
        first = vector_load_first(source, u, count)
        if channels == 1:
            vector_store_first(out, 0, first, count)
            continue
        second = vector_load_first(source, step + u, count)
        if channels == 2:
            vector_store_merged(out, (first, second), 2 * count)
            continue
        third = vector_load_first(source, 2 * step + u, count)
        if channels == 3:
            vector_store_merged(out, (first, second, third), 3 * count)
        else:
            fourth = vector_load_first(source, 3 * step + u, count)
            vector_store_merged(out, (first, second, third, fourth), 4 * count)


@helper
def unpack_pixels(pixels, pitch, image, columns, y, y_n, y_c, y_h, y_w, images, height, width, channels, accumulate):
    """y[n, c, h, w] (+)= pixels[n * image + (h * columns + w) * pitch + c].

    For n < images, c < channels, h < height, w < width.
    """
    lanes = lanes_of(pixels)
    if y_n == 1 and y_c != 1 and images > 1 and not accumulate:
        for h in range(height):
            for w in range(width):
                out = moved(y, h * y_h + w * y_w)
                source = moved(pixels, (h * columns + w) * pitch)
                for c in range(0, channels, lanes):
                    for n in range(0, images, lanes):
                        transpose_block(
                            moved(out, c * y_c + n), y_c, moved(source, n * image + c), image,
                            min(lanes, images - n), min(lanes, channels - c),
                        )  # fmt: skip
        return
    if width == columns and y_h == columns * y_w:
        height, width = 1, height * width
    for n in range(images):
        for h in range(height):
            out = moved(y, n * y_n + h * y_h)
            source = moved(pixels, n * image + h * columns * pitch)
            if y_w == 1 and y_c != 1:
                for c in range(0, channels, lanes):  # outside: few pages are written at a time
                    if accumulate:  # by columns of one channel, which lie together in y
                        for i in range(c, min(c + lanes, channels)):
                            add_column(moved(out, i * y_c), moved(source, i), pitch, width)
                        continue
                    whole = WHOLE_BLOCKS and channels - c >= lanes and width >= lanes
                    for w in range(0, width, lanes):
                        if whole:
                            w = min(w, width - lanes)
                            block = moved(out, c * y_c + w)
                            transpose_whole(block, y_c, moved(source, w * pitch + c), pitch)
                            continue
                        transpose_block(
                            moved(out, c * y_c + w), y_c, moved(source, w * pitch + c), pitch, min(lanes, width - w),
                            min(lanes, channels - c),
                        )  # fmt: skip
            elif y_c == 1 and channels == lanes and not accumulate:
                for w in range(width):
                    vector_store(out, w * y_w, vector_load(source, w * pitch))
            elif y_c == 1 and y_w == channels and pitch == channels:
                write_run(out, 1, source, width * channels, accumulate)
            elif y_c == 1 and y_w == channels and not accumulate:
                # Whole vectors: what is too much belongs to the next pixels, which follow, but for the last ones.
                whole = (channels + lanes - 1) // lanes * lanes
                free = max(0, width - (whole - 1) // channels)
                for w in range(free):
                    for c in range(0, channels, lanes):
                        vector_store(out, w * y_w + c, vector_load(source, w * pitch + c))
                for w in range(free, width):
                    write_run(moved(out, w * y_w), 1, moved(source, w * pitch), channels, accumulate)
            elif y_c > y_w:  # every pixel of a stride: by channels, whose pixels lie closer
                for c in range(channels):
                    write_column(moved(out, c * y_c), y_w, moved(source, c), pitch, width, accumulate)
            else:
                for w in range(width):
                    write_run(moved(out, w * y_w), y_c, moved(source, w * pitch), channels, accumulate)


@helper
def write_column(destination, step, source, source_step, count, accumulate):
    """destination[i * step] (+)= source[i * source_step] for i < count."""
    for i in range(count):
        value = load(source, i * source_step)
        store(destination, i * step, load(destination, i * step) + value if accumulate else value)


@helper
def add_column(destination, source, step, count):
    """destination[i] += source[i * step] for i < count."""
    for i in range(count):
        store(destination, i, load(destination, i) + load(source, i * step))


@helper
def pack_output_grad(panels, dy, y_n, y_f, y_h, y_w, images, rows, columns, filters):
    """panels[(f // MR * images * rows * columns + (n * rows + oh) * columns + ow) * MR + f % MR] = dy[n, f, oh, ow].

    For f < filters, and 0 for filters <= f < filters rounded up to MR.
    """
    pixels = images * rows * columns
    if y_f == 1 and y_w != 1:  # all filters of a pixel, which lie together
        height, width = (1, rows * columns) if y_h == columns * y_w else (rows, columns)
        for v in range(images * height):
            n, h = divmod(v, height)
            for w in range(width):
                out, source = moved(panels, (v * width + w) * MR), moved(dy, n * y_n + h * y_h + w * y_w)
                for f in range(0, filters, MR):
                    copy_few(moved(out, f * pixels), moved(source, f), min(MR, filters - f), MR)
        return
    for f in range(0, filters, MR):
        panel, source = moved(panels, f * pixels), moved(dy, f * y_f)
        turn_output_grad(panel, source, y_n, y_f, y_h, y_w, images, rows, columns, min(MR, filters - f))


@helper
def turn_output_grad(panel, dy, y_n, y_f, y_h, y_w, images, rows, columns, filters):
    """panel[((n * rows + oh) * columns + ow) * MR + f] = dy[n, f, oh, ow] for f < filters <= MR, and 0 for f < MR."""
    lanes = lanes_of(panel)
    plane = rows * columns
    if y_n == 1 and images > 1:  # images lie side by side, and are turned against filters
        for h in range(rows):
            for w in range(columns):
                out = moved(panel, (h * columns + w) * MR)
                source = moved(dy, h * y_h + w * y_w)
                for n in range(0, images, lanes):
                    out_n = moved(out, n * plane * MR)
                    turn_rows(out_n, plane * MR, moved(source, n), y_f, filters, min(lanes, images - n))
        return
    height, width = (1, plane) if y_h == columns * y_w else (rows, columns)
    for n in range(images):
        for h in range(height):
            out = moved(panel, (n * plane + h * width) * MR)
            source = moved(dy, n * y_n + h * y_h)
            if y_w == 1:
                for w in range(0, width, lanes):
                    turn_rows(moved(out, w * MR), MR, moved(source, w), y_f, filters, min(lanes, width - w))
            else:
                for w in range(width):
                    pack_rows(moved(out, w * MR), filters, moved(source, w * y_w), y_f)
