"""Intrinsics: vectors and pointers, each with its scalar meaning; register tiles are in :mod:`.tiles`.

A pointer is typed and an offset counts elements; nothing is checked. `lanes` of a vector follow from the
element type and :mod:`.tiling`.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

from . import tiling

I64 = ir.IntType(64)
I32 = ir.IntType(32)


class Vector(types.Type):
    """`lanes` elements in one register."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.lanes = tiling.lanes(dtype.bitwidth // 8)
        super().__init__(name=f"Vector({dtype} x {self.lanes})")


def element(dtype):
    """LLVM's type of an element."""
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


def vector_of(vector):
    """LLVM's type of a vector."""
    return ir.VectorType(element(vector.dtype), vector.lanes)


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector is LLVM's vector."""

    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, vector_of(fe_type))


# -- code that emits LLVM ----------------------------------------------------------------------------


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

    Stage s exchanges, between rows i and i + s, the lanes whose bit s differs from the row's.
    """
    lanes = vector.lanes
    step = 1
    while step < lanes:
        turned = list(rows)
        for i in range(lanes):
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


# -- pointers and arguments --------------------------------------------------------------------------


@intrinsic
def pointer(typingctx, address, like):
    """The address as a pointer to elements of the type that the pointer `like` has."""

    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(like))

    return like(types.int64, like), generate


@intrinsic
def moved(typingctx, p, offset):
    """&p[offset]"""

    def generate(context, builder, signature, args):
        return builder.gep(args[0], [args[1]], source_etype=element(p.dtype))

    return p(p, types.int64), generate


@intrinsic(prefer_literal=True)
def unpacked(typingctx, p, count):
    """(p[0], ..., p[count - 1]) of int64."""
    result = types.UniTuple(types.int64, count.literal_value)

    def generate(context, builder, signature, args):
        values = [
            builder.load(builder.gep(args[0], [ir.Constant(I64, i)], source_etype=I64), typ=I64)
            for i in range(count.literal_value)
        ]
        return context.make_tuple(builder, result, values)

    return result(p, count), generate


@intrinsic
def claim(typingctx, p):
    """old = p[0]; p[0] += 1; return old, atomically: the next piece of work."""

    def generate(context, builder, signature, args):
        return builder.atomic_rmw("add", args[0], ir.Constant(I64, 1), "monotonic")

    return types.int64(p), generate


@intrinsic
def integers(typingctx, p):
    """The same memory as int64."""

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], I64.as_pointer())

    return types.CPointer(types.int64)(p), generate


@intrinsic
def load_integer(typingctx, p, offset):
    """p[offset] of int64"""

    def generate(context, builder, signature, args):
        return builder.load(builder.gep(args[0], [args[1]], source_etype=I64), typ=I64)

    return types.int64(p, types.int64), generate


@intrinsic
def store_integer(typingctx, p, offset, value):
    """p[offset] = value of int64"""

    def generate(context, builder, signature, args):
        builder.store(args[2], builder.gep(args[0], [args[1]], source_etype=I64))
        return context.get_dummy_value()

    return types.void(p, types.int64, types.int64), generate


# -- scalars -----------------------------------------------------------------------------------------


@intrinsic
def load(typingctx, p, offset):
    """p[offset]"""

    def generate(context, builder, signature, args):
        kind = element(p.dtype)
        return builder.load(builder.gep(args[0], [args[1]], source_etype=kind), typ=kind)

    return p.dtype(p, types.int64), generate


@intrinsic
def store(typingctx, p, offset, value):
    """p[offset] = value"""

    def generate(context, builder, signature, args):
        builder.store(args[2], builder.gep(args[0], [args[1]], source_etype=element(p.dtype)))
        return context.get_dummy_value()

    return types.void(p, types.int64, p.dtype), generate


@intrinsic
def zero_of(typingctx, p):
    """0 of the type that p points to."""
    return p.dtype(p), lambda context, builder, signature, args: ir.Constant(element(p.dtype), 0.0)


# -- vectors -----------------------------------------------------------------------------------------


@intrinsic
def lanes_of(typingctx, p):
    """Lanes of a vector of the elements that p points to."""
    lanes = Vector(p.dtype).lanes
    return types.int64(p), lambda context, builder, signature, args: ir.Constant(I64, lanes)


@intrinsic
def vector_zero(typingctx, p):
    """v[i] = 0"""
    vector = Vector(p.dtype)
    return vector(p), lambda context, builder, signature, args: ir.Constant(vector_of(vector), None)


@intrinsic
def vector_load(typingctx, p, offset):
    """v[i] = p[offset + i]"""
    vector = Vector(p.dtype)
    return vector(p, types.int64), lambda context, builder, signature, args: emit_load(builder, *args, vector)


@intrinsic
def vector_load_first(typingctx, p, offset, count):
    """v[i] = p[offset + i] if i < count else 0; reads no more"""
    vector = Vector(p.dtype)

    def generate(context, builder, signature, args):
        mask = emit_mask(builder, args[2], vector.lanes)
        return emit_masked_load(builder, args[0], args[1], mask, vector)

    return vector(p, types.int64, types.int64), generate


@intrinsic
def vector_load_between(typingctx, p, offset, first, last):
    """v[i] = p[offset + i] if first <= i < last else 0; reads no more"""
    vector = Vector(p.dtype)

    def generate(context, builder, signature, args):
        mask = emit_mask_between(builder, args[2], args[3], vector.lanes)
        return emit_masked_load(builder, args[0], args[1], mask, vector)

    return vector(p, types.int64, types.int64, types.int64), generate


@intrinsic
def vector_store(typingctx, p, offset, v):
    """p[offset + i] = v[i]"""

    def generate(context, builder, signature, args):
        emit_store(builder, args[2], args[0], args[1], v)
        return context.get_dummy_value()

    return types.void(p, types.int64, v), generate


@intrinsic
def vector_store_first(typingctx, p, offset, v, count):
    """p[offset + i] = v[i] for i < count; writes no more"""

    def generate(context, builder, signature, args):
        mask = emit_mask(builder, args[3], v.lanes)
        emit_masked_store(builder, args[2], args[0], args[1], mask, v)
        return context.get_dummy_value()

    return types.void(p, types.int64, v, types.int64), generate


@intrinsic
def vector_fill(typingctx, p, value):
    """v[i] = value"""
    vector = Vector(p.dtype)

    def generate(context, builder, signature, args):
        return emit_broadcast(builder, args[1], vector)

    return vector(p, p.dtype), generate


@intrinsic
def vector_add(typingctx, a, b):
    """v[i] = a[i] + b[i]"""
    return a(a, a), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def vector_multiply_add(typingctx, a, b, c):
    """v[i] = a[i] * b[i] + c[i]"""
    return a(a, a, a), lambda context, builder, signature, args: emit_multiply_add(builder, *args, a)


@intrinsic(prefer_literal=True)
def vector_load_every(typingctx, p, offset, step, first, last):
    """v[i] = p[offset + i * step] if first <= i < last else 0, for a step of 2, 3 or 4; reads no more than these and
    what lies between them
    """
    vector, literal = Vector(p.dtype), step
    step = literal.literal_value

    def generate(context, builder, signature, args):
        lanes = vector.lanes
        first, last = args[3], args[4]
        times = ir.Constant(I64, step)
        start = builder.mul(first, times)
        end = builder.add(builder.mul(builder.sub(last, ir.Constant(I64, 1)), times), ir.Constant(I64, 1))
        parts = []
        for part in range(step):
            here = ir.Constant(I64, part * lanes)
            mask = emit_mask_between(builder, builder.sub(start, here), builder.sub(end, here), lanes)
            parts.append(emit_masked_load(builder, args[0], builder.add(args[1], here), mask, vector))
        # Every part adds the lanes whose element it has.
        value = parts[0]
        for part in range(1, step):
            picks = []
            for lane in range(lanes):
                place = lane * step - part * lanes
                known = lane * step if part == 1 else lane
                picks.append(lanes + place if 0 <= place < lanes else known if place < 0 else 0)
            value = builder.shuffle_vector(value, parts[part], ir.Constant(ir.VectorType(I32, lanes), picks))
        return value

    return vector(p, types.int64, literal, types.int64, types.int64), generate


@intrinsic
def vector_sum(typingctx, a):
    """Sum over i of a[i], by halves: i + lanes / 2, i + lanes / 4, ..."""

    def generate(context, builder, signature, args):
        value, width = args[0], a.lanes
        while width > 1:
            width //= 2
            kind = ir.VectorType(I32, width)
            halves = [
                builder.shuffle_vector(value, value, ir.Constant(kind, list(range(start, start + width))))
                for start in (0, width)
            ]
            value = builder.fadd(*halves)
        return builder.extract_element(value, ir.Constant(I32, 0))

    return a.dtype(a), generate


@intrinsic
def transpose_block(typingctx, destination, destination_pitch, source, source_pitch, rows, columns):
    """destination[j * destination_pitch + i] = source[i * source_pitch + j], i < rows, j < columns.

    Requires 1 <= rows, columns <= lanes; reads and writes no more.
    """
    kinds = (destination, types.int64, source, types.int64, types.int64, types.int64)
    return types.void(*kinds), emit_transposed_copy(Vector(destination.dtype), 1)


@intrinsic
def transpose_every_second(typingctx, destination, destination_pitch, source, source_pitch, rows, columns):
    """destination[j * destination_pitch + i] = source[i * source_pitch + 2 * j], i < rows, 2 * j < columns.

    Requires 1 <= rows, columns <= lanes; reads of a row `columns` elements and writes no more.
    """
    kinds = (destination, types.int64, source, types.int64, types.int64, types.int64)
    return types.void(*kinds), emit_transposed_copy(Vector(destination.dtype), 2)


def emit_transposed_copy(vector, step):
    """The generator of a copy that turns a block of which every `step`-th column counts."""

    def generate(context, builder, signature, args):
        dst, dst_pitch, src, src_pitch, n_rows, n_columns = args

        def clamped(i, limit):
            """min(i, limit - 1)"""
            last = builder.sub(limit, ir.Constant(I64, 1))
            index = ir.Constant(I64, i)
            return builder.select(builder.icmp_signed("<", index, last), index, last)

        # One mask for all loads and one for all stores: beyond the last row the last one is read again,
        # and columns are stored from the end, so that what is written beyond the last column's place
        # is written over by that column.
        mask = emit_mask(builder, n_columns, vector.lanes)
        loaded = []
        for i in range(vector.lanes):
            offset = builder.mul(src_pitch, clamped(i, n_rows))
            loaded.append(emit_masked_load(builder, src, offset, mask, vector))
        mask = emit_mask(builder, n_rows, vector.lanes)
        turned = emit_transpose(builder, loaded, vector)
        for j in range((vector.lanes - 1) // step * step, -1, -step):
            place = builder.sdiv(clamped(j, n_columns), ir.Constant(I64, step))
            emit_masked_store(builder, turned[j], dst, builder.mul(dst_pitch, place), mask, vector)
        return context.get_dummy_value()

    return generate
