"""Verbs on vectors: splat, fma, min, max, rounding, sums over lanes, dot products of bytes."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge.runtime.simd.cpu import has
from rwkv_edge.runtime.simd.halves import widen_halves
from rwkv_edge.runtime.simd.vector import Vector, f32x16, i8x64, i32x16

I32 = ir.IntType(32)
I16_X32 = ir.VectorType(ir.IntType(16), 32)
I32_X32 = ir.VectorType(I32, 32)


def _call(builder: Any, name: str, return_type: ir.Type, args: list[Any]) -> Any:
    kind = ir.FunctionType(return_type, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _splat(builder: Any, scalar: Any, vector: Vector) -> Any:
    undefined = ir.Constant(vector.llvm, ir.Undefined)
    first = builder.insert_element(undefined, scalar, I32(0))
    everywhere = ir.Constant(ir.VectorType(I32, vector.n_lanes), [0] * vector.n_lanes)
    return builder.shuffle_vector(first, undefined, everywhere)


@intrinsic
def splat_f32(typing_context: Any, scalar: Any) -> Any:
    """One float32 in every lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, args[0], f32x16)

    return (f32x16(types.float32), codegen) if scalar == types.float32 else None


@intrinsic
def splat_i32(typing_context: Any, scalar: Any) -> Any:
    """One int32 in every lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, args[0], i32x16)

    return (i32x16(types.int32), codegen) if scalar == types.int32 else None


@intrinsic
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the CPU can: a call of libm for each lane costs too much."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, "llvm.fmuladd.v16f32", f32x16.llvm, list(args))

    return (f32x16(f32x16, f32x16, f32x16), codegen) if a == b == c == f32x16 else None


@intrinsic
def maximum(typing_context: Any, a: Any, b: Any) -> Any:
    """The larger of each pair of lanes; a NaN on one side gives the other side."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, "llvm.maxnum.v16f32", f32x16.llvm, list(args))

    return (f32x16(f32x16, f32x16), codegen) if a == b == f32x16 else None


@intrinsic
def minimum(typing_context: Any, a: Any, b: Any) -> Any:
    """The smaller of each pair of lanes; a NaN on one side gives the other side."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, "llvm.minnum.v16f32", f32x16.llvm, list(args))

    return (f32x16(f32x16, f32x16), codegen) if a == b == f32x16 else None


@intrinsic
def absolute(typing_context: Any, a: Any) -> Any:
    """Magnitudes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, "llvm.fabs.v16f32", f32x16.llvm, list(args))

    return (f32x16(f32x16), codegen) if a == f32x16 else None


@intrinsic
def round_to_even(typing_context: Any, a: Any) -> Any:
    """The nearest whole numbers, halves to the even one."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, "llvm.rint.v16f32", f32x16.llvm, list(args))

    return (f32x16(f32x16), codegen) if a == f32x16 else None


@intrinsic
def to_i32(typing_context: Any, a: Any) -> Any:
    """Whole numbers as int32; lanes must be whole and in range."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fptosi(args[0], i32x16.llvm)

    return (i32x16(f32x16), codegen) if a == f32x16 else None


@intrinsic
def to_f32(typing_context: Any, a: Any) -> Any:
    """Int32 as float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.sitofp(args[0], f32x16.llvm)

    return (f32x16(i32x16), codegen) if a == i32x16 else None


@intrinsic
def power_of_two(typing_context: Any, exponent: Any) -> Any:
    """2 ** exponent for int32 exponents in -126..127, by writing the exponent's bits."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bias = ir.Constant(i32x16.llvm, [127] * 16)
        mantissa_bits = ir.Constant(i32x16.llvm, [23] * 16)
        return builder.bitcast(builder.shl(builder.add(args[0], bias), mantissa_bits), f32x16.llvm)

    return (f32x16(i32x16), codegen) if exponent == i32x16 else None


