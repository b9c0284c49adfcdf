"""Vectors, and the code that emits LLVM's operations on them: what the intrinsics of :mod:`.simd` and :mod:`.tiles` are
made of. Offsets count elements; nothing is checked.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import models, register_model

from . import tiling

I64 = ir.IntType(64)
I32 = ir.IntType(32)


class Vector(types.Type):
    """`lanes` elements in one register, all that it has room for unless told."""

    def __init__(self, dtype, lanes=None):
        self.dtype = dtype
        self.lanes = lanes or tiling.lanes(dtype.bitwidth // 8)
        super().__init__(name=f"Vector({dtype} x {self.lanes})")


def element(dtype):
    """LLVM's type of an element."""
    return {types.float32: ir.FloatType(), types.float64: ir.DoubleType(), types.int64: I64}[dtype]


def vector_of(vector):
    """LLVM's type of a vector."""
    return ir.VectorType(element(vector.dtype), vector.lanes)


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector is LLVM's vector."""

    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, vector_of(fe_type))


def hidden(builder, value, step):
    """`value`, of which LLVM does not know how it came from `step`, unless it finds that to be constant."""
    test = builder.module.declare_intrinsic("llvm.is.constant", [I64], ir.FunctionType(ir.IntType(1), [I64]))
    opaque = builder.asm(ir.FunctionType(value.type, [value.type]), "", "=r,0", [value], False)
    return builder.select(builder.call(test, [step]), value, opaque)


def at(builder, pointer, offset, vector):
    """The address of element `offset`, as a pointer to a vector."""
    address = builder.gep(pointer, [offset], source_etype=element(vector.dtype))
    return builder.bitcast(address, vector_of(vector).as_pointer())


def item_bytes(vector):
    return vector.dtype.bitwidth // 8


def emit_load(builder, pointer, offset, vector):
    address = at(builder, pointer, offset, vector)
    return builder.load(address, typ=vector_of(vector), align=item_bytes(vector))


def emit_store(builder, value, pointer, offset, vector):
    builder.store(value, at(builder, pointer, offset, vector), align=item_bytes(vector))


def emit_store_around(builder, value, pointer, offset, vector):
    """The same around the caches, which do not read the line before. A whole vector's address."""
    item = builder.store(value, at(builder, pointer, offset, vector), align=tiling.VECTOR_BYTES)
    item.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(I32, 1)]))


def emit_prefetch(builder, pointer, offset, dtype, to_write):
    """Ask for the cache line of an element, to be written to or read."""
    address = builder.gep(pointer, [offset], source_etype=element(dtype))
    signature = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    builder.call(function, [address, *(ir.Constant(I32, flag) for flag in (int(to_write), 3, 1))])  # all levels, data


def emit_broadcast(builder, scalar, vector):
    undefined = ir.Constant(vector_of(vector), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, vector.lanes), [0] * vector.lanes)
    return builder.shuffle_vector(first, undefined, zeros)


def emit_multiply_add(builder, a, b, c, vector):
    """a * b + c, rounded once where the host can."""
    if not tiling.FMA:
        return builder.fadd(builder.fmul(a, b), c)
    kind = vector_of(vector)
    name = f"llvm.fma.v{vector.lanes}f{vector.dtype.bitwidth}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(function, [a, b, c])


def emit_mask(builder, count, lanes):
    """lane < count for every lane."""
    kind = ir.VectorType(I32, lanes)
    # Clamped in 64 bits first: a count of 2**32 would be 0 in 32.
    full = ir.Constant(I64, lanes)
    clamped = builder.select(builder.icmp_signed("<", count, full), count, full)
    narrow = builder.trunc(clamped, I32)
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, narrow, ir.Constant(I32, 0))
    counts = builder.shuffle_vector(first, undefined, ir.Constant(kind, [0] * lanes))
    return builder.icmp_signed("<", ir.Constant(kind, list(range(lanes))), counts)


