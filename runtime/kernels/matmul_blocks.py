"""Weights in blocks of 32 with one scale (Q4_0, Q8_0) times int8 activations.

The two formats share how tiles follow each other and how tokens share them; `pack.py` says how a
tile is laid out. What differs is how a block unpacks into vectors, and how those are multiplied.
"""

import numpy as np

from rwkv_edge.jit import inline
from rwkv_edge.runtime.kernels.activations import BLOCK
from rwkv_edge.runtime.kernels.pack import ROWS, SCALE_BYTES, TILE_BLOCKS
from rwkv_edge.runtime.kernels.panel import (
    BLOCK_BYTES,
    BLOCK_VECTORS,
    PANEL_BLOCKS,
    PANEL_TOKENS,
    call_panel,
    scaled,
    store_block,
)
from rwkv_edge.runtime.simd.arithmetic import splat_f32, splat_i32
from rwkv_edge.runtime.simd.memory import load_f16x16, prefetch, store_f32x16

# How far ahead of its use memory is asked for; the hardware stops at the end of a 4 KiB page.
PREFETCH_BYTES = 4096


@inline
def dot_block(empty, dot, w, quads, k):
    """16 rows x 32 columns of codes times one token's activations. Two chains, not one."""
    a = dot(empty(), w[0], splat_i32(quads[k]))
    b = dot(empty(), w[1], splat_i32(quads[k + 1]))
    a = dot(a, w[2], splat_i32(quads[k + 2]))
    b = dot(b, w[3], splat_i32(quads[k + 3]))
    a = dot(a, w[4], splat_i32(quads[k + 4]))
    b = dot(b, w[5], splat_i32(quads[k + 5]))
    a = dot(a, w[6], splat_i32(quads[k + 6]))
    b = dot(b, w[7], splat_i32(quads[k + 7]))
    return a + b


@inline
def multiply(
    unpack, empty, dot, widen, zero_code, code_bytes,
    weights, matrix, x, n_tokens, y, first_row, last_row, panel,
):  # fmt: skip
    """y[token, row] = sum over columns of W[row, column] x[token, column]; y is overwritten.

    unpack reads a block as eight vectors of four columns; empty(), dot and widen make sums of
    products. Rows first_row to last_row, both multiples of 16. panel: this thread's; overwritten.
    """
    n_blocks = matrix.n_columns // BLOCK
    tile_bytes = TILE_BLOCKS * (code_bytes + SCALE_BYTES)
    for row in range(first_row, last_row, ROWS):
        start = matrix.offset + row // ROWS * (n_blocks // TILE_BLOCKS) * tile_bytes
        if n_tokens >= PANEL_TOKENS:
            for first_block in range(0, n_blocks, PANEL_BLOCKS):
                n = min(PANEL_BLOCKS, n_blocks - first_block)
                for i in range(n):
                    tile = start + (first_block + i) // TILE_BLOCKS * tile_bytes
                    half = i % TILE_BLOCKS
                    codes = tile + half * code_bytes
                    for line in range(0, code_bytes, 64):
                        prefetch(weights, codes + line + PREFETCH_BYTES)
                    scales = tile + TILE_BLOCKS * code_bytes + half * SCALE_BYTES
                    w = unpack(weights, codes)
                    store_block(panel, i * BLOCK_BYTES, w, load_f16x16(weights, scales))
                call_panel(matrix.multiply_panel, (panel, 0, n, x, n_tokens, first_block, y, row))
            continue
        for token in range(n_tokens):
            total = splat_f32(np.float32(0))
            for block in range(n_blocks):
                tile = start + block // TILE_BLOCKS * tile_bytes
                half = block % TILE_BLOCKS
                codes = tile + half * code_bytes
                for line in range(0, code_bytes, 64):
                    prefetch(weights, codes + line + PREFETCH_BYTES)
                w = unpack(weights, codes)
                product = dot_block(empty, dot, w, x.quads[token], block * BLOCK_VECTORS)
                scales = load_f16x16(weights, tile + TILE_BLOCKS * code_bytes + half * SCALE_BYTES)
                total = scaled(widen(product), zero_code, x, token, block, scales, total)
            store_f32x16(y[token], row, total)
