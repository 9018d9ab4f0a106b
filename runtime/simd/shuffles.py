"""Verbs that move lanes."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rwkv_edge.runtime.simd.arithmetic import I32
from rwkv_edge.runtime.simd.vector import i8x64

I16_X32 = ir.VectorType(ir.IntType(16), 32)
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


def _interleave(builder: Any, a: Any, b: Any, high: bool) -> Any:
    """a and b lane by lane: the low halves of each 16 bytes, or the high ones."""
    n = a.type.count
    in_part = n * PART_BYTES // 64
    lanes = []
    for part in range(0, n, in_part):
        first = part + (in_part // 2 if high else 0)
        for lane in range(first, first + in_part // 2):
            lanes += [lane, n + lane]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, n), lanes))


def rows_side_by_side() -> list[int]:
    """The row of 64 whose byte lies at each position, so that `transpose4` gives rows in order."""
    rows = [0] * 64
    for k in range(4):
        for part in range(4):
            for i in range(4):
                rows[PART_BYTES * part + 4 * k + i] = 16 * k + 4 * part + i
    return rows
