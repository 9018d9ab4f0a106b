"""numba's functions, called in the emulator: arguments in, arrays changed in place, results out.

The convention is numba's own: int32 status f(pointer to the result, pointer to the exception,
arguments), where an array is nine or more scalars. Source: numba.core.callconv.CPUCallConv,
numba.core.datamodel.
"""

import ctypes
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numba.np import numpy_support

from rwkv_edge.runtime.simd.cpu import tier
from tests.emulator.bochs import XCR0_AVX512, EmulatedCpu, EmulatorError
from tests.emulator.foreign import FOREIGN_CPUS
from tests.emulator.tiles import XCR0_TILES, TileUnit

# Room for the largest result, a tuple of numbers.
RESULT_BYTES = 256


@cache
def cpu_of_this_process() -> EmulatedCpu:
    """The CPU of the tier that kernels of this process are compiled for."""
    model = FOREIGN_CPUS[tier()].bochs_model
    if tier() == "amx":
        # Bochs knows AMX, but the wheel was built without it.
        return EmulatedCpu(model, XCR0_AVX512 | XCR0_TILES, TileUnit())
    return EmulatedCpu(model)


def run(function: Any, *args: Any) -> Any:
    """What `function(*args)` does, for a compiled function, on the emulated CPU.

    Arguments: arrays, records, numbers, and (named) tuples of them. Arrays are changed in place.
    Returns a number, a tuple of numbers of one type, or None.
    """
    signature = tuple(function.typeof_pyval(arg) for arg in args)
    function.compile(signature)
    compiled = function.overloads[signature]
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    result, exception = (ctypes.create_string_buffer(n) for n in (RESULT_BYTES, 8))
    integers = [ctypes.addressof(result), ctypes.addressof(exception)]
    floats = []
    for is_float, value in _flat(args, signature):
        (floats if is_float else integers).append(value)
    status, _ = cpu_of_this_process().call(address, integers, floats)
    if status & 0xFFFFFFFF:
        raise EmulatorError(f"{function.py_func.__name__} raised; numba's status {status:#x}")
    return _unboxed(compiled.fndesc.restype, result.raw)


def _flat(args: Any, kinds: Any) -> Iterator[tuple[bool, int]]:
    """The scalars that arguments are passed as, and which go into vector registers."""
    for arg, kind in zip(args, kinds, strict=True):
        if isinstance(kind, types.BaseTuple):
            yield from _flat(arg, kind.types)
        elif isinstance(kind, types.Array):
            # No owner and no parent: numba counts no references to such an array.
            for word in (0, 0, arg.size, arg.itemsize, arg.ctypes.data, *arg.shape, *arg.strides):
                yield False, word
        elif isinstance(kind, types.Record):
            yield False, arg.__array_interface__["data"][0]
        elif isinstance(kind, types.Float):
            bits = np.asarray(arg, numpy_support.as_dtype(kind)).tobytes()
            yield True, int.from_bytes(bits, sys.byteorder)
        elif isinstance(kind, types.Integer | types.Boolean):
            yield False, int(arg)
        else:
            raise NotImplementedError(f"an argument of type {kind}")


def _unboxed(kind: Any, raw: bytes) -> Any:
    if isinstance(kind, types.NoneType):
        return None
    if isinstance(kind, types.UniTuple):
        dtype = numpy_support.as_dtype(kind.dtype)
        return tuple(np.frombuffer(raw, dtype, kind.count).tolist())
    return np.frombuffer(raw, numpy_support.as_dtype(kind), 1)[0].item()
