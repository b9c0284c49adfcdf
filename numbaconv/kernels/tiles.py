"""Register tiles, each operation with its scalar meaning: t[r, v] is vector v of row r.

A tile is an LLVM array of vectors, rows x vectors, which LLVM keeps in registers through an ordinary loop.
"""

from functools import partial

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, register_model

from .emit import (
    I64,
    Vector,
    element,
    emit_broadcast,
    emit_load,
    emit_mask,
    emit_masked_load,
    emit_multiply_add,
    emit_prefetch,
    emit_store,
    emit_store_around,
    emit_sums,
    hidden,
    vector_of,
)

# On top of what becomes of a tile: it is stored around the caches, or its place is asked for before the products, where
# no cache has it: dw of 512>2048@7 1x1 takes 6% less time.
AROUND, ASKED = 4, 8


class Tile(types.Type):
    """rows x vectors vectors in registers."""

    def __init__(self, dtype, rows, vectors):
        self.vector = Vector(dtype)
        self.rows, self.vectors = rows, vectors
        super().__init__(name=f"Tile({dtype}, {rows} x {vectors} x {self.vector.lanes})")


@register_model(Tile)
class TileModel(models.PrimitiveModel):
    """A tile is an LLVM array of vectors, which SROA splits into registers."""

    def __init__(self, dmm, fe_type):
        array = ir.ArrayType(vector_of(fe_type.vector), fe_type.rows * fe_type.vectors)
        super().__init__(dmm, fe_type, array)


@intrinsic(prefer_literal=True)
def tile_zero(typingctx, p, rows, vectors):
    """t[r, i] = 0 for r < rows, i < vectors * lanes"""
    tile = Tile(p.dtype, rows.literal_value, vectors.literal_value)

    def generate(context, builder, signature, args):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(p, rows, vectors), generate


# Where rows begin is their distance, or a list of int64: rows[r] for row r.
LIST = types.CPointer(types.int64)


def type_of_rows(rows):
    """What an intrinsic takes rows as."""
    return LIST if rows == LIST else types.int64


@intrinsic(prefer_literal=True)
def tile_load(typingctx, c, c_rows, vector_pitch, rows, vectors):
    """t[r, v] = the vector at v * vector_pitch of row r of c"""
    tile = Tile(c.dtype, rows.literal_value, vectors.literal_value)

    def generate(context, builder, signature, args):
        value = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for i, offset in tile_offsets(builder, tile, args[1], args[2]):
            loaded = emit_load(builder, args[0], offset, tile.vector)
            value = builder.insert_value(value, loaded, i)
        return value

    return tile(c, type_of_rows(c_rows), types.int64, rows, vectors), generate


def tile_offsets(builder, tile, c_rows, vector_pitch):
    """Index of each vector of a tile, and its offset in memory."""
    for r in range(tile.rows):
        row = emit_row(builder, c_rows, r)
        for v in range(tile.vectors):
            yield r * tile.vectors + v, builder.add(row, builder.mul(vector_pitch, ir.Constant(I64, v)))


def emit_row(builder, rows, r):
    """Where row r begins."""
    if isinstance(rows.type, ir.PointerType):
        return builder.load(builder.gep(rows, [ir.Constant(I64, r)], source_etype=I64), typ=I64)
    return builder.mul(rows, ir.Constant(I64, r))


@intrinsic(prefer_literal=True)
def first_rows(typingctx, rows, count):
    """Where the first rows begin, each in a register of its own through a loop: :func:`multiples`, or those listed."""
    kind, result = type_of_rows(rows), types.UniTuple(types.int64, count.literal_value)

    def generate(context, builder, signature, args):
        if kind == LIST:
            values = [emit_row(builder, args[0], r) for r in range(result.count)]
        else:
            values = emit_multiples(builder, args[0], result.count)
        return context.make_tuple(builder, result, values)

    return result(kind, count), generate


@intrinsic
def from_row(typingctx, p, rows, r):
    """(p, rows) without the rows before row r."""
    kind = type_of_rows(rows)
    result = types.Tuple((p, kind))

    def generate(context, builder, signature, args):
        pointer, rows, r = args
        if kind == LIST:
            rows = builder.gep(rows, [r], source_etype=I64)
        else:
            pointer = builder.gep(pointer, [builder.mul(r, rows)], source_etype=element(p.dtype))
        return context.make_tuple(builder, result, [pointer, rows])

    return result(p, kind, types.int64), generate


