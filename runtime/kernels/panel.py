"""Weights decoded for many tokens at once, and their product with those tokens' activations.

A panel is 16 rows by some blocks of 32 columns, small enough to stay in the L1 cache while every
token of a block passes over it. Each of its blocks is eight vectors, of four columns each, and the
16 scales as float32. All quantized formats are multiplied in this form.
"""

import numpy as np

from rwkv_edge.jit import inline, kernel
from rwkv_edge.quant.q4_0 import ZERO_CODE
from rwkv_edge.runtime.kernels.pack import ROWS
from rwkv_edge.runtime.simd.arithmetic import fma, splat_f32, splat_i32, to_f32
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
    load_f32x16,
    load_i8x64,
    store_bytes_f32x16,
    store_f32x16,
    store_i8x64,
)

VECTOR_BYTES = 64
# Vectors of codes in a block: four columns each.
BLOCK_VECTORS = 8
SCALES = BLOCK_VECTORS * VECTOR_BYTES
BLOCK_BYTES = SCALES + 4 * ROWS
# Blocks of 16 rows that a panel has room for: 18 KB, beside 4 KB of four tokens' activations.
PANEL_BLOCKS = 32
PANEL_BYTES = PANEL_BLOCKS * BLOCK_BYTES
# From so many tokens on, decoding for all of them pays.
PANEL_TOKENS = 4


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
    empty, dot, widen, zero_code, panel, start, n_blocks, x, n_tokens, first_block, y, row
):
    """y[token, row:row + 16] += panel times x, from block first_block of x on; from 0 it is set.

    empty(), dot and widen make sums of products; start: byte of the panel. Two tokens share each
    reading: with 16 registers there is no room for more, and LLVM would rather spill than wait.
    """
    token = 0
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
        panel, start, n_blocks, x, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_byte_panel(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_panel` for codes of eight bits."""
    multiply_panel(
        no_bytes, dot4, byte_total, byte_zero_code(),
        panel, start, n_blocks, x, n_tokens, first_block, y, row,
    )  # fmt: skip
