"""Weights decoded for many tokens at once, and their product with those tokens' activations.

A panel is 16 rows by some blocks of 32 columns, small enough to stay in the L1 cache while every
token of a block passes over it. Each of its blocks is eight vectors, of four columns each, and the
16 scales as float32. All quantized formats are multiplied in this form.
"""

import numpy as np
import numpy.typing as npt
from numba import types

from rwkv_edge.jit import inline, kernel
from rwkv_edge.quant.q4_0 import ZERO_CODE
from rwkv_edge.runtime.kernels.activations import BLOCK, Activations
from rwkv_edge.runtime.kernels.pack import ROWS
from rwkv_edge.runtime.simd.arithmetic import fma, splat_f32, splat_i32, to_f32
from rwkv_edge.runtime.simd.calls import address_of, array_of, call_through_address
from rwkv_edge.runtime.simd.cpu import tier
from rwkv_edge.runtime.simd.dot_products import (
    byte_total,
    byte_zero_code,
    dot4,
    dot4_nibbles,
    nibble_total,
    no_bytes,
    no_nibbles,
)
from rwkv_edge.runtime.simd.memory import (
    load_bytes_f32x16,
    load_bytes_i32x16,
    load_f32x16,
    load_i8x64,
    store_bytes_f32x16,
    store_f32x16,
    store_i8x64,
)
from rwkv_edge.runtime.simd.tiles import (
    tile_config,
    tile_configure,
    tile_dot_s8_u8,
    tile_load,
    tile_release,
    tile_store,
    tile_zero,
)

VECTOR_BYTES = 64
# Vectors of codes in a block: four columns each.
BLOCK_VECTORS = 8
SCALES = BLOCK_VECTORS * VECTOR_BYTES
BLOCK_BYTES = SCALES + 4 * ROWS
# Blocks of 16 rows that a panel has room for: 18 KB, beside 4 KB of four tokens' activations.
PANEL_BLOCKS = 32
CODES_END = PANEL_BLOCKS * BLOCK_BYTES
# Behind the blocks: the shapes of AMX tiles, and room for the products of some of them.
TILE_BYTES = 1024
TILE_BLOCKS = 8
PRODUCTS = CODES_END + 64
PANEL_BYTES = PRODUCTS + TILE_BLOCKS * TILE_BYTES
# From so many tokens on, decoding for all of them pays.
PANEL_TOKENS = 4
# Tokens that a tile of AMX takes.
TILE_TOKENS = 16
CACHE_LINE = 64


# The types of `multiply_nibble_panel` and its like.
ACTIVATIONS_TYPE = types.NamedTuple(
    [
        array_of(types.float32, 2),
        array_of(types.int8, 2),
        array_of(types.int32, 2),
        array_of(types.float32, 2),
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
    # Sums, activations and weights of two blocks: tiles 0 and 1, 2 and 3, 4 and 5.
    tokens, rows = TILE_TOKENS, ROWS
    shapes = [(tokens, 4 * rows)] * 2 + [(tokens, BLOCK)] * 2 + [(BLOCK // 4, 4 * rows)] * 2
    panels[:, CODES_END : CODES_END + 64] = tile_config(shapes)
    return panels


@inline
def store_block(panel, p, w, scales):
    """Write one block: eight vectors and the scales."""
    store_i8x64(panel, p, w[0])
    store_i8x64(panel, p + 64, w[1])
    store_i8x64(panel, p + 128, w[2])
    store_i8x64(panel, p + 192, w[3])
    store_i8x64(panel, p + 256, w[4])
    store_i8x64(panel, p + 320, w[5])
    store_i8x64(panel, p + 384, w[6])
    store_i8x64(panel, p + 448, w[7])
    store_bytes_f32x16(panel, p + SCALES, scales)


@inline
def scaled(product, zero_code, x, token, block, weight_scales, total):
    """total + the product of one block, scaled.

    The codes are weights plus zero_code, so zero_code times the sum of the activations goes off.
    """
    offset = splat_i32(x.sums[token, block]) * splat_i32(np.int32(zero_code))
    scales = weight_scales * splat_f32(x.scales[token, block])
    return fma(to_f32(product - offset), scales, total)


@inline
def start_of(y, token, row, first_block):
    """The sum so far: zero before the first block."""
    return load_f32x16(y[token], row) if first_block > 0 else splat_f32(np.float32(0))


@inline
def multiply_panel(
    empty, dot, widen, zero_code, panel, start, n_blocks, x, token, n_tokens, first_block, y, row
):
    """y[token, row:row + 16] += panel times x, for tokens token to n_tokens.

    first_block: the block of x that the panel begins at; from 0 y is set. empty(), dot and widen
    make sums of products; start: byte of the panel. Two tokens share each reading: with 16
    registers there is no room for more.
    """
    while token + 2 <= n_tokens:
        q0, q1 = x.quads[token], x.quads[token + 1]
        y0 = start_of(y, token, row, first_block)
        y1 = start_of(y, token + 1, row, first_block)
        for i in range(n_blocks):
            p = start + i * BLOCK_BYTES
            block = first_block + i
            s0 = s1 = empty()
            for j in range(BLOCK_VECTORS):
                w = load_i8x64(panel, p + j * VECTOR_BYTES)
                s0 = dot(s0, w, splat_i32(q0[block * BLOCK_VECTORS + j]))
                s1 = dot(s1, w, splat_i32(q1[block * BLOCK_VECTORS + j]))
            scales = load_bytes_f32x16(panel, p + SCALES)
            y0 = scaled(widen(s0), zero_code, x, token, block, scales, y0)
            y1 = scaled(widen(s1), zero_code, x, token + 1, block, scales, y1)
        store_f32x16(y[token], row, y0)
        store_f32x16(y[token + 1], row, y1)
        token += 2
    if token < n_tokens:
        q0 = x.quads[token]
        y0 = start_of(y, token, row, first_block)
        for i in range(n_blocks):
            p = start + i * BLOCK_BYTES
            block = first_block + i
            s0 = empty()
            for j in range(BLOCK_VECTORS):
                w = load_i8x64(panel, p + j * VECTOR_BYTES)
                s0 = dot(s0, w, splat_i32(q0[block * BLOCK_VECTORS + j]))
            scales = load_bytes_f32x16(panel, p + SCALES)
            y0 = scaled(widen(s0), zero_code, x, token, block, scales, y0)
        store_f32x16(y[token], row, y0)


@kernel
def multiply_nibble_panel(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_panel` for codes 0..15 of Q4_0."""
    multiply_panel(
        no_nibbles, dot4_nibbles, nibble_total, ZERO_CODE,
        panel, start, n_blocks, x, 0, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_byte_panel(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_panel` for codes of eight bits."""
    multiply_panel(
        no_bytes, dot4, byte_total, byte_zero_code(),
        panel, start, n_blocks, x, 0, n_tokens, first_block, y, row,
    )  # fmt: skip


@inline
def multiply_tiles(zero_code, panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """The same for tokens in groups of 16, by AMX; gives how many that were.

    A tile sums one block, whose products are then scaled: the sums are whole numbers, and so the
    same as every other tier's.
    """
    tile_configure(panel[CODES_END:])
    codes_stride, token = x.codes.shape[1], 0
    while token + TILE_TOKENS <= n_tokens:
        for i in range(0, n_blocks, TILE_BLOCKS):
            n = min(TILE_BLOCKS, n_blocks - i)
            for j in range(0, n, 2):
                # Two at a time, so that one's products are stored while the other's are made.
                block_start = start + (i + j) * BLOCK_BYTES
                codes = token * codes_stride + (first_block + i + j) * BLOCK
                tile_zero(0)
                tile_load(2, x.codes, codes, codes_stride)
                tile_load(4, panel, block_start, VECTOR_BYTES)
                tile_dot_s8_u8(0, 2, 4)
                tile_store(0, panel, PRODUCTS + j * TILE_BYTES, VECTOR_BYTES)
                if j + 1 < n:
                    tile_zero(1)
                    tile_load(3, x.codes, codes + BLOCK, codes_stride)
                    tile_load(5, panel, block_start + BLOCK_BYTES, VECTOR_BYTES)
                    tile_dot_s8_u8(1, 3, 5)
                    tile_store(1, panel, PRODUCTS + (j + 1) * TILE_BYTES, VECTOR_BYTES)
            for t in range(TILE_TOKENS):
                total = start_of(y, token + t, row, first_block + i)
                for j in range(n):
                    p = PRODUCTS + j * TILE_BYTES + t * VECTOR_BYTES
                    product = load_bytes_i32x16(panel, p)
                    scales = load_bytes_f32x16(panel, start + (i + j) * BLOCK_BYTES + SCALES)
                    block = first_block + i + j
                    total = scaled(product, zero_code, x, token + t, block, scales, total)
                store_f32x16(y[token + t], row, total)
        token += TILE_TOKENS
    tile_release()
    return token


@kernel
def multiply_nibble_panel_by_tiles(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_nibble_panel` on a CPU with AMX."""
    done = 0
    if n_tokens >= TILE_TOKENS:
        done = multiply_tiles(ZERO_CODE, panel, start, n_blocks, x, n_tokens, first_block, y, row)
    multiply_panel(
        no_nibbles, dot4_nibbles, nibble_total, ZERO_CODE,
        panel, start, n_blocks, x, done, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_byte_panel_by_tiles(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_byte_panel` on a CPU with AMX."""
    done = 0
    if n_tokens >= TILE_TOKENS:
        done = multiply_tiles(
            byte_zero_code(), panel, start, n_blocks, x, n_tokens, first_block, y, row
        )
    multiply_panel(
        no_bytes, dot4, byte_total, byte_zero_code(),
        panel, start, n_blocks, x, done, n_tokens, first_block, y, row,
    )  # fmt: skip


def nibble_panel_address() -> int:
    """The address of the kernel for panels of Q4_0 on this tier."""
    by_tiles = tier() == "amx"
    return address_of(
        multiply_nibble_panel_by_tiles if by_tiles else multiply_nibble_panel, ARGUMENTS
    )


def byte_panel_address() -> int:
    """The address of the kernel for panels of Q8_0 on this tier."""
    by_tiles = tier() == "amx"
    return address_of(multiply_byte_panel_by_tiles if by_tiles else multiply_byte_panel, ARGUMENTS)
