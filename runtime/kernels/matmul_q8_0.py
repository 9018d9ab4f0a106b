"""Q8_0 weights times activations.

The codes of a packed block are eight vectors; vector j holds columns 4j..4j+3 of each of 16 rows,
as `dot4` takes them.
"""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.kernels.columns import multiply as multiply_columns
from rwkv_edge.runtime.kernels.columns import take_bytes
from rwkv_edge.runtime.kernels.matmul_blocks import multiply
from rwkv_edge.runtime.simd.dot_products import byte_total, byte_zero_code, dot4, no_bytes
from rwkv_edge.runtime.simd.memory import load_i8x64

CODE_BYTES = 512
# Of 128 rows of one column.
COLUMN_BYTES = 128


@inline
def unpack(weights, p):
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


@kernel
def matmul_q8_0(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for Q8_0 weights; see `multiply`."""
    multiply(
        unpack, no_bytes, dot4, byte_total, byte_zero_code(), CODE_BYTES,
        weights, matrix, x, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip


@kernel
def matmul_q8_0_columns(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """The same for weights laid out by columns; see `columns.multiply`."""
    multiply_columns(
        take_bytes, no_bytes, dot4, byte_total, byte_zero_code(), COLUMN_BYTES,
        weights, matrix, x, active, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip
