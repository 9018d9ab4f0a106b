"""Dot products of bytes, by the instructions of each tier; exact, so that all give the same sums.

A vector of weights holds, for each of 16 rows, the bytes of four columns; the activations of those
columns are the four int8 of one int32, the same for all rows.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rwkv_edge.jit import inline
from rwkv_edge.runtime.simd.arithmetic import I32, call_llvm
from rwkv_edge.runtime.simd.cpu import has
from rwkv_edge.runtime.simd.shuffles import join, part
from rwkv_edge.runtime.simd.vector import Vector, i8x64, i16x32, i32x16

# AVX2 and ARM registers.
I8_X32, I16_X16, I32_X8 = (ir.VectorType(ir.IntType(n), 256 // n) for n in (8, 16, 32))
I32_X4 = ir.VectorType(I32, 4)
I16_X32, I32_X32 = (ir.VectorType(ir.IntType(n), 32) for n in (16, 32))


def multiplies_unsigned() -> bool:
    """Does this tier's instruction take one side unsigned? Byte weights then hold 128 more."""
    return has("avx512vnni") or has("avxvnni")


def nibble_sums() -> Vector:
    """What sums of nibble products are held in: 16 bits on AVX2, which saves a step per vector."""
    widens_once = has("avx2") and not multiplies_unsigned()
    return i16x32 if widens_once else i32x16


@intrinsic
def byte_zero_code(typing_context: Any) -> Any:
    """What was added to the byte weights that `dot4` multiplies: 0 or 128."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return I32(128 if multiplies_unsigned() else 0)

    return types.int32(), codegen


@intrinsic
def no_bytes(typing_context: Any) -> Any:
    """The empty sum that `dot4` begins with."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(i32x16.llvm, [0] * 16)

    return i32x16(), codegen


@intrinsic
def byte_total(typing_context: Any, total: Any) -> Any:
    """A sum of `dot4` as int32 lanes, which it is: the twin of `nibble_total`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0]

    return (i32x16(i32x16), codegen) if total == i32x16 else None


@intrinsic
def dot4(typing_context: Any, total: Any, weights: Any, signed: Any) -> Any:
    """total + the sum over each lane's four bytes of weights * signed.

    total: int32 lanes; weights: int8, or uint8 with 128 added, as `byte_zero_code` says;
    signed: int32 lanes that hold four int8 each, none of them -128.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        total, w, x = args[0], args[1], builder.bitcast(args[2], i8x64.llvm)
        if multiplies_unsigned():
            return _dot4_vnni(builder, total, w, x)
        if has("avx2"):
            return builder.add(total, _in_parts(builder, 2, _dot4_signed_avx2, w, x))
        if has("dotprod"):
            return _in_parts(builder, 4, _dot4_neon, total, w, x)
        return builder.add(total, _dot4_in_words(builder, w, x))

    accepted = total == i32x16 and weights == i8x64 and signed == i32x16
    return (i32x16(i32x16, i8x64, i32x16), codegen) if accepted else None


@intrinsic
def no_nibbles(typing_context: Any) -> Any:
    """The empty sum that `dot4_nibbles` begins with."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(nibble_sums().llvm, [0] * nibble_sums().n_lanes)

    return nibble_sums()(), codegen


@intrinsic
def dot4_nibbles(typing_context: Any, total: Any, nibbles: Any, signed: Any) -> Any:
    """total + the sum over each lane's four bytes of nibbles * signed; at most 8 such in a total.

    nibbles: 0..15; signed: int32 lanes that hold four int8 each, none of them -128.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        total, w, x = args[0], args[1], builder.bitcast(args[2], i8x64.llvm)
        if multiplies_unsigned():
            return _dot4_vnni(builder, total, w, x)
        if has("avx2"):
            # 8 times 2 * 15 * 127 is below 2 ** 15.
            return builder.add(total, _in_parts(builder, 2, _pairs_avx2, w, x))
        if has("dotprod"):
            return _in_parts(builder, 4, _dot4_neon, total, w, x)
        return builder.add(total, _dot4_in_words(builder, w, x))

    accepted = total == nibble_sums() and nibbles == i8x64 and signed == i32x16
    return (nibble_sums()(nibble_sums(), i8x64, i32x16), codegen) if accepted else None


@intrinsic
def nibble_total(typing_context: Any, total: Any) -> Any:
    """A sum of `dot4_nibbles` as int32 lanes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if nibble_sums() == i32x16:
            return args[0]
        return _in_parts(builder, 2, _widen_pairs_avx2, args[0])

    return (i32x16(nibble_sums()), codegen) if total == nibble_sums() else None


@intrinsic
def dot4_codes(typing_context: Any, total: Any, codes: Any, signed: Any) -> Any:
    """`dot4` of codes 0..127, which are the same bytes on every tier: nothing is added to them."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _dot4_codes(builder, args[0], args[1], builder.bitcast(args[2], i8x64.llvm))

    accepted = total == i32x16 and codes == i8x64 and signed == i32x16
    return (i32x16(i32x16, i8x64, i32x16), codegen) if accepted else None


