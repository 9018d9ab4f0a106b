"""Q4_0 weights times activations.

The codes of a packed block are four vectors; vector j holds, for each of 16 rows, columns 4j..4j+3
in the low halves of its bytes and columns 16+4j..16+4j+3 in the high halves.
"""

import numpy as np

from rwkv_edge.jit import inline, kernel
from rwkv_edge.quant.q4_0 import ZERO_CODE
from rwkv_edge.runtime.kernels.matmul_blocks import multiply
from rwkv_edge.runtime.simd.arithmetic import dot4_nibbles, high_nibbles, low_nibbles, splat_i32
from rwkv_edge.runtime.simd.memory import load_i8x64

CODE_BYTES = 256


@inline
def load(weights, p):
    """The four vectors of a block."""
    return (
        load_i8x64(weights, p),
        load_i8x64(weights, p + 64),
        load_i8x64(weights, p + 128),
        load_i8x64(weights, p + 192),
    )


@inline
def dot(w, quads, k, correction):
    """16 rows x 32 columns of codes times one token's activations; int32. Two chains, not one."""
    a = dot4_nibbles(correction, low_nibbles(w[0]), splat_i32(quads[k]))
    b = dot4_nibbles(splat_i32(np.int32(0)), low_nibbles(w[1]), splat_i32(quads[k + 1]))
    a = dot4_nibbles(a, low_nibbles(w[2]), splat_i32(quads[k + 2]))
    b = dot4_nibbles(b, low_nibbles(w[3]), splat_i32(quads[k + 3]))
    a = dot4_nibbles(a, high_nibbles(w[0]), splat_i32(quads[k + 4]))
    b = dot4_nibbles(b, high_nibbles(w[1]), splat_i32(quads[k + 5]))
    a = dot4_nibbles(a, high_nibbles(w[2]), splat_i32(quads[k + 6]))
    b = dot4_nibbles(b, high_nibbles(w[3]), splat_i32(quads[k + 7]))
    return a + b


@kernel
def matmul_q4_0(weights, matrix, x, n_tokens, y, first_row, last_row):
    """y = x W^T for Q4_0 weights; see `multiply`."""
    multiply(load, dot, ZERO_CODE, CODE_BYTES, weights, matrix, x, n_tokens, y, first_row, last_row)
