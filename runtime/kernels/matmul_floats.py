"""F32, F16 and BF16 weights times float32 activations.

Packed layout: 16 rows side by side, column after column, so that one vector holds one column.
"""

import numpy as np

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.kernels.pack import ROWS
from rwkv_edge.runtime.simd.arithmetic import fma, splat_f32
from rwkv_edge.runtime.simd.memory import (
    load_bf16x16,
    load_bytes_f32x16,
    load_f16x16,
    prefetch,
    store_f32x16,
)

# Columns are padded to a multiple of this. Even and odd ones are summed side by side: one chain of
# fused multiply-adds would wait for itself.
COLUMN_STEP = 4
PREFETCH_BYTES = 2048


@inline
def multiply(load, element_bytes, weights, matrix, x, n_tokens, y, first_row, last_row):
    """y[token, row] = sum over columns of W[row, column] x[token, column]; y is overwritten.

    load reads 16 weights of one column. Rows first_row to last_row, both multiples of 16.
    """
    n_columns = matrix.n_columns
    step = element_bytes * ROWS
    zero = splat_f32(np.float32(0))
    for row in range(first_row, last_row, ROWS):
        start = matrix.offset + row * n_columns * element_bytes
        token = 0
        while token + 4 <= n_tokens:
            x0, x1, x2, x3 = x[token], x[token + 1], x[token + 2], x[token + 3]
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = zero
            for column in range(0, n_columns, 2):
                w = load(weights, start + column * step)
                v = load(weights, start + column * step + step)
                a0, b0 = fma(w, splat_f32(x0[column]), a0), fma(v, splat_f32(x0[column + 1]), b0)
                a1, b1 = fma(w, splat_f32(x1[column]), a1), fma(v, splat_f32(x1[column + 1]), b1)
                a2, b2 = fma(w, splat_f32(x2[column]), a2), fma(v, splat_f32(x2[column + 1]), b2)
                a3, b3 = fma(w, splat_f32(x3[column]), a3), fma(v, splat_f32(x3[column + 1]), b3)
            store_f32x16(y[token], row, a0 + b0)
            store_f32x16(y[token + 1], row, a1 + b1)
            store_f32x16(y[token + 2], row, a2 + b2)
            store_f32x16(y[token + 3], row, a3 + b3)
            token += 4
        while token < n_tokens:
            x0 = x[token]
            # In the order of the four tokens above, so that both give the same bits.
            a0 = b0 = zero
            for column in range(0, n_columns, COLUMN_STEP):
                p = start + column * step
                prefetch(weights, p + PREFETCH_BYTES)
                prefetch(weights, p + PREFETCH_BYTES + 64)
                a0 = fma(load(weights, p), splat_f32(x0[column]), a0)
                b0 = fma(load(weights, p + step), splat_f32(x0[column + 1]), b0)
                a0 = fma(load(weights, p + 2 * step), splat_f32(x0[column + 2]), a0)
                b0 = fma(load(weights, p + 3 * step), splat_f32(x0[column + 3]), b0)
            store_f32x16(y[token], row, a0 + b0)
            token += 1


@kernel
def matmul_f32(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for float32 weights; see `multiply`."""
    multiply(load_bytes_f32x16, 4, weights, matrix, x.values, n_tokens, y, first_row, last_row)


@kernel
def matmul_f16(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for IEEE half weights; see `multiply`."""
    multiply(load_f16x16, 2, weights, matrix, x.values, n_tokens, y, first_row, last_row)


@kernel
def matmul_bf16(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for bfloat16 weights; see `multiply`."""
    multiply(load_bf16x16, 2, weights, matrix, x.values, n_tokens, y, first_row, last_row)