@intrinsic
def dot8_codes(
    typing_context: Any, total: Any, a: Any, b: Any, signed_a: Any, signed_b: Any
) -> Any:
    """total + a * signed_a + b * signed_b, as `dot4_codes`, for codes 0..63."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        total, a, b = args[:3]
        x, y = (builder.bitcast(v, i8x64.llvm) for v in args[3:])
        if has("avx2") and not multiplies_unsigned():
            return builder.add(total, _in_parts(builder, 2, _two_pairs_avx2, a, x, b, y))
        return _dot4_codes(builder, _dot4_codes(builder, total, a, x), b, y)

    accepted = total == i32x16 and a == b == i8x64 and signed_a == signed_b == i32x16
    return (i32x16(i32x16, i8x64, i8x64, i32x16, i32x16), codegen) if accepted else None


@inline
def dot8_nibbles(total, a, b, signed_a, signed_b):
    """total + a * signed_a + b * signed_b: two `dot4_nibbles`."""
    return dot4_nibbles(dot4_nibbles(total, a, signed_a), b, signed_b)


@inline
def dot8_bytes(total, a, b, signed_a, signed_b):
    """total + a * signed_a + b * signed_b: two `dot4`."""
    return dot4(dot4(total, a, signed_a), b, signed_b)


def _dot4_codes(builder: Any, total: Any, w: Any, x: Any) -> Any:
    """Codes that are positive both as signed and as unsigned bytes."""
    if multiplies_unsigned():
        return _dot4_vnni(builder, total, w, x)
    if has("avx2"):
        return builder.add(total, _in_parts(builder, 2, _pair_avx2, w, x))
    if has("dotprod"):
        return _in_parts(builder, 4, _dot4_neon, total, w, x)
    return builder.add(total, _dot4_in_words(builder, w, x))


def _in_parts(builder: Any, n_parts: int, verb: Any, *vectors: Any) -> Any:
    """A verb of narrower registers on 2 or 4 equal parts of its operands."""
    results = []
    for i in range(n_parts):
        sizes = [vector.type.count // n_parts for vector in vectors]
        pairs = zip(vectors, sizes, strict=True)
        results.append(verb(builder, *(part(builder, v, i * size, size) for v, size in pairs)))
    while len(results) > 1:
        results = [join(builder, *results[i : i + 2]) for i in range(0, len(results), 2)]
    return results[0]


def _dot4_vnni(builder: Any, total: Any, w: Any, x: Any) -> Any:
    """One instruction for 512 bits, or two for 256 with AVX-VNNI."""
    if has("avx512vnni"):
        return call_llvm(builder, "llvm.x86.avx512.vpdpbusd.512", i32x16.llvm, [total, w, x])
    return _in_parts(builder, 2, _dot4_avxvnni, total, w, x)


def _dot4_avxvnni(builder: Any, total: Any, w: Any, x: Any) -> Any:
    """AVX-VNNI shares the name of AVX-512's instruction for narrower registers."""
    return call_llvm(builder, "llvm.x86.avx512.vpdpbusd.256", I32_X8, [total, w, x])


def _pairs_avx2(builder: Any, unsigned: Any, signed: Any) -> Any:
    """Products of bytes, added in neighbouring pairs; 16 bits must hold them."""
    return call_llvm(builder, "llvm.x86.avx2.pmadd.ub.sw", I16_X16, [unsigned, signed])


def _widen_pairs_avx2(builder: Any, words: Any) -> Any:
    """16-bit lanes, added in neighbouring pairs as 32 bits."""
    ones = ir.Constant(I16_X16, [1] * 16)
    return call_llvm(builder, "llvm.x86.avx2.pmadd.wd", I32_X8, [words, ones])


def _pair_avx2(builder: Any, w: Any, x: Any) -> Any:
    """2 * 127 * 127 is below 2 ** 15."""
    return _widen_pairs_avx2(builder, _pairs_avx2(builder, w, x))


def _two_pairs_avx2(builder: Any, a: Any, x: Any, b: Any, y: Any) -> Any:
    """4 * 63 * 127 is below 2 ** 15."""
    words = builder.add(_pairs_avx2(builder, a, x), _pairs_avx2(builder, b, y))
    return _widen_pairs_avx2(builder, words)


def _dot4_signed_avx2(builder: Any, w: Any, x: Any) -> Any:
    """|w| times x with the sign of w: 2 * 128 * 127 is below 2 ** 15."""
    magnitude = call_llvm(builder, "llvm.abs.v32i8", I8_X32, [w, ir.Constant(ir.IntType(1), 0)])
    signed = call_llvm(builder, "llvm.x86.avx2.psign.b", I8_X32, [x, w])
    return _widen_pairs_avx2(builder, _pairs_avx2(builder, magnitude, signed))


def _dot4_neon(builder: Any, total: Any, w: Any, x: Any) -> Any:
    """ARM's dot product of signed bytes."""
    return call_llvm(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", I32_X4, [total, w, x])


def _dot4_in_words(builder: Any, w: Any, x: Any) -> Any:
    """Products of the even and the odd bytes as 16-bit pairs: the pattern LLVM knows as pmaddwd."""
    eight = ir.Constant(I16_X32, [8] * 32)
    w, x = builder.bitcast(w, I16_X32), builder.bitcast(x, I16_X32)
    w_even, x_even = (builder.ashr(builder.shl(v, eight), eight) for v in (w, x))
    w_odd, x_odd = (builder.ashr(v, eight) for v in (w, x))
    return builder.add(_word_pairs(builder, w_even, x_even), _word_pairs(builder, w_odd, x_odd))


def _word_pairs(builder: Any, a: Any, b: Any) -> Any:
    """Products of 16-bit lanes, added in neighbouring pairs."""
    products = builder.mul(builder.sext(a, I32_X32), builder.sext(b, I32_X32))
    undefined = ir.Constant(I32_X32, ir.Undefined)
    lanes = ir.VectorType(I32, 16)
    even = builder.shuffle_vector(products, undefined, ir.Constant(lanes, list(range(0, 32, 2))))
    odd = builder.shuffle_vector(products, undefined, ir.Constant(lanes, list(range(1, 32, 2))))
    return builder.add(even, odd)