def emit_mask_between(builder, first, last, lanes):
    """first <= lane < last for every lane."""
    zero = ir.Constant(I64, 0)
    start = builder.select(builder.icmp_signed(">", first, zero), first, zero)
    end = builder.select(builder.icmp_signed(">", last, zero), last, zero)
    before = emit_mask(builder, start, lanes)
    return builder.and_(emit_mask(builder, end, lanes), builder.not_(before))


def emit_masked_load(builder, pointer, offset, mask, vector):
    kind = vector_of(vector)
    mask_kind = ir.VectorType(ir.IntType(1), vector.lanes)
    address = at(builder, pointer, offset, vector)
    name = f"llvm.masked.load.v{vector.lanes}f{vector.dtype.bitwidth}.p0"
    signature = ir.FunctionType(kind, [kind.as_pointer(), I32, mask_kind, kind])
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    align = ir.Constant(I32, item_bytes(vector))
    return builder.call(function, [address, align, mask, ir.Constant(kind, None)])


def emit_store_first(builder, value, pointer, offset, count, vector):
    """pointer[offset + i] = value[i] for i < count, and nothing else."""
    if tiling.MASKS_ARE_FREE:
        emit_masked_store(builder, value, pointer, offset, emit_mask(builder, count, vector.lanes), vector)
        return
    # All, or a half, a quarter, ... of them as the bits of the count say.
    with builder.if_else(builder.icmp_signed(">=", count, ir.Constant(I64, vector.lanes))) as (whole, part):
        with whole:
            emit_store(builder, value, pointer, offset, vector)
        with part, builder.if_then(builder.icmp_signed(">", count, ir.Constant(I64, 0))):
            width = vector.lanes // 2
            while width > 0:
                low, high = (
                    builder.shuffle_vector(
                        value, value, ir.Constant(ir.VectorType(I32, width), list(range(first, first + width)))
                    )
                    for first in (0, width)
                )
                stored = builder.and_(count, ir.Constant(I64, width))
                taken = builder.icmp_signed("!=", stored, ir.Constant(I64, 0))
                with builder.if_then(taken):
                    address = builder.gep(pointer, [offset], source_etype=element(vector.dtype))
                    address = builder.bitcast(address, low.type.as_pointer())
                    builder.store(low, address, align=item_bytes(vector))
                value, offset = builder.select(taken, high, low), builder.add(offset, stored)
                width //= 2


def emit_masked_store(builder, value, pointer, offset, mask, vector):
    kind = vector_of(vector)
    mask_kind = ir.VectorType(ir.IntType(1), vector.lanes)
    address = at(builder, pointer, offset, vector)
    name = f"llvm.masked.store.v{vector.lanes}f{vector.dtype.bitwidth}.p0"
    signature = ir.FunctionType(ir.VoidType(), [kind, kind.as_pointer(), I32, mask_kind])
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    builder.call(function, [value, address, ir.Constant(I32, item_bytes(vector)), mask])


def emit_transpose(builder, rows, vector):
    """Turn `lanes` vectors by the diagonal: one butterfly of shuffles for each bit of the index.

    Stage s exchanges, between rows i and i + s, the lanes whose bit s differs from the row's. Fewer rows, a power of
    two, turn blocks of as many columns: vector j then has columns j, j + rows, ..., one after the other.
    """
    lanes = vector.lanes
    step = 1
    while step < len(rows):
        turned = list(rows)
        for i in range(len(rows)):
            if i & step:
                continue
            low = [lane if not lane & step else lanes + lane - step for lane in range(lanes)]
            high = [lane + step if not lane & step else lanes + lane for lane in range(lanes)]
            for j, picks in ((i, low), (i + step, high)):
                constant = ir.Constant(ir.VectorType(I32, lanes), picks)
                turned[j] = builder.shuffle_vector(rows[i], rows[i + step], constant)
        rows = turned
        step *= 2
    return rows


