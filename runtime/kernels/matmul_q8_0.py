"""Q8_0 weights times activations.

The codes of a packed block are eight vectors; vector j holds columns 4j..4j+3 of each of 16 rows,
plus 128: the dot product of bytes takes one side unsigned.
"""

import numpy as np

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.kernels.matmul_blocks import multiply
from rwkv_edge.runtime.simd.arithmetic import dot4, splat_i32
from rwkv_edge.runtime.simd.memory import load_i8x64

CODE_BYTES = 512
ZERO_CODE = 128
# Adds 128 to each byte of a 16-bit word, which flips their signs.
FLIP_SIGNS = 0x8080


@inline
def load(weights, p):
    """The eight vectors of a block."""
    return (
        load_i8x64(weights, p),
        load_i8x64(weights, p + 64),
        load_i8x64(weights, p + 128),
        load_i8x64(weights, p + 192),
        load_i8x64(weights, p + 256),
        load_i8x64(weights, p + 320),
        load_i8x64(weights, p + 384),
        load_i8x64(weights, p + 448),
    )


@inline
def dot(w, quads, k, correction):
    """16 rows x 32 columns of codes times one token's activations; int32. Two chains, not one."""
    a = dot4(correction, w[0], splat_i32(quads[k]))
    b = dot4(splat_i32(np.int32(0)), w[1], splat_i32(quads[k + 1]))
    a = dot4(a, w[2], splat_i32(quads[k + 2]))
    b = dot4(b, w[3], splat_i32(quads[k + 3]))
    a = dot4(a, w[4], splat_i32(quads[k + 4]))
    b = dot4(b, w[5], splat_i32(quads[k + 5]))
    a = dot4(a, w[6], splat_i32(quads[k + 6]))
    b = dot4(b, w[7], splat_i32(quads[k + 7]))
    return a + b


@kernel
def matmul_q8_0(weights, matrix, x, n_tokens, y, first_row, last_row):
    """y = x W^T for Q8_0 weights; see `multiply`."""
    multiply(load, dot, ZERO_CODE, CODE_BYTES, weights, matrix, x, n_tokens, y, first_row, last_row)
