"""Input gradient of a depthwise convolution at a stride: dx[c, h, w] = sum over taps of dy[c, what reads it] * weight.

At stride 1 it is the forward pass over dy with the turned kernel. Blocks of rows of dy are packed as x is in
:mod:`.depthwise`, with zeros on both sides, and a vector runs over channels. Pieces write different dx: the same bits
for any number of threads.
"""

from .depthwise import SHAPE_COUNT, place_of_piece, row_of_sums, weight_of, writes_in_place
from .depthwise_taps import list_rows, pack_taps, place_elements, sum_columns
from .launch import NestKernel
from .pixels import pack_pixels, unpack_pixels
from .rows import clear
from .simd import integers, lanes_of, load_integer, moved, pointer, unpacked
from .work import claim


@NestKernel
def depthwise_input_grad(scratch, arguments, worker):
    """x is dx and y is dy here. Pieces: image, block of channels, block of `rows` rows of dx.

    Row h of dx gets products from the rows of dy whose taps read it, the columns w, w + stride, ... of a row
    from the same taps.
    """
    (
        _, x_address, x_n, x_c, x_h, x_w, y_address, y_n, y_c, y_h, y_w, weight_address, w_c, w_kh, w_kw,
        N, C, H, W, OH, OW, KH, KW, stride_h, stride_w, dilation_h, dilation_w, top, left,
        _, _, _, _, _, rows, together, strip_size, _, _, _, _, by_3, alike, accumulate, scratch_size,
    ) = unpacked(arguments, SHAPE_COUNT)  # fmt: skip
    dx, dy, weight = (
        pointer(x_address, scratch),
        pointer(y_address, scratch),
        pointer(weight_address, scratch),
    )
    lanes = lanes_of(scratch)
    places = integers(moved(scratch, worker * scratch_size))
    turns = min(stride_w, W)
    rows_of_places = moved(places, rows * (2 * KH * KW + 3 * turns))
    taps = moved(scratch, worker * scratch_size + place_elements(rows * (KH * KW + 2 * turns + 1), lanes))
    strip = moved(taps, (KH * KW + 1) * together)
    # As in the forward pass; and behind the taps of a vector are the zeros that its sums start from.
    clear(taps, (KH * KW + 1) * together + strip_size)
    sums = moved(strip, strip_size)
    c_blocks, row_blocks = (C + together - 1) // together, (H + rows - 1) // rows
    reach = (KW - 1) * dilation_w // stride_w + 1  # columns of zeros on both sides of a row of dy
    before = max(0, reach - left // stride_w)
    after = (W + left) // stride_w + 1
    columns = before + max(OW, after)
    listed = -1
    while True:
        piece = claim(arguments, worker)
        if piece >= N * c_blocks * row_blocks:
            return 0
        n, c_block, row_block = place_of_piece(piece, N, c_blocks, row_blocks, alike)
        c, top_row = c_block * together, row_block * rows
        channels, height = min(together, C - c), min(rows, H - top_row)
        low = max(0, -((-(top_row + top - (KH - 1) * dilation_h)) // stride_h))
        high = min(OH, (top_row + height - 1 + top) // stride_h + 1)
        pack_pixels(
            strip, together, moved(dy, n * y_n + c * y_c), y_n, y_c, y_h, y_w, OH, OW, 1, max(0, high - low), columns,
            channels, low, -before,
        )  # fmt: skip
        out = moved(dx, n * x_n + c * x_c + top_row * x_h)
        direct = writes_in_place(x_c, channels, lanes, W // stride_w, accumulate)
        target, row, pixel = (out, x_h, x_w) if direct else (sums, sum_columns(W, stride_w) * together, together)
        for first in range(0, channels, lanes):
            vectors, here = moved(taps, first * (KH * KW + 1)), min(lanes, channels - first)
            own = weight_of(n, C, c + first, alike)
            pack_taps(vectors, moved(weight, own * w_c), 0 if alike else w_c, w_kh, w_kw, KH, KW, here)
        if top_row != listed:
            listed = top_row
            list_rows(
                rows_of_places, places, top_row + top, height, KH, KW, stride_h, dilation_h, OH, low, columns, lanes,
                together, turns, left, reach, stride_w, dilation_w, before,
            )  # fmt: skip
        for h in range(height):
            lists = moved(places, load_integer(rows_of_places, 2 * h))
            line = moved(strip, load_integer(rows_of_places, 2 * h + 1) * columns * together)
            for w in range(turns):
                about = moved(lists, 2 * KH * KW + 3 * w)
                first_tap, tap_count, u = load_integer(about, 0), load_integer(about, 1), load_integer(about, 2)
                for first in range(0, channels, lanes):
                    row_of_sums(
                        moved(target, h * row + w * pixel + first), stride_w * pixel,
                        (W - w + stride_w - 1) // stride_w, moved(line, u * together + first), together,
                        moved(taps, first * (KH * KW + 1)), moved(lists, 2 * first_tap), tap_count, by_3,
                        moved(taps, first * (KH * KW + 1) + KH * KW * lanes),
                    )  # fmt: skip
        if not direct:
            unpack_pixels(
                sums, together, 0, sum_columns(W, stride_w), out, 0, x_c, x_h, x_w, 1, height, W, channels, accumulate
            )
