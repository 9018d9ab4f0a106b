"""Verbs on vectors: splat, fma, min, max, rounding, sums over lanes, nibbles and other bits."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge.runtime.simd.cpu import has
from rwkv_edge.runtime.simd.halves import widen_halves
from rwkv_edge.runtime.simd.vector import Vector, f32x16, i8x64, i32x16

I32 = ir.IntType(32)


def call_llvm(builder: Any, name: str, return_type: ir.Type, args: Sequence[Any]) -> Any:
    """Call one of LLVM's own functions, such as "llvm.fmuladd.v16f32"."""
    kind = ir.FunctionType(return_type, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def broadcast(builder: Any, scalar: Any, vector: Vector) -> Any:
    """A vector with the scalar in every lane."""
    undefined = ir.Constant(vector.llvm, ir.Undefined)
    first = builder.insert_element(undefined, scalar, I32(0))
    everywhere = ir.Constant(ir.VectorType(I32, vector.n_lanes), [0] * vector.n_lanes)
    return builder.shuffle_vector(first, undefined, everywhere)


@intrinsic
def splat_f32(typing_context: Any, scalar: Any) -> Any:
    """One float32 in every lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return broadcast(builder, args[0], f32x16)

    return (f32x16(types.float32), codegen) if scalar == types.float32 else None


@intrinsic
def splat_i32(typing_context: Any, scalar: Any) -> Any:
    """One int32 in every lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return broadcast(builder, args[0], i32x16)

    return (i32x16(types.int32), codegen) if scalar == types.int32 else None


@intrinsic
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the CPU can: a call of libm for each lane costs too much."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call_llvm(builder, "llvm.fmuladd.v16f32", f32x16.llvm, args)

    return (f32x16(f32x16, f32x16, f32x16), codegen) if a == b == c == f32x16 else None


@intrinsic
def sums_in_registers(typing_context: Any) -> Any:
    """How many sums of 16 floats stay in registers beside two factors of `fma`: 8 or 6.

    AVX2 has 16 registers of half that size, ARM 32 of a quarter, AVX-512 32 of all of it.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.IntType(64)(8 if has("avx512f") else 6)

    return types.int64(), codegen


@intrinsic
def maximum(typing_context: Any, a: Any, b: Any) -> Any:
    """The larger of each pair of lanes; a NaN on one side gives the other side."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call_llvm(builder, "llvm.maxnum.v16f32", f32x16.llvm, args)

    return (f32x16(f32x16, f32x16), codegen) if a == b == f32x16 else None


@intrinsic
def minimum(typing_context: Any, a: Any, b: Any) -> Any:
    """The smaller of each pair of lanes; a NaN on one side gives the other side."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call_llvm(builder, "llvm.minnum.v16f32", f32x16.llvm, args)

    return (f32x16(f32x16, f32x16), codegen) if a == b == f32x16 else None


@intrinsic
def absolute(typing_context: Any, a: Any) -> Any:
    """Magnitudes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call_llvm(builder, "llvm.fabs.v16f32", f32x16.llvm, args)

    return (f32x16(f32x16), codegen) if a == f32x16 else None


@intrinsic
def round_to_even(typing_context: Any, a: Any) -> Any:
    """The nearest whole numbers, halves to the even one."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call_llvm(builder, "llvm.rint.v16f32", f32x16.llvm, args)

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
        return call_llvm(builder, "llvm.vector.reduce.add.v16i32", I32, args)

    return (types.int32(i32x16), codegen) if a == i32x16 else None


@intrinsic
def horizontal_max(typing_context: Any, a: Any) -> Any:
    """Largest lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call_llvm(builder, "llvm.vector.reduce.fmax.v16f32", ir.FloatType(), args)

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
def nibbles_from(typing_context: Any, a: Any, bit: Any) -> Any:
    """Four bits of each byte, from bit 0 or 4 on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        words = builder.bitcast(args[0], i32x16.llvm)
        shifted = builder.lshr(words, broadcast(builder, args[1], i32x16))
        kept = builder.and_(shifted, ir.Constant(i32x16.llvm, [0x0F0F0F0F] * 16))
        return builder.bitcast(kept, i8x64.llvm)

    return (i8x64(i8x64, types.int32), codegen) if a == i8x64 else None


@intrinsic
def bits_from(typing_context: Any, a: Any, bit: Any, n_bits: Any) -> Any:
    """n_bits of each byte, from the bit of that number on; bit + n_bits is at most 8."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        words = builder.bitcast(args[0], i32x16.llvm)
        shifted = builder.lshr(words, broadcast(builder, builder.trunc(args[1], I32), i32x16))
        ones = builder.sub(builder.shl(I32(1), builder.trunc(args[2], I32)), I32(1))
        mask = broadcast(builder, builder.mul(ones, I32(0x01010101)), i32x16)
        return builder.bitcast(builder.and_(shifted, mask), i8x64.llvm)

    return (i8x64(i8x64, types.intp, types.intp), codegen) if a == i8x64 else None


@intrinsic
def bits_to(typing_context: Any, a: Any, bit: Any) -> Any:
    """Each byte times 2 ** bit, where no bit leaves its byte."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        words = builder.bitcast(args[0], i32x16.llvm)
        shift = broadcast(builder, builder.trunc(args[1], I32), i32x16)
        return builder.bitcast(builder.shl(words, shift), i8x64.llvm)

    return (i8x64(i8x64, types.intp), codegen) if a == i8x64 else None


@intrinsic
def nibbles_to_high(typing_context: Any, nibbles: Any) -> Any:
    """Bytes 0..15 times 16."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        words = builder.bitcast(args[0], i32x16.llvm)
        return builder.bitcast(builder.shl(words, ir.Constant(words.type, [4] * 16)), i8x64.llvm)

    return (i8x64(i8x64), codegen) if nibbles == i8x64 else None


@intrinsic
def splat_i8(typing_context: Any, scalar: Any) -> Any:
    """One byte in every lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return broadcast(builder, args[0], i8x64)

    return (i8x64(types.uint8), codegen) if scalar == types.uint8 else None
