"""Quantized weights times int8 activations: what all formats share.

A matrix is groups of 16 rows; in a group, tile after tile of blocks of 32 columns. How a tile holds
codes and scales is said where the format's kernel is. That one gives two functions:

add_block(weights, tile, i, x, block, total): total plus the product of block i of the tile at byte
`tile`, which is block `block` of x, the activations of one token.
decode_block(weights, tile, i, panel, p): writes that block to byte p of a panel.
"""

import numpy as np

from rwkv_edge.jit import inline
from rwkv_edge.runtime.kernels.activations import BLOCK, slot
from rwkv_edge.runtime.kernels.packed_format import ROWS
from rwkv_edge.runtime.kernels.panel import (
    BLOCK_VECTORS,
    PANEL_BLOCKS,
    PANEL_TOKENS,
    call_panel,
)
from rwkv_edge.runtime.simd.arithmetic import splat_f32, splat_i32
from rwkv_edge.runtime.simd.dot_products import (
    byte_total,
    dot8_bytes,
    dot8_codes,
    dot8_nibbles,
    nibble_total,
    no_bytes,
    no_nibbles,
)
from rwkv_edge.runtime.simd.memory import CACHE_LINE, at, prefetch_lines_into_l2, store_f32x16

# How far ahead of its use memory is asked for; the hardware stops at the end of a 4 KiB page.
PREFETCH_BYTES = 2048


@inline
def ask_ahead(weights, tile, i, tile_blocks, tile_bytes):
    """Prefetch block i's part of a tile, codes and scales alike, PREFETCH_BYTES further on."""
    part_bytes = (tile_bytes // tile_blocks + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE
    prefetch_lines_into_l2(weights, tile + i * part_bytes + PREFETCH_BYTES, part_bytes)


@inline
def sum_block(empty, dot8, widen, w, quads, block):
    """16 rows x 32 columns of codes times one token's activations. Two chains, not one."""
    k = block * BLOCK_VECTORS
    a = dot8(empty(), w[0], w[1], splat_i32(at(quads, k)), splat_i32(at(quads, k + 1)))
    b = dot8(empty(), w[2], w[3], splat_i32(at(quads, k + 2)), splat_i32(at(quads, k + 3)))
    a = dot8(a, w[4], w[5], splat_i32(at(quads, k + 4)), splat_i32(at(quads, k + 5)))
    b = dot8(b, w[6], w[7], splat_i32(at(quads, k + 6)), splat_i32(at(quads, k + 7)))
    return widen(a + b)


@inline
def sum_halves(empty, dot8, widen, w, quads, block):
    """The same of the first 16 columns, and of the others."""
    k = block * BLOCK_VECTORS
    a = dot8(empty(), w[0], w[1], splat_i32(at(quads, k)), splat_i32(at(quads, k + 1)))
    a = dot8(a, w[2], w[3], splat_i32(at(quads, k + 2)), splat_i32(at(quads, k + 3)))
    b = dot8(empty(), w[4], w[5], splat_i32(at(quads, k + 4)), splat_i32(at(quads, k + 5)))
    b = dot8(b, w[6], w[7], splat_i32(at(quads, k + 6)), splat_i32(at(quads, k + 7)))
    return widen(a), widen(b)


@inline
def sum_nibbles(w, quads, block):
    """`sum_block` of codes 0..15."""
    return sum_block(no_nibbles, dot8_nibbles, nibble_total, w, quads, block)


@inline
def sum_codes(w, quads, block):
    """`sum_block` of codes 0..63."""
    return sum_block(no_bytes, dot8_codes, byte_total, w, quads, block)


@inline
def sum_bytes(w, quads, block):
    """`sum_block` of bytes as `dot4` takes them."""
    return sum_block(no_bytes, dot8_bytes, byte_total, w, quads, block)


@inline
def sum_halves_of_nibbles(w, quads, block):
    """`sum_halves` of codes 0..15."""
    return sum_halves(no_nibbles, dot8_nibbles, nibble_total, w, quads, block)


@inline
def sum_halves_of_codes(w, quads, block):
    """`sum_halves` of codes 0..63."""
    return sum_halves(no_bytes, dot8_codes, byte_total, w, quads, block)


@inline
def multiply(
    add_block, decode_block, tile_blocks, tile_bytes, panel_block_bytes,
    weights, matrix, x, n_tokens, y, first_row, last_row, panel,
):  # fmt: skip
    """y[token, row] = sum over columns of W[row, column] x[token, column]; y is overwritten.

    Rows first_row to last_row, both multiples of 16. panel: this thread's; overwritten.
    """
    n_blocks = matrix.n_columns // BLOCK
    for row in range(first_row, last_row, ROWS):
        start = matrix.offset + row // ROWS * (n_blocks // tile_blocks) * tile_bytes
        if n_tokens >= PANEL_TOKENS:
            for first_block in range(0, n_blocks, PANEL_BLOCKS):
                n = min(PANEL_BLOCKS, n_blocks - first_block)
                for i in range(n):
                    block = first_block + i
                    tile, k = start + block // tile_blocks * tile_bytes, block % tile_blocks
                    ask_ahead(weights, tile, k, tile_blocks, tile_bytes)
                    decode_block(weights, tile, k, panel, i * panel_block_bytes)
                call_panel(matrix.multiply_panel, (panel, 0, n, x, n_tokens, first_block, y, row))
            continue
        for token in range(n_tokens):
            x_row = slot(x, token)
            total = splat_f32(np.float32(0))
            for block in range(0, n_blocks, tile_blocks):
                tile = start + block // tile_blocks * tile_bytes
                for i in range(tile_blocks):
                    ask_ahead(weights, tile, i, tile_blocks, tile_bytes)
                    total = add_block(weights, tile, i, x_row, block + i, total)
            store_f32x16(y[token], row, total)
