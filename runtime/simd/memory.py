"""Loads and stores: arrays to vectors and back. Storage formats end here; kernels see float32.

An index counts elements of the array, from its start, whatever its dimensions; arrays are
C-contiguous. Nothing is bounds-checked.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from rwkv_edge.jit import inline
from rwkv_edge.runtime.simd.halves import widen_halves
from rwkv_edge.runtime.simd.vector import f32x16, i8x64, i32x16

CACHE_LINE = 64

I32 = ir.IntType(32)
I8_X16 = ir.VectorType(ir.IntType(8), 16)
I16_X16 = ir.VectorType(ir.IntType(16), 16)
I32_X16 = ir.VectorType(I32, 16)
F32_X16 = f32x16.llvm


def _pointer(context: Any, builder: Any, sig: Any, args: Any, llvm_type: ir.Type) -> Any:
    """Address of element args[1] of the array args[0], as a pointer to `llvm_type`."""
    array = context.make_array(sig.args[0])(context, builder, args[0])
    element = builder.gep(array.data, [args[1]])
    return builder.bitcast(element, llvm_type.as_pointer())


def _load(context: Any, builder: Any, sig: Any, args: Any, llvm_type: ir.Type) -> Any:
    loaded = builder.load(_pointer(context, builder, sig, args, llvm_type))
    loaded.align = 1  # an unaligned load costs nothing where the address is aligned
    return loaded


def _store(context: Any, builder: Any, sig: Any, args: Any, vector: Any) -> Any:
    stored = builder.store(vector, _pointer(context, builder, sig, args, vector.type))
    stored.align = 1
    return context.get_dummy_value()


@intrinsic
def at(typing_context: Any, array: Any, index: Any) -> Any:
    """One number, at an index that is not negative: numba would look each time."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        number = context.get_value_type(sig.return_type)
        return builder.load(_pointer(context, builder, sig, args, number))

    accepted = isinstance(array, types.Array) and array.dtype in (types.float32, types.int32)
    return (array.dtype(array, types.intp), codegen) if accepted else None


@intrinsic
def load_f32x16(typing_context: Any, array: Any, index: Any) -> Any:
    """Sixteen float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _load(context, builder, sig, args, F32_X16)

    return (f32x16(array, types.intp), codegen) if array.dtype == types.float32 else None


@intrinsic
def load_f16x16(typing_context: Any, array: Any, index: Any) -> Any:
    """Sixteen IEEE halves out of a byte array, widened to float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return widen_halves(builder, _load(context, builder, sig, args, I16_X16))

    return (f32x16(array, types.intp), codegen) if array.dtype == types.uint8 else None


@intrinsic
def load_bf16x16(typing_context: Any, array: Any, index: Any) -> Any:
    """Sixteen bfloat16 out of a byte array, widened to float32: they are its upper halves."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = builder.zext(_load(context, builder, sig, args, I16_X16), I32_X16)
        return builder.bitcast(builder.shl(wide, ir.Constant(I32_X16, [16] * 16)), F32_X16)

    return (f32x16(array, types.intp), codegen) if array.dtype == types.uint8 else None


@intrinsic
def load_u8x16(typing_context: Any, array: Any, index: Any) -> Any:
    """Sixteen unsigned bytes out of a byte array, as float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        loaded = _load(context, builder, sig, args, I8_X16)
        return builder.sitofp(builder.zext(loaded, I32_X16), F32_X16)

    return (f32x16(array, types.intp), codegen) if array.dtype == types.uint8 else None


@intrinsic
def load_i8x16(typing_context: Any, array: Any, index: Any) -> Any:
    """Sixteen signed bytes out of a byte array, as float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        loaded = _load(context, builder, sig, args, I8_X16)
        return builder.sitofp(builder.sext(loaded, I32_X16), F32_X16)

    return (f32x16(array, types.intp), codegen) if array.dtype == types.uint8 else None


@intrinsic
def load_u4x16(typing_context: Any, array: Any, index: Any, bit: Any) -> Any:
    """Four bits of each of sixteen bytes, from bit 0 or 4 on, as float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        loaded = builder.zext(_load(context, builder, sig, args, I8_X16), I32_X16)
        bits = builder.trunc(args[2], I32)
        undefined = ir.Constant(I32_X16, ir.Undefined)
        first = builder.insert_element(undefined, bits, I32(0))
        shift = builder.shuffle_vector(first, undefined, ir.Constant(I32_X16, [0] * 16))
        nibble = builder.and_(builder.lshr(loaded, shift), ir.Constant(I32_X16, [15] * 16))
        return builder.sitofp(nibble, F32_X16)

    accepted = array.dtype == types.uint8
    return (f32x16(array, types.intp, types.intp), codegen) if accepted else None


@intrinsic
def load_bytes_f32x16(typing_context: Any, array: Any, index: Any) -> Any:
    """Sixteen float32 out of a byte array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _load(context, builder, sig, args, F32_X16)

    return (f32x16(array, types.intp), codegen) if array.dtype == types.uint8 else None


@intrinsic
def load_bytes_i32x16(typing_context: Any, array: Any, index: Any) -> Any:
    """Sixteen int32 out of a byte array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _load(context, builder, sig, args, i32x16.llvm)

    return (i32x16(array, types.intp), codegen) if array.dtype == types.uint8 else None


@intrinsic
def load_i8x64(typing_context: Any, array: Any, index: Any) -> Any:
    """Sixty-four bytes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _load(context, builder, sig, args, i8x64.llvm)

    return (i8x64(array, types.intp), codegen) if array.dtype == types.uint8 else None


@intrinsic
def store_f32x16(typing_context: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write sixteen float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _store(context, builder, sig, args, args[2])

    accepted = array.dtype == types.float32 and vector == f32x16
    return (types.void(array, types.intp, f32x16), codegen) if accepted else None


@intrinsic
def store_bytes_f32x16(typing_context: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write sixteen float32 to a byte array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _store(context, builder, sig, args, args[2])

    accepted = array.dtype == types.uint8 and vector == f32x16
    return (types.void(array, types.intp, f32x16), codegen) if accepted else None


@intrinsic
def store_i8x64(typing_context: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write sixty-four bytes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _store(context, builder, sig, args, args[2])

    accepted = array.dtype == types.uint8 and vector == i8x64
    return (types.void(array, types.intp, i8x64), codegen) if accepted else None


@intrinsic
def store_i8x16(typing_context: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write the low bytes of sixteen int32 to an int8 array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        narrow = builder.trunc(args[2], ir.VectorType(ir.IntType(8), 16))
        return _store(context, builder, sig, args, narrow)

    accepted = array.dtype == types.int8 and vector == i32x16
    return (types.void(array, types.intp, i32x16), codegen) if accepted else None


def _prefetch(context: Any, builder: Any, sig: Any, args: Any, locality: int) -> Any:
    """locality: 3 for all caches, 2 for all but the nearest."""
    pointer = _pointer(context, builder, sig, args, ir.IntType(8))
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    read, data = I32(0), I32(1)
    builder.call(function, [pointer, read, I32(locality), data])
    return context.get_dummy_value()


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of an element; an address past the array is harmless."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _prefetch(context, builder, sig, args, 3)

    return types.void(array, types.intp), codegen


@intrinsic
def prefetch_into_l2(typing_context: Any, array: Any, index: Any) -> Any:
    """The same, but not into the nearest cache: it will not be used at once."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _prefetch(context, builder, sig, args, 2)

    return types.void(array, types.intp), codegen


@inline
def prefetch_lines_into_l2(array, start, n_bytes):
    """Each cache line of a run of bytes."""
    for line in range(0, n_bytes, CACHE_LINE):
        prefetch_into_l2(array, start + line)


@intrinsic
def floats_at(typing_context: Any, address: Any, shape: Any) -> Any:
    """The C-contiguous float32 array of some shape that begins at an address.

    Nobody keeps that memory alive but the caller. `numba.carray` does the same, but not in kernels
    that count no references.
    """
    return _array_at(types.Array(types.float32, len(shape), "C"), ir.FloatType(), 4)


@intrinsic
def bytes_at(typing_context: Any, address: Any, shape: Any) -> Any:
    """The C-contiguous array of bytes, not to be written, of some shape that begins at an address.

    Nobody keeps that memory alive but the caller.
    """
    array_type = types.Array(types.uint8, len(shape), "C", readonly=True)
    return _array_at(array_type, ir.IntType(8), 1)


def _array_at(array_type: types.Array, element: ir.Type, n_bytes: int) -> Any:
    """Signature and code of a verb that makes an array out of an address and a shape."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array = make_array(array_type)(context, builder)
        lengths = cgutils.unpack_tuple(builder, args[1])
        strides = [ir.IntType(64)(n_bytes)]
        for length in reversed(lengths[1:]):
            strides.insert(0, builder.mul(strides[0], length))
        data = builder.inttoptr(args[0], element.as_pointer())
        populate_array(array, data, lengths, strides, ir.IntType(64)(n_bytes), meminfo=None)
        return array._getvalue()

    whole = types.UniTuple(types.intp, array_type.ndim)
    return array_type(types.intp, whole), codegen
