"""IEEE halves to float32, whether or not the CPU has an instruction for it."""

from typing import Any

from llvmlite import ir

from rwkv_edge.runtime.simd.cpu import cpu_features, has

MAGNITUDE, INFINITE, SIGN = 0x7FFF, 0x7C00, 0x8000
# A float32 has 13 more bits of mantissa, and its exponents start 127 - 15 lower.
MORE_BITS, RAISE = 13, float(2**112)
FLOAT_INFINITE = 0x7F800000


def widen_halves(builder: Any, bits: Any) -> Any:
    """The number, or vector of them, of 16-bit words; exact, also for subnormals and infinities."""
    n_lanes = bits.type.count if isinstance(bits.type, ir.VectorType) else None

    def like(element: ir.Type) -> ir.Type:
        return element if n_lanes is None else ir.VectorType(element, n_lanes)

    if has("f16c") or "sse2" not in cpu_features():
        return builder.fpext(builder.bitcast(bits, like(ir.HalfType())), like(ir.FloatType()))

    # x86 without F16C: LLVM would call a function of the C compiler's library, which is not there.
    words, floats = like(ir.IntType(32)), like(ir.FloatType())

    def each(value: Any, llvm_type: ir.Type = words) -> Any:
        return ir.Constant(llvm_type, value if n_lanes is None else [value] * n_lanes)

    wide = builder.zext(bits, words)
    magnitude = builder.and_(wide, each(MAGNITUDE))
    shifted = builder.shl(magnitude, each(MORE_BITS))
    raised = builder.fmul(builder.bitcast(shifted, floats), each(RAISE, floats))
    finite = builder.icmp_unsigned("<", magnitude, each(INFINITE))
    not_finite = builder.or_(shifted, each(FLOAT_INFINITE))
    result = builder.select(finite, builder.bitcast(raised, words), not_finite)
    sign = builder.shl(builder.and_(wide, each(SIGN)), each(16))
    return builder.bitcast(builder.or_(result, sign), floats)
