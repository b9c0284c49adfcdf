"""Intrinsics: vectors and pointers, each with its scalar meaning; register tiles are in :mod:`.tiles`.

A pointer is typed and an offset counts elements; nothing is checked. `lanes` of a vector follow from the
element type and :mod:`.tiling`.
"""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .emit import (
    I32,
    I64,
    Vector,
    element,
    emit_broadcast,
    emit_load,
    emit_mask,
    emit_mask_between,
    emit_masked_load,
    emit_multiply_add,
    emit_prefetch,
    emit_store,
    emit_store_first,
    vector_of,
)

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


@intrinsic
def prefetch(typingctx, p, offset):
    """Bring the cache line of p[offset] nearer, wherever it is: nothing is read."""

    def generate(context, builder, signature, args):
        emit_prefetch(builder, args[0], args[1], p.dtype, to_write=False)
        return context.get_dummy_value()

    return types.void(p, types.int64), generate


@intrinsic
def fence(typingctx):
    """What was stored before, around the caches too, is there for all threads before what is stored after it."""

    def generate(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


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


@intrinsic(prefer_literal=True)
def vector_turned(typingctx, v, group, by):
    """u[i] = v[i // group * group + (i + by) % group], for a group that lanes are a multiple of"""

    def generate(context, builder, signature, args):
        size, step = group.literal_value, by.literal_value
        picks = [i // size * size + (i + step) % size for i in range(v.lanes)]
        return builder.shuffle_vector(args[0], args[0], ir.Constant(ir.VectorType(I32, v.lanes), picks))

    return v(v, group, by), generate


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
        emit_store_first(builder, args[2], args[0], args[1], args[3], v)
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
def vector_load_split(typingctx, p, step, first, last):
    """(v0, v1, ...), v_r[i] = p[j] if first <= j < last else 0, where j = i * step + r; for a step of 2 to 4"""
    vector, literal = Vector(p.dtype), step
    step = literal.literal_value
    result = types.UniTuple(vector, step)

    def generate(context, builder, signature, args):
        lanes = vector.lanes
        first, last = args[2], args[3]
        parts = []
        for part in range(step):
            here = ir.Constant(I64, part * lanes)
            mask = emit_mask_between(builder, builder.sub(first, here), builder.sub(last, here), lanes)
            parts.append(emit_masked_load(builder, args[0], here, mask, vector))
        values = []
        for remainder in range(step):
            # Every part adds the lanes whose element it has.
            value = parts[0]
            for part in range(1, step):
                picks = []
                for lane in range(lanes):
                    place = lane * step + remainder - part * lanes
                    known = lane * step + remainder if part == 1 else lane
                    picks.append(lanes + place if 0 <= place < lanes else known if place < 0 else 0)
                value = builder.shuffle_vector(value, parts[part], ir.Constant(ir.VectorType(I32, lanes), picks))
            values.append(value)
        return context.make_tuple(builder, result, values)

    return result(p, literal, types.int64, types.int64), generate


@intrinsic
def vector_store_merged(typingctx, p, values, count):
    """p[j] = v_r[i], j = i * step + r, for j < count, `values` being (v_0, v_1, ...), `step` of them; writes no more"""
    vector, step = values.dtype, values.count

    def generate(context, builder, signature, args):
        lanes = vector.lanes
        parts = [builder.extract_value(args[1], r) for r in range(step)]
        for k in range(step):
            # Every part adds the lanes that are its own.
            merged = parts[0]
            for r in range(1, step):
                picks = []
                for lane in range(lanes):
                    i, own = divmod(k * lanes + lane, step)
                    known = i if r == 1 else lane
                    picks.append(lanes + i if own == r else known)
                merged = builder.shuffle_vector(merged, parts[r], ir.Constant(ir.VectorType(I32, lanes), picks))
            here = ir.Constant(I64, k * lanes)
            emit_store_first(builder, merged, args[0], here, builder.sub(args[2], here), vector)
        return context.get_dummy_value()

    return types.void(p, values, types.int64), generate


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