def emit_sums(builder, rows, vector):
    """The vector of the sums of each row's lanes: neighbours first, and what a row has left next to what others have.

    Its width is the number of rows.
    """

    def pairs(x, y, width):
        """The sums of neighbouring lanes of x, and of y behind them."""
        picks = [ir.Constant(ir.VectorType(I32, width), list(range(odd, 2 * width, 2))) for odd in (0, 1)]
        return builder.fadd(*(builder.shuffle_vector(x, y, pick) for pick in picks))

    count, lanes = len(rows), vector.lanes
    left, share = list(rows), lanes  # lanes that are one row's
    while share > 1 and len(left) > 1:
        left.append(left[-1])
        left = [pairs(left[i], left[i + 1], lanes) for i in range(0, len(left) - 1, 2)]
        share //= 2
    width = lanes
    while share > 1:
        width, share = width // 2, share // 2
        left = [pairs(left[0], left[0], width)]
    while len(left) > 1:  # vectors that are whole: one behind the other
        left.append(left[-1])
        width *= 2
        order = ir.Constant(ir.VectorType(I32, width), list(range(width)))
        left = [builder.shuffle_vector(left[i], left[i + 1], order) for i in range(0, len(left) - 1, 2)]
    order = ir.Constant(ir.VectorType(I32, count), list(range(count)))
    return builder.shuffle_vector(left[0], left[0], order)


def lines_of(builder, start, pitch, count, vector):
    """Pointers to start[i * pitch] for i < count, of which every fourth is hidden from LLVM.

    The others are two multiples of the pitch away from one; else each multiple is computed, kept and loaded again.
    """

    def ahead(line, steps):
        offset = builder.mul(pitch, ir.Constant(I64, steps))
        return builder.gep(line, [offset], source_etype=element(vector.dtype))

    lines, base = [], start
    for i in range(count):
        if i % 4 == 0:
            base = hidden(builder, ahead(base, min(i, 4)), pitch)
        lines.append(ahead(base, i % 4))
    return lines


def emit_transposed(builder, load_row, vector):
    """The first lanes / 2 columns of `lanes` rows, a vector each; `load_row(i)` is half a vector, as much of row i.

    Two rows are one vector: half of the shuffles that all columns would take, less those that cross the halves.
    """
    half = vector.lanes // 2
    order = ir.Constant(ir.VectorType(I32, vector.lanes), list(range(vector.lanes)))
    pairs = [builder.shuffle_vector(load_row(i), load_row(half + i), order) for i in range(half)]
    return emit_transpose(builder, pairs, vector)