@intrinsic(prefer_literal=True)
def multiples(typingctx, pitch, count):
    """(0, pitch, ..., (count - 1) * pitch), each in a register of its own through a loop.

    What they have in common is hidden from LLVM, which would walk from one row to the next: each addition takes a slot
    of a multiply-add in the loop of a tile, up to 10% of its time, and a third where a tile is one vector wide. A pitch
    that LLVM finds to be constant becomes part of each instruction, at no cost.
    """
    result = types.UniTuple(types.int64, count.literal_value)

    def generate(context, builder, signature, args):
        return context.make_tuple(builder, result, emit_multiples(builder, args[0], result.count))

    return result(types.int64, count), generate


def emit_multiples(builder, pitch, count):
    """The values of :func:`multiples`."""
    products = [builder.mul(pitch, ir.Constant(I64, i)) for i in range(1, count)]
    return [ir.Constant(I64, 0), *(hidden(builder, product, pitch) for product in products)]


@intrinsic
def walked(typingctx, p, step):
    """p + step, which LLVM does not look into unless it knows the step.

    A loop that it unrolls would else have a register for each row and step of them, and more than there are.
    """

    def generate(context, builder, signature, args):
        return hidden(builder, builder.gep(args[0], [args[1]], source_etype=element(p.dtype)), args[1])

    return p(p, types.int64), generate


@intrinsic
def tile_multiply_add(typingctx, tile, a, rows, b, columns):
    """t[r, v] += a[rows[r]] * the vector at b[columns[v]], or at b[v * columns]"""

    def generate(context, builder, signature, args):
        value, left, left_places, right, right_places = args
        vector = tile.vector
        kind = element(vector.dtype)
        loaded = []
        for v in range(tile.vectors):
            if isinstance(columns, types.UniTuple):
                place = builder.extract_value(right_places, v)
            else:
                place = builder.mul(right_places, ir.Constant(I64, v))
            loaded.append(emit_load(builder, right, place, vector))
        for r in range(tile.rows):
            address = builder.gep(left, [builder.extract_value(left_places, r)], source_etype=kind)
            factor = emit_broadcast(builder, builder.load(address, typ=kind), vector)
            for v, column in enumerate(loaded):
                i = r * tile.vectors + v
                total = emit_multiply_add(builder, factor, column, builder.extract_value(value, i), vector)
                value = builder.insert_value(value, total, i)
        return value

    return tile(tile, a, rows, b, columns), generate


@intrinsic(prefer_literal=True)
def tile_add_taps(typingctx, tile, line, step, taps, pitch, count):
    """t[r, v] += sum over k < count of vector v at line[(r + k) * step] * the vector at taps[v * pitch + k * lanes].

    In order of k; what several rows read is loaded once.
    """

    def generate(context, builder, signature, args):
        value, line, step, taps, pitch, _ = args
        lanes, multiply_add = tile.vector.lanes, partial(emit_multiply_add, builder, vector=tile.vector)
        for v in range(tile.vectors):
            first, of_v = ir.Constant(I64, v * lanes), builder.mul(pitch, ir.Constant(I64, v))
            places = [builder.add(of_v, ir.Constant(I64, k * lanes)) for k in range(count.literal_value)]
            factors = [emit_load(builder, taps, place, tile.vector) for place in places]
            for i in range(tile.rows + len(factors) - 1):
                place = builder.add(first, builder.mul(step, ir.Constant(I64, i)))
                pixel = emit_load(builder, line, place, tile.vector)
                for k, factor in enumerate(factors):
                    r = i - k
                    if 0 <= r < tile.rows:
                        index = r * tile.vectors + v
                        total = multiply_add(factor, pixel, builder.extract_value(value, index))
                        value = builder.insert_value(value, total, index)
        return value

    return tile(tile, line, types.int64, taps, types.int64, count), generate


@intrinsic
def tile_add_column(typingctx, tile, a, a_pitch):
    """t[r, v] += a[r * a_pitch]"""

    def generate(context, builder, signature, args):
        value, column, pitch = args
        kind = element(tile.vector.dtype)
        for r in range(tile.rows):
            address = builder.gep(column, [builder.mul(pitch, ir.Constant(I64, r))], source_etype=kind)
            term = emit_broadcast(builder, builder.load(address, typ=kind), tile.vector)
            for i in range(r * tile.vectors, (r + 1) * tile.vectors):
                value = builder.insert_value(value, builder.fadd(builder.extract_value(value, i), term), i)
        return value

    return tile(tile, a, types.int64), generate


@intrinsic
def tile_add(typingctx, c, c_rows, vector_pitch, tile):
    """the vector at v * vector_pitch of row r of c += t[r, v]

    All are read before one is written: a row of the same numbers that is listed twice is added once.
    """

    def generate(context, builder, signature, args):
        totals = []
        for i, offset in tile_offsets(builder, tile, args[1], args[2]):
            before = emit_load(builder, args[0], offset, tile.vector)
            totals.append((builder.fadd(before, builder.extract_value(args[3], i)), offset))
        for total, offset in totals:
            emit_store(builder, total, args[0], offset, tile.vector)
        return context.get_dummy_value()

    return types.void(c, type_of_rows(c_rows), types.int64, tile), generate