@intrinsic
def f16_to_f32(typing_context: Any, bits: Any) -> Any:
    """The number whose IEEE half has these uint16 bits."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return widen_halves(builder, args[0])

    return (types.float32(types.uint16), codegen) if bits == types.uint16 else None


@intrinsic
def horizontal_sum(typing_context: Any, a: Any) -> Any:
    """Sum over the lanes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = ir.Constant(ir.FloatType(), -0.0)
        name = "llvm.vector.reduce.fadd.v16f32"
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), f32x16.llvm])
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        # Without this flag the lanes are added one after the other.
        return builder.call(function, [start, args[0]], fastmath=("reassoc",))

    return (types.float32(f32x16), codegen) if a == f32x16 else None


@intrinsic
def horizontal_sum_i32(typing_context: Any, a: Any) -> Any:
    """Sum over the lanes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, "llvm.vector.reduce.add.v16i32", I32, list(args))

    return (types.int32(i32x16), codegen) if a == i32x16 else None


@intrinsic
def horizontal_max(typing_context: Any, a: Any) -> Any:
    """Largest lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, "llvm.vector.reduce.fmax.v16f32", ir.FloatType(), list(args))

    return (types.float32(f32x16), codegen) if a == f32x16 else None


@intrinsic
def low_nibbles(typing_context: Any, a: Any) -> Any:
    """The low four bits of each byte."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.and_(args[0], ir.Constant(i8x64.llvm, [15] * 64))

    return (i8x64(i8x64), codegen) if a == i8x64 else None


@intrinsic
def high_nibbles(typing_context: Any, a: Any) -> Any:
    """The high four bits of each byte, moved down."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        # x86 shifts words, not bytes: shift the words, then drop what came from the neighbour.
        words = builder.bitcast(args[0], i32x16.llvm)
        shifted = builder.lshr(words, ir.Constant(i32x16.llvm, [4] * 16))
        kept = builder.and_(shifted, ir.Constant(i32x16.llvm, [0x0F0F0F0F] * 16))
        return builder.bitcast(kept, i8x64.llvm)

    return (i8x64(i8x64), codegen) if a == i8x64 else None


@intrinsic
def dot4(typing_context: Any, total: Any, unsigned: Any, signed: Any) -> Any:
    """total + the sum over each lane's four bytes of unsigned * signed; exact.

    total: int32 lanes; unsigned: weights 0..255; signed: int32 lanes that hold four int8 each.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if has("avx512vnni"):
            return _dot4_vnni(builder, *args)
        if has("i8mm"):
            return _dot4_neon(builder, "usdot", *args)
        if has("dotprod"):
            return _dot4_less_128(builder, *args)
        total, weights, activations = args
        return builder.add(total, _dot4_in_words(builder, weights, activations))

    accepted = total == i32x16 and unsigned == i8x64 and signed == i32x16
    return (i32x16(i32x16, i8x64, i32x16), codegen) if accepted else None


@intrinsic
def dot4_nibbles(typing_context: Any, total: Any, nibbles: Any, signed: Any) -> Any:
    """`dot4` of weights 0..15, for which AVX2 has a shorter way; exact."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if has("avx512vnni"):
            return _dot4_vnni(builder, *args)
        if has("dotprod"):
            # Weights 0..15 are the same number signed or not.
            return _dot4_neon(builder, "sdot", *args)
        total, weights, activations = args
        if has("avx2"):
            products = _dot4_avx2(builder, weights, activations)
        else:
            products = _dot4_in_words(builder, weights, activations)
        return builder.add(total, products)

    accepted = total == i32x16 and nibbles == i8x64 and signed == i32x16
    return (i32x16(i32x16, i8x64, i32x16), codegen) if accepted else None


def _dot4_vnni(builder: Any, total: Any, weights: Any, activations: Any) -> Any:
    """One instruction."""
    signed_bytes = builder.bitcast(activations, i8x64.llvm)
    name = "llvm.x86.avx512.vpdpbusd.512"
    return _call(builder, name, i32x16.llvm, [total, weights, signed_bytes])