def emit_transposed_copy(vector, step, whole):
    """The generator of a copy that turns half a block, of every column or every second one; `whole`: of all rows."""
    half = Vector(vector.dtype, vector.lanes // 2)
    seen = half if step == 1 else vector
    zero, kept = ir.Constant(I64, 0), ir.Constant(ir.VectorType(I32, half.lanes), [j * step for j in range(half.lanes)])

    def generate(context, builder, signature, args):
        dst, dst_pitch, src, src_pitch, n_rows, n_columns, *_ = args
        if whole:
            lines = lines_of(builder, src, src_pitch, vector.lanes, vector)
        else:  # beyond the last row it is read again
            lines = [src]
            for i in range(1, vector.lanes):
                more = builder.icmp_signed("<", ir.Constant(I64, i), n_rows)
                pitch = builder.select(more, src_pitch, zero)
                lines.append(builder.gep(lines[-1], [pitch], source_etype=element(vector.dtype)))
        mask = emit_mask(builder, n_columns, seen.lanes)

        def load_row(i):
            row = emit_masked_load(builder, lines[i], zero, mask, seen)
            return row if step == 1 else builder.shuffle_vector(row, row, kept)

        turned = emit_transposed(builder, load_row, vector)
        columns = lines_of(builder, dst, dst_pitch, half.lanes, vector)
        end = builder.append_basic_block("turned")
        for j in range(half.lanes):
            if whole:
                emit_store(builder, turned[j], columns[j], zero, vector)
            else:
                emit_store_first(builder, turned[j], columns[j], zero, n_rows, vector)
            if j + 1 < half.lanes:
                more = builder.append_basic_block("column")
                builder.cbranch(builder.icmp_signed("<", ir.Constant(I64, (j + 1) * step), n_columns), more, end)
                builder.position_at_end(more)
        builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return generate


def emit_transposed_block(builder, dst, place_of, src, src_pitch, vector):
    """Turn a whole block: column j to dst[place_of(j)], asked for in order."""
    half = Vector(vector.dtype, vector.lanes // 2)

    def load_row(i, first):
        offset = builder.add(builder.mul(src_pitch, ir.Constant(I64, i)), ir.Constant(I64, first))
        return emit_load(builder, src, offset, half)

    turned = [
        column
        for first in (0, half.lanes)
        for column in emit_transposed(builder, lambda i, first=first: load_row(i, first), vector)
    ]
    for j, value in enumerate(turned):
        emit_store(builder, value, dst, place_of(ir.Constant(I64, j)), vector)


def across_rows(builder, pitch, left, width, gap):
    """The place of a column each time it is called: `pitch` apart, and a gap after `left` and each `width` of them."""
    state = [ir.Constant(I64, 0), left]

    def place_of(j):
        place, left = state
        left = builder.sub(left, ir.Constant(I64, 1))
        ends = builder.icmp_signed("==", left, ir.Constant(I64, 0))
        further = builder.add(builder.add(place, pitch), builder.select(ends, gap, ir.Constant(I64, 0)))
        state[:] = further, builder.select(ends, width, left)
        return place

    return place_of


def listed_places(builder, places, index):
    """The place of column j: places[2 * j] + index * places[2 * j + 1]."""

    def place_of(j):
        pair = builder.gep(places, [builder.mul(j, ir.Constant(I64, 2))], source_etype=I64)
        scale = builder.load(builder.gep(pair, [ir.Constant(I64, 1)], source_etype=I64), typ=I64)
        return builder.add(builder.load(pair, typ=I64), builder.mul(index, scale))

    return place_of


def emit_turned_rows(builder, dst, place_of, src, src_pitch, n_rows, n_columns, MR, vector):
    """dst[place_of(j) + r] = src[r * src_pitch + j] if r < n_rows else 0, for r < MR and j < n_columns."""
    lanes, kind = vector.lanes, element(vector.dtype)
    at_once = 1  # rows turned together
    while at_once < min(MR, lanes):
        at_once *= 2
    last = builder.sub(n_columns, ir.Constant(I64, 1))
    for first in range(0, MR, at_once):
        count = min(at_once, MR - first)
        loaded = []
        for r in range(first, first + count):
            row = ir.Constant(I64, r)
            here = builder.select(builder.icmp_signed("<", row, n_rows), n_columns, ir.Constant(I64, 0))
            mask = emit_mask(builder, here, lanes)
            loaded.append(emit_masked_load(builder, src, builder.mul(src_pitch, row), mask, vector))
        loaded += [ir.Constant(vector_of(vector), None)] * (at_once - count)
        turned = emit_transpose(builder, loaded, vector)
        # From the last column that there is: a jump into the stores of all.
        blocks = [builder.append_basic_block(f"column_{j}") for j in range(lanes)]
        done = builder.append_basic_block("turned")
        jump = builder.switch(last, blocks[-1])
        for j in range(lanes - 1):
            jump.add_case(ir.Constant(I64, j), blocks[j])
        for j in range(lanes - 1, -1, -1):
            builder.position_at_end(blocks[j])
            start = j // at_once * at_once
            picks = ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))
            column = builder.shuffle_vector(turned[j % at_once], turned[j % at_once], picks)
            place = place_of(ir.Constant(I64, j))
            address = builder.gep(dst, [builder.add(place, ir.Constant(I64, first))], source_etype=kind)
            address = builder.bitcast(address, column.type.as_pointer())
            builder.store(column, address, align=item_bytes(vector))
            builder.branch(blocks[j - 1] if j > 0 else done)
        builder.position_at_end(done)
