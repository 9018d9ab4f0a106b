"""Weights decoded for many tokens at once: how they lie while those tokens pass over them.

A panel is 16 rows by some blocks of 32 columns, small enough to stay in the L1 cache while every
token of a block passes over it. Each of its blocks is eight vectors of codes, of four columns each,
then the 16 scales as float32; and the 16 least values, in formats that have them. Formats whose
parts are half a block have two of each. `panel_products.py` multiplies panels.
"""

import numpy as np
import numpy.typing as npt
from numba import types

from rwkv_edge.jit import inline
from rwkv_edge.runtime.kernels.activations import BLOCK, Activations
from rwkv_edge.runtime.kernels.packed_format import ROWS
from rwkv_edge.runtime.simd.arithmetic import (
    fma,
    splat_f32,
    splat_i32,
    sums_in_registers,
    to_f32,
)
from rwkv_edge.runtime.simd.calls import array_of, call_through_address
from rwkv_edge.runtime.simd.memory import CACHE_LINE, load_f32x16, store_f32x16, store_i8x64
from rwkv_edge.runtime.simd.tiles import tile_config

VECTOR_BYTES = 64
# Vectors of codes in a block: four columns each.
BLOCK_VECTORS = 8
# Where the scales of a block begin, and its bytes by the vectors of scales and least values.
SCALES = BLOCK_VECTORS * VECTOR_BYTES
BYTES_WITH_1, BYTES_WITH_2, BYTES_WITH_4 = (SCALES + n * VECTOR_BYTES for n in (1, 2, 4))
# Blocks of 16 rows that a panel has room for: 18 to 24 KB, beside 4 KB of activations.
PANEL_BLOCKS = 32
CODES_END = PANEL_BLOCKS * BYTES_WITH_4
# Behind the blocks: the shapes of AMX tiles, and room for the products of some of them.
TILE_BYTES = 1024
TILE_PRODUCTS = 8
CONFIG_BYTES = 64
WHOLE_CONFIG, HALVES_CONFIG = CODES_END, CODES_END + CONFIG_BYTES
PRODUCTS = CODES_END + 2 * CONFIG_BYTES
PANEL_BYTES = PRODUCTS + TILE_PRODUCTS * TILE_BYTES
# From so many tokens on, decoding for all of them pays: fewer are faster each by itself, out of
# the L1 cache.
PANEL_TOKENS = 6
# Tokens that a tile of AMX takes.
TILE_TOKENS = 16


# The types of `multiply_q4_0_panel` and its like.
ACTIVATIONS_TYPE = types.NamedTuple(
    [
        array_of(types.float32, 2),
        array_of(types.int8, 2),
        array_of(types.int32, 2),
        array_of(types.float32, 2),
        array_of(types.int32, 2),
        array_of(types.int32, 2),
    ],
    Activations,
)
ARGUMENTS: tuple[types.Type, ...] = (
    array_of(types.uint8, 1),
    types.intp,
    types.intp,
    ACTIVATIONS_TYPE,
    types.intp,
    types.intp,
    array_of(types.float32, 2),
    types.intp,
)
call_panel = call_through_address(ARGUMENTS)


def new_panels(n_threads: int) -> npt.NDArray[np.uint8]:
    """(threads, PANEL_BYTES): a panel for each, on cache lines of its own."""
    raw = np.zeros(n_threads * PANEL_BYTES + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    panels = raw[start : start + n_threads * PANEL_BYTES].reshape(n_threads, PANEL_BYTES)
    for at, n_columns in ((WHOLE_CONFIG, BLOCK), (HALVES_CONFIG, BLOCK // 2)):
        # Sums, activations and weights of two parts: tiles 0 and 1, 2 and 3, 4 and 5.
        tokens, rows = TILE_TOKENS, ROWS
        shapes = [(tokens, 4 * rows)] * 2
        shapes += [(tokens, n_columns)] * 2 + [(n_columns // 4, 4 * rows)] * 2
        panels[:, at : at + CONFIG_BYTES] = tile_config(shapes)
    return panels


@inline
def store_codes(panel, p, w):
    """Write the eight vectors of a block."""
    store_i8x64(panel, p, w[0])
    store_i8x64(panel, p + 64, w[1])
    store_i8x64(panel, p + 128, w[2])
    store_i8x64(panel, p + 192, w[3])
    store_i8x64(panel, p + 256, w[4])
    store_i8x64(panel, p + 320, w[5])
    store_i8x64(panel, p + 384, w[6])
    store_i8x64(panel, p + 448, w[7])


@inline
def scaled(product, zero_code, x_sum, x_scale, weight_scales, total):
    """total + the product of one part, scaled.

    The codes are weights plus zero_code, so zero_code times the sum of the activations goes off.
    """
    offset = splat_i32(x_sum) * splat_i32(np.int32(zero_code))
    return fma(to_f32(product - offset), weight_scales * splat_f32(x_scale), total)


@inline
def with_least(least, x_sum, x_scale, total):
    """total + the least values of one part times its activations."""
    return fma(least, splat_f32(np.float32(x_sum) * x_scale), total)


@inline
def put_aside(total, y, row):
    """Leave a sum in y until it is taken up again, where sums of products need all registers.

    LLVM would keep it on the stack there, and write and read it several times.
    """
    if registers_are_few():
        store_f32x16(y, row, total)


@inline
def taken_up(total, y, row):
    """The sum that was put aside, or kept."""
    return load_f32x16(y, row) if registers_are_few() else total


@inline
def registers_are_few():
    """Is there no room for sums of products, scaled sums and factors?"""
    return sums_in_registers() < 8


@inline
def start_of(y, row, first_block):
    """The sum of one token so far: zero before the first block."""
    return load_f32x16(y, row) if first_block > 0 else splat_f32(np.float32(0))
