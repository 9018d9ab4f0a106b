"""A matrix product, whatever format its weights are in; and which format is which number."""

from enum import IntEnum

import numpy as np

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.kernels.matmul_floats import matmul_bf16, matmul_f16, matmul_f32
from rwkv_edge.runtime.kernels.matmul_q4_0 import matmul_q4_0
from rwkv_edge.runtime.kernels.matmul_q8_0 import matmul_q8_0

# One packed matrix: where it starts in the arena of weights, rows and columns with padding, format.
MATRIX = np.dtype([("offset", "i8"), ("n_rows", "i8"), ("n_columns", "i8"), ("format", "i8")])


class PackedFormat(IntEnum):
    """Formats in the order of `matmul`; from Q8_0 on they multiply quantized activations."""

    F32 = 0
    F16 = 1
    BF16 = 2
    Q8_0 = 3
    Q4_0 = 4


F32, F16, BF16, Q8_0 = (
    int(f) for f in (PackedFormat.F32, PackedFormat.F16, PackedFormat.BF16, PackedFormat.Q8_0)
)
FIRST_QUANTIZED = Q8_0


@kernel
def takes_codes(matrix):
    """Does this matrix multiply int8 activations?"""
    return matrix.format >= FIRST_QUANTIZED


@kernel
def matmul(weights, matrix, x, n_tokens, y, first_row, last_row):
    """y[token, row] = sum over columns of W[row, column] x[token, column]; y is overwritten.

    Rows first_row to last_row, both multiples of 16; n_tokens rows of x.
    """
    if matrix.format == F32:
        matmul_f32(weights, matrix, x, n_tokens, y, first_row, last_row)
    elif matrix.format == F16:
        matmul_f16(weights, matrix, x, n_tokens, y, first_row, last_row)
    elif matrix.format == BF16:
        matmul_bf16(weights, matrix, x, n_tokens, y, first_row, last_row)
    elif matrix.format == Q8_0:
        matmul_q8_0(weights, matrix, x, n_tokens, y, first_row, last_row)
    else:
        matmul_q4_0(weights, matrix, x, n_tokens, y, first_row, last_row)
