"""What threads need to meet: atomic words, a pause while spinning, a yield when it takes long."""

import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge.runtime.simd.cpu import cpu_features

I64 = ir.IntType(64)


def _word(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """Address of word args[1] of the int64 array args[0]."""
    array = context.make_array(sig.args[0])(context, builder, args[0])
    return builder.gep(array.data, [args[1]])


@intrinsic
def atomic_add(typing_context: Any, words: Any, index: Any, amount: Any) -> Any:
    """words[index] += amount; gives what was there before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _word(context, builder, sig, args), args[2], "acq_rel")

    accepted = words.dtype == types.int64
    return (types.int64(words, types.intp, types.int64), codegen) if accepted else None


@intrinsic
def atomic_load(typing_context: Any, words: Any, index: Any) -> Any:
    """words[index], and all that its writer wrote before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(_word(context, builder, sig, args), "acquire", 8)

    return (types.int64(words, types.intp), codegen) if words.dtype == types.int64 else None


@intrinsic
def atomic_store(typing_context: Any, words: Any, index: Any, value: Any) -> Any:
    """words[index] = value, after all that this thread wrote before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store_atomic(args[2], _word(context, builder, sig, args), "release", 8)
        return context.get_dummy_value()

    accepted = words.dtype == types.int64
    return (types.void(words, types.intp, types.int64), codegen) if accepted else None


@intrinsic
def pause(typing_context: Any) -> Any:
    """Tell the core that this is a spin loop; does nothing where there is no such instruction."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if "sse2" in cpu_features():
            kind = ir.FunctionType(ir.VoidType(), [])
            name = "llvm.x86.sse2.pause"
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
        elif "neon" in cpu_features():
            # A barrier for instructions: the one named yield does nothing on most cores.
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.isb")
            whole_system = ir.IntType(32)(15)
            builder.call(function, [whole_system])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def yield_thread(typing_context: Any) -> Any:
    """Let the system run another thread on this core."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
        return context.get_dummy_value()

    return types.void(), codegen
