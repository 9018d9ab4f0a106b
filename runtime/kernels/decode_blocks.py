"""Rows of a file decoded by themselves, for the formats whose blocks are 32 weights.

Numbers are those of the format's `decode` to the bit. See `embedding.py`.
"""

import numpy as np

from rwkv_edge.jit import inline, kernel
from rwkv_edge.quant.packed_bits import IQ4_VALUES
from rwkv_edge.quant.q4_0 import ZERO_CODE as Q4_0_ZERO
from rwkv_edge.quant.q5_0 import ZERO_CODE as Q5_0_ZERO
from rwkv_edge.runtime.kernels.activations import BLOCK
from rwkv_edge.runtime.kernels.pack_blocks import (
    HALF_BLOCK,
    IQ4_NL_BYTES,
    IQ4_NL_CODES,
    Q4_0_BYTES,
    Q4_0_CODES,
    Q4_1_BYTES,
    Q4_1_CODES,
    Q4_1_LEAST,
    Q5_0_BYTES,
    Q5_0_CODES,
    Q5_0_FIFTH,
    Q5_1_BYTES,
    Q5_1_CODES,
    Q5_1_FIFTH,
    Q5_1_LEAST,
    Q8_0_BYTES,
    Q8_0_CODES,
)
from rwkv_edge.runtime.simd.arithmetic import f16_to_f32


@inline
def read_f16(raw, p):
    """The half at byte p, as float32."""
    return f16_to_f32(np.uint16(raw[p] | raw[p + 1] << 8))


@inline
def read_nibbles(raw, p, out, first, n):
    """n codes of four bits at out[first:]: the low halves of n / 2 bytes, then the high ones."""
    for j in range(n // 2):
        out[first + j] = raw[p + j] & 15
        out[first + n // 2 + j] = raw[p + j] >> 4


@inline
def add_fifth_bits(raw, p, out, first):
    """32 bits of four bytes, which are worth 16 each."""
    for j in range(BLOCK):
        out[first + j] += np.float32((raw[p + j // 8] >> j % 8 & 1) << 4)


@inline
def scale_codes(out, first, n, scale, zero_code):
    """Codes become weights: scale * (code - zero_code)."""
    for j in range(first, first + n):
        out[j] = scale * (out[j] - np.float32(zero_code))


@inline
def scale_and_add(out, first, n, scale, least):
    """Codes become weights: scale * code + least."""
    for j in range(first, first + n):
        out[j] = scale * out[j] + least


@kernel(exact=True)
def decode_row_q8_0(raw, out, n_columns):
    """scale * code."""
    for block in range(n_columns // BLOCK):
        p, first = block * Q8_0_BYTES, block * BLOCK
        scale = read_f16(raw, p)
        for j in range(BLOCK):
            out[first + j] = scale * np.float32(np.int8(raw[p + Q8_0_CODES + j]))


@kernel(exact=True)
def decode_row_q4_0(raw, out, n_columns):
    """scale * (code - 8)."""
    for block in range(n_columns // BLOCK):
        p, first = block * Q4_0_BYTES, block * BLOCK
        read_nibbles(raw, p + Q4_0_CODES, out, first, BLOCK)
        scale_codes(out, first, BLOCK, read_f16(raw, p), Q4_0_ZERO)


@kernel(exact=True)
def decode_row_q4_1(raw, out, n_columns):
    """scale * code + least."""
    for block in range(n_columns // BLOCK):
        p, first = block * Q4_1_BYTES, block * BLOCK
        read_nibbles(raw, p + Q4_1_CODES, out, first, BLOCK)
        scale_and_add(out, first, BLOCK, read_f16(raw, p), read_f16(raw, p + Q4_1_LEAST))


@kernel(exact=True)
def decode_row_q5_0(raw, out, n_columns):
    """scale * (code - 16)."""
    for block in range(n_columns // BLOCK):
        p, first = block * Q5_0_BYTES, block * BLOCK
        read_nibbles(raw, p + Q5_0_CODES, out, first, BLOCK)
        add_fifth_bits(raw, p + Q5_0_FIFTH, out, first)
        scale_codes(out, first, BLOCK, read_f16(raw, p), Q5_0_ZERO)


@kernel(exact=True)
def decode_row_q5_1(raw, out, n_columns):
    """scale * code + least."""
    for block in range(n_columns // BLOCK):
        p, first = block * Q5_1_BYTES, block * BLOCK
        read_nibbles(raw, p + Q5_1_CODES, out, first, BLOCK)
        add_fifth_bits(raw, p + Q5_1_FIFTH, out, first)
        scale_and_add(out, first, BLOCK, read_f16(raw, p), read_f16(raw, p + Q5_1_LEAST))


@inline
def read_iq4_values(raw, p, out, first):
    """32 numbers that the nibbles of 16 bytes stand for."""
    for j in range(HALF_BLOCK):
        out[first + j] = IQ4_VALUES[raw[p + j] & 15]
        out[first + HALF_BLOCK + j] = IQ4_VALUES[raw[p + j] >> 4]


@kernel(exact=True)
def decode_row_iq4_nl(raw, out, n_columns):
    """scale * IQ4_VALUES[code]."""
    for block in range(n_columns // BLOCK):
        p, first = block * IQ4_NL_BYTES, block * BLOCK
        read_iq4_values(raw, p + IQ4_NL_CODES, out, first)
        scale_codes(out, first, BLOCK, read_f16(raw, p), 0)