def _dot4_avx2(builder: Any, weights: Any, activations: Any) -> Any:
    """Pairs of bytes to 16 bits, which 15 * 128 * 2 does not overflow, and pairs of those to 32."""
    signed_bytes = builder.bitcast(activations, i8x64.llvm)
    ones = ir.Constant(ir.VectorType(ir.IntType(16), 16), [1] * 16)
    halves = []
    for first in (0, 32):
        w, a = (_part(builder, v, first, 32) for v in (weights, signed_bytes))
        words = _call(builder, "llvm.x86.avx2.pmadd.ub.sw", ones.type, [w, a])
        lanes = ir.VectorType(I32, 8)
        halves.append(_call(builder, "llvm.x86.avx2.pmadd.wd", lanes, [words, ones]))
    both = ir.Constant(ir.VectorType(I32, 16), list(range(16)))
    return builder.shuffle_vector(halves[0], halves[1], both)


def _part(builder: Any, vector: Any, first: int, n_lanes: int) -> Any:
    """Lanes first to first + n_lanes."""
    lanes = ir.Constant(ir.VectorType(I32, n_lanes), list(range(first, first + n_lanes)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), lanes)


def _dot4_neon(builder: Any, name: str, total: Any, weights: Any, activations: Any) -> Any:
    """One instruction for each quarter: registers have 128 bits.

    name: "usdot" takes the weights unsigned, "sdot" signed.
    """
    signed_bytes = builder.bitcast(activations, i8x64.llvm)
    quarters = []
    for q in range(4):
        part = _part(builder, total, 4 * q, 4)
        w, a = (_part(builder, v, 16 * q, 16) for v in (weights, signed_bytes))
        intrinsic_name = f"llvm.aarch64.neon.{name}.v4i32.v16i8"
        quarters.append(_call(builder, intrinsic_name, part.type, [part, w, a]))
    a, b, c, d = quarters
    return _join(builder, _join(builder, a, b), _join(builder, c, d))


def _dot4_less_128(builder: Any, total: Any, weights: Any, activations: Any) -> Any:
    """sdot of weights - 128, which are signed bytes, and 128 times the activations, added back."""
    less_128 = builder.xor(weights, ir.Constant(i8x64.llvm, [0x80] * 64))
    zero, ones = ir.Constant(i32x16.llvm, [0] * 16), ir.Constant(i8x64.llvm, [1] * 64)
    # Once for all weights that meet these activations: LLVM keeps equal values.
    sums = _dot4_neon(builder, "sdot", zero, ones, activations)
    times_128 = builder.shl(sums, ir.Constant(i32x16.llvm, [7] * 16))
    return _dot4_neon(builder, "sdot", builder.add(total, times_128), less_128, activations)


def _join(builder: Any, a: Any, b: Any) -> Any:
    """The lanes of a, then those of b."""
    n_lanes = 2 * a.type.count
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, n_lanes), [*range(n_lanes)]))


def _dot4_in_words(builder: Any, weights: Any, activations: Any) -> Any:
    """Products of the even and the odd bytes as 16-bit pairs: the pattern LLVM knows as pmaddwd."""
    eight = ir.Constant(I16_X32, [8] * 32)
    w = builder.bitcast(weights, I16_X32)
    a = builder.bitcast(activations, I16_X32)
    w_even = builder.and_(w, ir.Constant(I16_X32, [0xFF] * 32))
    a_even = builder.ashr(builder.shl(a, eight), eight)
    w_odd, a_odd = builder.lshr(w, eight), builder.ashr(a, eight)
    return builder.add(_pairs(builder, w_even, a_even), _pairs(builder, w_odd, a_odd))


def _pairs(builder: Any, a: Any, b: Any) -> Any:
    """Products of 16-bit lanes, added in neighbouring pairs."""
    products = builder.mul(builder.sext(a, I32_X32), builder.sext(b, I32_X32))
    undefined = ir.Constant(I32_X32, ir.Undefined)
    lanes = ir.VectorType(I32, 16)
    even = builder.shuffle_vector(products, undefined, ir.Constant(lanes, list(range(0, 32, 2))))
    odd = builder.shuffle_vector(products, undefined, ir.Constant(lanes, list(range(1, 32, 2))))
    return builder.add(even, odd)
