"""Verbs that move lanes: between rows side by side and columns."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rwkv_edge.runtime.simd.arithmetic import I32, call_llvm
from rwkv_edge.runtime.simd.cpu import has
from rwkv_edge.runtime.simd.vector import i8x64

I16_X32 = ir.VectorType(ir.IntType(16), 32)
I32_X4, I32_X16 = ir.VectorType(I32, 4), ir.VectorType(I32, 16)
I64_X8 = ir.VectorType(ir.IntType(64), 8)
# Registers are divided into parts of 16 bytes, which interleaving does not cross.
PART_BYTES = 16


@intrinsic
def transpose4(typing_context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Four columns of 64 rows as four vectors of 16 rows, the four bytes of a row side by side.

    Vector k holds bytes 16p + 4k to 16p + 4k + 3 of the columns, for p = 0, 1, 2, 3, in this order.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b, c, d = args
        rows = []
        for high in (False, True):
            ab, cd = _interleave(builder, a, b, high), _interleave(builder, c, d, high)
            ab, cd = builder.bitcast(ab, I16_X32), builder.bitcast(cd, I16_X32)
            rows += [_interleave(builder, ab, cd, half) for half in (False, True)]
        vectors = [builder.bitcast(row, i8x64.llvm) for row in rows]
        return context.make_tuple(builder, sig.return_type, vectors)

    accepted = a == b == c == d == i8x64
    return (types.UniTuple(i8x64, 4)(a, b, c, d), codegen) if accepted else None


@intrinsic
def load_quads(typing_context: Any, array: Any, index: Any, stride: Any) -> Any:
    """16 bytes of each of 16 rows, as four vectors; vector k holds bytes 4k to 4k + 3 of each row.

    index and stride (from row to row) count elements of the array.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        rows, position = [], args[1]
        for _ in range(16):
            pointer = builder.bitcast(builder.gep(data, [position]), I32_X4.as_pointer())
            rows.append(builder.load(pointer))
            rows[-1].align = 1
            position = builder.add(position, args[2])
        while len(rows) > 4:
            rows = [join(builder, *rows[i : i + 2]) for i in range(0, len(rows), 2)]
        # Four rows in each: the k-th quads of all four side by side.
        order = [4 * row + k for k in range(4) for row in range(4)]
        rows = [_shuffle(builder, row, row, order) for row in rows]
        vectors = [builder.bitcast(v, i8x64.llvm) for v in _transpose_parts(builder, rows)]
        return context.make_tuple(builder, sig.return_type, vectors)

    signature = types.UniTuple(i8x64, 4)(array, types.intp, types.intp)
    return (signature, codegen) if array.dtype in (types.uint8, types.uint16) else None


@intrinsic
def columns4(typing_context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """The inverse of `transpose4`: four vectors of 16 rows as four columns of 64 rows."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        order = [16 * p + 4 * i + column for p in range(4) for column in range(4) for i in range(4)]
        vectors = [_shuffle(builder, v, v, order) for v in args]
        # In each part now four bytes of each column: one 32-bit lane.
        lanes = [builder.bitcast(v, I32_X16) for v in vectors]
        columns = []
        for high in (False, True):
            ab = _interleave(builder, lanes[0], lanes[1], high)
            cd = _interleave(builder, lanes[2], lanes[3], high)
            ab, cd = builder.bitcast(ab, I64_X8), builder.bitcast(cd, I64_X8)
            columns += [_interleave(builder, ab, cd, half) for half in (False, True)]
        vectors = [builder.bitcast(column, i8x64.llvm) for column in columns]
        return context.make_tuple(builder, sig.return_type, vectors)

    accepted = a == b == c == d == i8x64
    return (types.UniTuple(i8x64, 4)(a, b, c, d), codegen) if accepted else None


@intrinsic
def look_up(typing_context: Any, table: Any, codes: Any) -> Any:
    """table[code] for codes 0..15. table: the sixteen bytes four times over."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        table, codes = args
        if has("avx512bw"):
            return call_llvm(builder, "llvm.x86.avx512.pshuf.b.512", i8x64.llvm, [table, codes])
        if has("avx2"):
            verb, n_parts = "llvm.x86.avx2.pshuf.b", 2
        elif has("neon"):
            verb, n_parts = "llvm.aarch64.neon.tbl1.v16i8", 4
        else:
            return _look_up_one_by_one(builder, table, codes)
        n = 64 // n_parts
        kind = ir.VectorType(ir.IntType(8), n)
        results = []
        for i in range(n_parts):
            operands = [part(builder, v, i * n, n) for v in (table, codes)]
            results.append(call_llvm(builder, verb, kind, operands))
        while len(results) > 1:
            results = [join(builder, *results[i : i + 2]) for i in range(0, len(results), 2)]
        return results[0]

    return (i8x64(i8x64, i8x64), codegen) if table == codes == i8x64 else None


def _look_up_one_by_one(builder: Any, table: Any, codes: Any) -> Any:
    """Where no instruction looks bytes up: choose between the values of all sixteen codes."""
    found = _shuffle(builder, table, table, [0] * 64)
    for code in range(1, 16):
        value = _shuffle(builder, table, table, [code] * 64)
        is_code = builder.icmp_signed("==", codes, ir.Constant(codes.type, [code] * 64))
        found = builder.select(is_code, value, found)
    return found


def _shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def part(builder: Any, vector: Any, first: int, n_lanes: int) -> Any:
    """Lanes first to first + n_lanes."""
    return _shuffle(builder, vector, vector, list(range(first, first + n_lanes)))


def join(builder: Any, a: Any, b: Any) -> Any:
    """Two vectors as one of twice the lanes."""
    return _shuffle(builder, a, b, list(range(2 * a.type.count)))


def _transpose_parts(builder: Any, vectors: list[Any]) -> list[Any]:
    """Vector k of the result holds part k of each of four vectors of four parts."""
    n = vectors[0].type.count // 4
    results = []
    for k in range(4):
        part = list(range(n * k, n * (k + 1)))
        other = [lane + 4 * n for lane in part]
        low = _shuffle(builder, vectors[0], vectors[1], part + other)
        high = _shuffle(builder, vectors[2], vectors[3], part + other)
        results.append(join(builder, low, high))
    return results


def _interleave(builder: Any, a: Any, b: Any, high: bool) -> Any:
    """a and b lane by lane: the low halves of each 16 bytes, or the high ones."""
    n = a.type.count
    in_part = n * PART_BYTES // 64
    lanes = []
    for part in range(0, n, in_part):
        first = part + (in_part // 2 if high else 0)
        for lane in range(first, first + in_part // 2):
            lanes += [lane, n + lane]
    return _shuffle(builder, a, b, lanes)


def rows_side_by_side() -> list[int]:
    """The row of 64 whose byte lies at each position, so that `transpose4` gives rows in order."""
    rows = [0] * 64
    for k in range(4):
        for part in range(4):
            for i in range(4):
                rows[PART_BYTES * part + 4 * k + i] = 16 * k + 4 * part + i
    return rows
