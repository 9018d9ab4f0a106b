"""Weights in blocks of 32 with one scale (Q4_0, Q8_0) times int8 activations.

The two formats share how tiles follow each other and how tokens share them; `pack.py` says how a
tile is laid out. What differs is the vectors of a block and how they are multiplied.
"""

import numpy as np

from rwkv_edge.jit import inline
from rwkv_edge.runtime.kernels.activations import BLOCK
from rwkv_edge.runtime.kernels.pack import ROWS, SCALE_BYTES, TILE_BLOCKS
from rwkv_edge.runtime.simd.arithmetic import fma, splat_f32, splat_i32, to_f32
from rwkv_edge.runtime.simd.memory import load_f16x16, prefetch, store_f32x16

# Four int8 inputs travel in one int32.
BLOCK_QUADS = BLOCK // 4
# How far ahead of its use memory is asked for; the hardware stops at the end of a 4 KiB page.
PREFETCH_BYTES = 4096


@inline
def add_block(dot, zero_code, total, w, weight_scale, x, token, block):
    """total + the product of one block (16 rows x 32 columns), scaled.

    The codes are weights plus zero_code, so zero_code times the sum of the activations goes off.
    """
    correction = splat_i32(np.int32(-zero_code * x.sums[token, block]))
    product = to_f32(dot(w, x.quads[token], block * BLOCK_QUADS, correction))
    return fma(product, weight_scale * splat_f32(x.scales[token, block]), total)


@inline
def multiply(
    load, dot, zero_code, code_bytes, weights, matrix, x, n_tokens, y, first_row, last_row
):
    """y[token, row] = sum over columns of W[row, column] x[token, column]; y is overwritten.

    load reads the vectors of a block; dot multiplies them with one token's activations.
    Rows first_row to last_row, both multiples of 16. Four tokens share each reading of a tile.
    """
    n_blocks = matrix.n_columns // BLOCK
    tile_bytes = TILE_BLOCKS * (code_bytes + SCALE_BYTES)
    for row in range(first_row, last_row, ROWS):
        start = matrix.offset + row // ROWS * (n_blocks // TILE_BLOCKS) * tile_bytes
        token = 0
        while token + 4 <= n_tokens:
            y0 = y1 = y2 = y3 = splat_f32(np.float32(0))
            for block in range(n_blocks):
                tile = start + block // TILE_BLOCKS * tile_bytes
                half = block % TILE_BLOCKS
                w = load(weights, tile + half * code_bytes)
                scale = load_f16x16(weights, tile + TILE_BLOCKS * code_bytes + half * SCALE_BYTES)
                y0 = add_block(dot, zero_code, y0, w, scale, x, token, block)
                y1 = add_block(dot, zero_code, y1, w, scale, x, token + 1, block)
                y2 = add_block(dot, zero_code, y2, w, scale, x, token + 2, block)
                y3 = add_block(dot, zero_code, y3, w, scale, x, token + 3, block)
            store_f32x16(y[token], row, y0)
            store_f32x16(y[token + 1], row, y1)
            store_f32x16(y[token + 2], row, y2)
            store_f32x16(y[token + 3], row, y3)
            token += 4
        while token < n_tokens:
            total = splat_f32(np.float32(0))
            for block in range(n_blocks):
                tile = start + block // TILE_BLOCKS * tile_bytes
                half = block % TILE_BLOCKS
                codes = tile + half * code_bytes
                for line in range(0, code_bytes, 64):
                    prefetch(weights, codes + line + PREFETCH_BYTES)
                w = load(weights, codes)
                scale = load_f16x16(weights, tile + TILE_BLOCKS * code_bytes + half * SCALE_BYTES)
                total = add_block(dot, zero_code, total, w, scale, x, token, block)
            store_f32x16(y[token], row, total)
            token += 1
