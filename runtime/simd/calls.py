"""Calling a kernel through its address.

A kernel that is called by name is optimised anew inside every kernel that calls it, and all that a
caller may name must be compiled before it. Through its address it is compiled once, if it is used.
"""

from functools import cache
from typing import Any

from numba import types
from numba.extending import intrinsic


def array_of(element: types.Type, n_dimensions: int) -> types.Array:
    """The type of a C-contiguous array."""
    return types.Array(element, n_dimensions, "C")


# Every matrix of a model asks for the same few.
@cache
def address_of(kernel: Any, arguments: tuple[types.Type, ...]) -> int:
    """Where the machine code of a kernel lies for these types; compiles it, or loads it from disk.

    The kernel returns nothing. It stays there as long as the process.
    """
    kernel.compile(arguments)
    compiled = kernel.overloads[arguments]
    assert compiled.signature.return_type == types.none
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


def call_through_address(arguments: tuple[types.Type, ...]) -> Any:
    """The verb `call(address, arguments)` for kernels of these types, which return nothing.

    Arguments of other types are converted or refused, as in any call.
    """

    @intrinsic
    def call(typing_context: Any, address: Any, operands: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            values = [builder.extract_value(args[1], i) for i in range(len(arguments))]
            kind = context.call_conv.get_function_type(types.none, arguments)
            callee = builder.inttoptr(args[0], kind.as_pointer())
            context.call_conv.call_function(builder, callee, types.none, arguments, values)
            return context.get_dummy_value()

        return types.void(types.int64, types.Tuple(arguments)), codegen

    return call
