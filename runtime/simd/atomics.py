"""What threads need to meet: atomic words, a pause while spinning, sleep when it takes long."""

import platform
import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge.runtime.simd.cpu import cpu_features

I64 = ir.IntType(64)
# Numbers of Linux's system call futex, and of its operations. Source: futex(2), syscalls(2).
FUTEX_NUMBERS = {"x86_64": 202, "aarch64": 98}
SYS_FUTEX = FUTEX_NUMBERS.get(platform.machine()) if sys.platform == "linux" else None
FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE = 128, 129
EVERYONE = 0x7FFFFFFF
# Nobody wakes those who wait for a member that failed to come: they look for themselves.
LONGEST_SLEEP_NS = 10_000_000


def _word(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """Address of word args[1] of the int64 array args[0]."""
    array = context.make_array(sig.args[0])(context, builder, args[0])
    return builder.gep(array.data, [args[1]])


@intrinsic
def atomic_add(typing_context: Any, words: Any, index: Any, amount: Any) -> Any:
    """words[index] += amount; gives what was there before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _word(context, builder, sig, args), args[2], "seq_cst")

    accepted = words.dtype == types.int64
    return (types.int64(words, types.intp, types.int64), codegen) if accepted else None


@intrinsic
def atomic_load(typing_context: Any, words: Any, index: Any) -> Any:
    """words[index], and all that its writer wrote before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(_word(context, builder, sig, args), "seq_cst", 8)

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
def sleep_while(typing_context: Any, words: Any, index: Any, value: Any) -> Any:
    """Sleep until `wake_sleepers` finds the low half of words[index] changed, or for 10 ms.

    Where the system has no such call, only let another thread run on this core.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if SYS_FUTEX is None:
            _yield(builder)
        else:
            kind = ir.LiteralStructType([I64, I64])
            timeout = cgutils.alloca_once_value(builder, ir.Constant(kind, [0, LONGEST_SLEEP_NS]))
            word = _word(context, builder, sig, args)
            _futex(builder, word, FUTEX_WAIT_PRIVATE, args[2], timeout)
        return context.get_dummy_value()

    accepted = words.dtype == types.int64
    return (types.void(words, types.intp, types.int64), codegen) if accepted else None


@intrinsic
def wake_sleepers(typing_context: Any, words: Any, index: Any) -> Any:
    """Wake all who sleep while words[index] has the value that it had."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if SYS_FUTEX is not None:
            word = _word(context, builder, sig, args)
            _futex(builder, word, FUTEX_WAKE_PRIVATE, ir.Constant(I64, EVERYONE), None)
        return context.get_dummy_value()

    accepted = words.dtype == types.int64
    return (types.void(words, types.intp), codegen) if accepted else None


def _futex(builder: Any, word: Any, operation: int, value: Any, timeout: Any) -> None:
    """Linux's futex(2), which looks at 32 bits: the low half of a little-endian word."""
    kind = ir.FunctionType(I64, [I64], var_arg=True)
    syscall = cgutils.get_or_insert_function(builder.module, kind, "syscall")
    address = builder.ptrtoint(word, I64)
    until = ir.Constant(I64, 0) if timeout is None else builder.ptrtoint(timeout, I64)
    builder.call(
        syscall,
        [ir.Constant(I64, SYS_FUTEX), address, ir.Constant(I64, operation), value, until],
    )


def _yield(builder: Any) -> None:
    """Let the system run another thread on this core."""
    name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
    kind = ir.FunctionType(ir.IntType(32), [])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
