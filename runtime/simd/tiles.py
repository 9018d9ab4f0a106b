"""Tiles: matrices of up to 16 rows of 64 bytes in registers, and their products of bytes (AMX).

There are eight, 0 to 7. A tile has no type: a dot product says what it takes its bytes for. Tiles
belong to a thread, which configures them before and releases them after use. Only kernels of the
amx tier may use these verbs. Source: Intel's Software Developer's Manual, volume 1, chapter 18.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from rwkv_edge.runtime.simd.cpu import has, tier

N_TILES = 8
I8, I64 = ir.IntType(8), ir.IntType(64)
BYTES = I8.as_pointer()
# What `tile_configure` reads; a tile with no rows is not there.
TILE_CONFIG = np.dtype(
    [
        ("palette", "u1"),
        ("start_row", "u1"),
        ("reserved", "u1", (14,)),
        ("row_bytes", "<u2", (16,)),
        ("n_rows", "u1", (16,)),
    ]
)
# The only one there is, besides 0: no tiles.
PALETTE = 1
ELEMENTS = (types.int8, types.uint8, types.int32)


def tile_config(shapes: Sequence[tuple[int, int]]) -> npt.NDArray[np.uint8]:
    """What `tile_configure` takes, for tiles 0, 1, ... of (rows, bytes a row): (1..16, 4..64).

    The sum of a product of (M, K) by (K, N) bytes has M rows of 4 N bytes, its left side M rows of
    K bytes, and its right side K / 4 rows of 4 N bytes.
    """
    config = np.zeros(1, TILE_CONFIG)
    config["palette"] = PALETTE
    for tile, (n_rows, row_bytes) in enumerate(shapes):
        config["n_rows"][0, tile] = n_rows
        config["row_bytes"][0, tile] = row_bytes
    return config.view(np.uint8)


def _tile(number: Any) -> int:
    """The number of a tile, which is part of the instruction, and so must be known now."""
    if not isinstance(number, types.IntegerLiteral) or number.literal_value not in range(N_TILES):
        raise TypingError(f"a tile's number is a literal int, 0 to 7, not {number}")
    # LLVM would end the process.
    if not has("amx-tile", "amx-int8"):
        raise TypingError(f"tiles need the amx tier; kernels are compiled for {tier()}")
    return int(number.literal_value)


def _emit(builder: Any, name: str, args: list[Any]) -> None:
    kind = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), args)


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), BYTES)


@intrinsic
def tile_configure(typing_context: Any, config: Any) -> Any:
    """Give the tiles the shapes of `tile_config`, and zeros. A shape out of range ends the process.

    config: (64,) uint8.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _emit(builder, "ldtilecfg", [_address(context, builder, sig.args[0], args[0], I64(0))])
        return context.get_dummy_value()

    return (types.void(config), codegen) if config.dtype == types.uint8 else None


@intrinsic
def tile_release(typing_context: Any) -> Any:
    """Take all tiles away: the system then saves 8 KB less when it changes threads."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _emit(builder, "tilerelease", [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic(prefer_literal=True)
def tile_zero(typing_context: Any, tile: Any) -> Any:
    """Zeros in a tile."""
    number = _tile(tile)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _emit(builder, "tilezero", [I8(number)])
        return context.get_dummy_value()

    return types.void(tile), codegen


@intrinsic(prefer_literal=True)
def tile_load(typing_context: Any, tile: Any, array: Any, index: Any, stride_bytes: Any) -> Any:
    """Fill a tile: row r from `stride_bytes` r bytes behind element `index` of the array."""
    return _move("tileloadd64", tile, array)


@intrinsic(prefer_literal=True)
def tile_store(typing_context: Any, tile: Any, array: Any, index: Any, stride_bytes: Any) -> Any:
    """Write a tile: row r to `stride_bytes` r bytes behind element `index` of the array."""
    return _move("tilestored64", tile, array)


def _move(name: str, tile: Any, array: Any) -> Any:
    number = _tile(tile)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _, values, first, stride_bytes = args
        address = _address(context, builder, sig.args[1], values, first)
        _emit(builder, name, [I8(number), address, stride_bytes])
        return context.get_dummy_value()

    accepted = array.dtype in ELEMENTS
    return (types.void(tile, array, types.intp, types.intp), codegen) if accepted else None


@intrinsic(prefer_literal=True)
def tile_dot_u8_s8(typing_context: Any, c: Any, a: Any, b: Any) -> Any:
    """c[m, n] += the sum over k and i in 0..3 of a[m, 4k + i] * b[k, 4n + i]; exact.

    c: int32; a: bytes 0..255; b: bytes -128..127, four rows of the right matrix side by side in
    one row of the tile. Three different tiles.
    """
    return _dot("tdpbusd", c, a, b)


@intrinsic(prefer_literal=True)
def tile_dot_s8_u8(typing_context: Any, c: Any, a: Any, b: Any) -> Any:
    """`tile_dot_u8_s8` of a: bytes -128..127, b: bytes 0..255."""
    return _dot("tdpbsud", c, a, b)


@intrinsic(prefer_literal=True)
def tile_dot_s8_s8(typing_context: Any, c: Any, a: Any, b: Any) -> Any:
    """`tile_dot_u8_s8` of a and b: bytes -128..127."""
    return _dot("tdpbssd", c, a, b)


def _dot(name: str, *tiles: Any) -> Any:
    numbers = [_tile(tile) for tile in tiles]
    if len(set(numbers)) != len(numbers):
        raise TypingError(f"a dot product takes three different tiles, not {numbers}")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _emit(builder, name, [I8(number) for number in numbers])
        return context.get_dummy_value()

    return types.void(*tiles), codegen