@intrinsic
def tile_ask(typingctx, c, c_rows, vector_pitch, tile):
    """Ask for the cache lines that the tile will be written to: :func:`tile_store` and others then need not wait."""

    def generate(context, builder, signature, args):
        for _, offset in tile_offsets(builder, tile, args[1], args[2]):
            emit_prefetch(builder, args[0], offset, tile.vector.dtype, to_write=True)
        return context.get_dummy_value()

    return types.void(c, type_of_rows(c_rows), types.int64, tile), generate


def store_tile(emit, context, builder, tile, args):
    """Store the vectors of a tile, each by `emit`."""
    for i, offset in tile_offsets(builder, tile, args[1], args[2]):
        emit(builder, builder.extract_value(args[3], i), args[0], offset, tile.vector)
    return context.get_dummy_value()


@intrinsic
def tile_store(typingctx, c, c_rows, vector_pitch, tile):
    """the vector at v * vector_pitch of row r of c = t[r, v]"""

    def generate(context, builder, signature, args):
        return store_tile(emit_store, context, builder, tile, args)

    return types.void(c, type_of_rows(c_rows), types.int64, tile), generate


@intrinsic
def tile_store_around(typingctx, c, c_rows, vector_pitch, tile):
    """The same around the caches; all vectors begin where vectors do in a cache line. Wants a :func:`fence` at last."""

    def generate(context, builder, signature, args):
        return store_tile(emit_store_around, context, builder, tile, args)

    return types.void(c, type_of_rows(c_rows), types.int64, tile), generate


def multiply_rows(load_vector, tile, builder, value, a, a_places, b, b_places):
    """t[r, v] += the vector at a[a_places[r]] * the vector at b[b_places[v]], each loaded by `load_vector`."""
    kind = element(tile.vector.dtype)

    def row(pointer, places, i):
        place = builder.load(builder.gep(places, [ir.Constant(I64, i)], source_etype=I64), typ=I64)
        return load_vector(builder.gep(pointer, [place], source_etype=kind))

    columns = [row(b, b_places, v) for v in range(tile.vectors)]
    for r in range(tile.rows):
        factor = row(a, a_places, r)
        for v, column in enumerate(columns):
            i = r * tile.vectors + v
            total = emit_multiply_add(builder, factor, column, builder.extract_value(value, i), tile.vector)
            value = builder.insert_value(value, total, i)
    return value


@intrinsic
def tile_multiply_add_rows(typingctx, tile, a, a_places, b, b_places):
    """t[r, v][i] += a[a_places[r] + i] * b[b_places[v] + i]: rows of a and of b, lane by lane"""

    def generate(context, builder, signature, args):
        def whole(pointer):
            return emit_load(builder, pointer, ir.Constant(I64, 0), tile.vector)

        return multiply_rows(whole, tile, builder, *args)

    return tile(tile, a, a_places, b, b_places), generate


@intrinsic
def tile_multiply_add_rows_first(typingctx, tile, a, a_places, b, b_places, count):
    """The same for i < count; reads no more, and no lane beyond meets another number than 0."""

    def generate(context, builder, signature, args):
        mask = emit_mask(builder, args[5], tile.vector.lanes)

        def first(pointer):
            return emit_masked_load(builder, pointer, ir.Constant(I64, 0), mask, tile.vector)

        return multiply_rows(first, tile, builder, *args[:5])

    return tile(tile, a, a_places, b, b_places, types.int64), generate


@intrinsic
def tile_sum_lanes(typingctx, c, pitch, tile):
    """c[v * pitch + r] += sum over i of t[r, v][i], in the order of :func:`emit_sums`"""

    def generate(context, builder, signature, args):
        pointer, pitch, value = args
        kind = ir.VectorType(element(tile.vector.dtype), tile.rows)
        for v in range(tile.vectors):
            rows = [builder.extract_value(value, r * tile.vectors + v) for r in range(tile.rows)]
            address = builder.gep(pointer, [builder.mul(pitch, ir.Constant(I64, v))], source_etype=kind.element)
            address = builder.bitcast(address, kind.as_pointer())
            align = tile.vector.dtype.bitwidth // 8
            before = builder.load(address, typ=kind, align=align)
            builder.store(builder.fadd(before, emit_sums(builder, rows, tile.vector)), address, align=align)
        return context.get_dummy_value()

    return types.void(c, types.int64, tile), generate
