"""Rows of a file decoded by themselves, for the formats of super-blocks of 256 weights.

Numbers are those of the format's `decode` to the bit. See `embedding.py`.
"""

import numpy as np

from rwkv_edge.jit import inline, kernel
from rwkv_edge.quant.packed_bits import SUPER_BLOCK
from rwkv_edge.quant.q3_k import ZERO_CODE as Q3_K_ZERO
from rwkv_edge.quant.q6_k import ZERO_CODE as Q6_K_ZERO
from rwkv_edge.runtime.kernels.activations import BLOCK, HALF
from rwkv_edge.runtime.kernels.decode_blocks import (
    read_f16,
    read_iq4_values,
    read_nibbles,
    scale_and_add,
    scale_codes,
)
from rwkv_edge.runtime.kernels.pack import SUPER_BLOCKS
from rwkv_edge.runtime.kernels.pack_super_blocks import (
    IQ4_XS_BYTES,
    IQ4_XS_CODES,
    K_LEAST,
    K_SCALES,
    PART_BYTES,
    Q2_K_BYTES,
    Q2_K_CODES,
    Q2_K_LEAST,
    Q2_K_SCALE,
    Q2_K_SCALES,
    Q3_K_BYTES,
    Q3_K_CODES,
    Q3_K_SCALE,
    Q3_K_SCALES,
    Q3_K_THIRD,
    Q4_K_BYTES,
    Q4_K_CODES,
    Q5_K_BYTES,
    Q5_K_CODES,
    Q5_K_FIFTH,
    Q6_K_BYTES,
    Q6_K_CODES,
    Q6_K_SCALE,
    Q6_K_SCALES,
    Q6_K_UPPER,
    iq4_xs_scale,
    q3_k_scale,
    six_bits_of,
)

HALF_SUPER_BLOCK = SUPER_BLOCK // 2


@inline
def read_k_nibbles(raw, p, out, first):
    """Codes of a super-block: a part in the low halves of 32 bytes, the next in the high ones."""
    for pair in range(SUPER_BLOCKS // 2):
        read_nibbles(raw, p + pair * PART_BYTES, out, first + 2 * pair * BLOCK, 2 * BLOCK)


@inline
def add_bits(raw, p, out, first, bit, mask, worth):
    """Bits of 32 bytes, from `bit` on, as so much more of 32 codes."""
    for j in range(BLOCK):
        out[first + j] += np.float32((raw[p + j] >> bit & mask) * worth)


@inline
def scale_k_parts(raw, p, out, first):
    """Codes become weights: scale * part's scale * code - least * part's least."""
    scale, least = read_f16(raw, p), read_f16(raw, p + K_LEAST)
    for i in range(SUPER_BLOCKS):
        part_scale, part_least = six_bits_of(raw, p + K_SCALES, i)
        scaled, lowest = scale * np.float32(part_scale), least * np.float32(part_least)
        scale_and_add(out, first + i * BLOCK, BLOCK, scaled, -lowest)


@kernel(exact=True)
def decode_row_q4_k(raw, out, n_columns):
    """scale * part's scale * code - least * part's least."""
    for block in range(n_columns // SUPER_BLOCK):
        p, first = block * Q4_K_BYTES, block * SUPER_BLOCK
        read_k_nibbles(raw, p + Q4_K_CODES, out, first)
        scale_k_parts(raw, p, out, first)


@kernel(exact=True)
def decode_row_q5_k(raw, out, n_columns):
    """As Q4_K."""
    for block in range(n_columns // SUPER_BLOCK):
        p, first = block * Q5_K_BYTES, block * SUPER_BLOCK
        read_k_nibbles(raw, p + Q5_K_CODES, out, first)
        for i in range(SUPER_BLOCKS):
            add_bits(raw, p + Q5_K_FIFTH, out, first + i * BLOCK, i, 1, 16)
        scale_k_parts(raw, p, out, first)


@kernel(exact=True)
def decode_row_q6_k(raw, out, n_columns):
    """scale * part's scale * (code - 32)."""
    for block in range(n_columns // SUPER_BLOCK):
        p, first = block * Q6_K_BYTES, block * SUPER_BLOCK
        for half in range(2):
            begin = first + half * HALF_SUPER_BLOCK
            codes = p + Q6_K_CODES + half * 2 * PART_BYTES
            read_nibbles(raw, codes, out, begin, HALF_SUPER_BLOCK)
            upper = p + Q6_K_UPPER + half * PART_BYTES
            for i in range(4):
                add_bits(raw, upper, out, begin + i * BLOCK, 2 * i, 3, 16)
        scale = read_f16(raw, p + Q6_K_SCALE)
        for part in range(2 * SUPER_BLOCKS):
            scaled = scale * np.float32(np.int8(raw[p + Q6_K_SCALES + part]))
            scale_codes(out, first + part * HALF, HALF, scaled, Q6_K_ZERO)


@inline
def read_pairs(raw, p, out, first):
    """Codes of two bits: 32 bytes for the blocks of each half of a super-block."""
    for i in range(SUPER_BLOCKS):
        begin = first + i * BLOCK
        for j in range(BLOCK):
            out[begin + j] = 0
        add_bits(raw, p + i // 4 * PART_BYTES, out, begin, i % 4 * 2, 3, 1)


@kernel(exact=True)
def decode_row_q3_k(raw, out, n_columns):
    """scale * (part's scale - 32) * (code - 4)."""
    for block in range(n_columns // SUPER_BLOCK):
        p, first = block * Q3_K_BYTES, block * SUPER_BLOCK
        read_pairs(raw, p + Q3_K_CODES, out, first)
        for i in range(SUPER_BLOCKS):
            add_bits(raw, p + Q3_K_THIRD, out, first + i * BLOCK, i, 1, 4)
        scale = read_f16(raw, p + Q3_K_SCALE)
        for part in range(2 * SUPER_BLOCKS):
            scaled = scale * np.float32(q3_k_scale(raw, p + Q3_K_SCALES, part))
            scale_codes(out, first + part * HALF, HALF, scaled, Q3_K_ZERO)


@kernel(exact=True)
def decode_row_q2_k(raw, out, n_columns):
    """scale * part's scale * code - least * part's least."""
    for block in range(n_columns // SUPER_BLOCK):
        p, first = block * Q2_K_BYTES, block * SUPER_BLOCK
        read_pairs(raw, p + Q2_K_CODES, out, first)
        scale, least = read_f16(raw, p + Q2_K_SCALE), read_f16(raw, p + Q2_K_LEAST)
        for part in range(2 * SUPER_BLOCKS):
            both = raw[p + Q2_K_SCALES + part]
            scaled, lowest = np.float32(both & 15) * scale, np.float32(both >> 4) * least
            scale_and_add(out, first + part * HALF, HALF, scaled, -lowest)


@kernel(exact=True)
def decode_row_iq4_xs(raw, out, n_columns):
    """scale * (part's scale - 32) * IQ4_VALUES[code]."""
    for block in range(n_columns // SUPER_BLOCK):
        p, first = block * IQ4_XS_BYTES, block * SUPER_BLOCK
        scale = read_f16(raw, p)
        for i in range(SUPER_BLOCKS):
            begin = first + i * BLOCK
            read_iq4_values(raw, p + IQ4_XS_CODES + i * PART_BYTES // 2, out, begin)
            scaled = scale * np.float32(iq4_xs_scale(raw, p, i))
            scale_codes(out, begin, BLOCK, scaled, 0)
