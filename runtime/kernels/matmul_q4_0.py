"""Q4_0 weights times activations.

The codes of a packed block are four vectors; vector j holds, for each of 16 rows, columns 4j..4j+3
in the low halves of its bytes and columns 16+4j..16+4j+3 in the high halves.
"""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.quant.q4_0 import ZERO_CODE
from rwkv_edge.runtime.kernels.columns import multiply as multiply_columns
from rwkv_edge.runtime.kernels.columns import take_nibbles
from rwkv_edge.runtime.kernels.matmul_blocks import multiply
from rwkv_edge.runtime.simd.arithmetic import high_nibbles, low_nibbles
from rwkv_edge.runtime.simd.dot_products import dot4_nibbles, nibble_total, no_nibbles
from rwkv_edge.runtime.simd.memory import load_i8x64

CODE_BYTES = 256
# Of 128 rows of one column.
COLUMN_BYTES = 64


@inline
def unpack(weights, p):
    """The eight vectors of a block."""
    a, b = load_i8x64(weights, p), load_i8x64(weights, p + 64)
    c, d = load_i8x64(weights, p + 128), load_i8x64(weights, p + 192)
    return (
        low_nibbles(a), low_nibbles(b), low_nibbles(c), low_nibbles(d),
        high_nibbles(a), high_nibbles(b), high_nibbles(c), high_nibbles(d),
    )  # fmt: skip


@kernel
def matmul_q4_0(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for Q4_0 weights; see `multiply`."""
    multiply(
        unpack,
        no_nibbles, dot4_nibbles, nibble_total, ZERO_CODE, CODE_BYTES,
        weights, matrix, x, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip


@kernel
def matmul_q4_0_columns(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """The same for weights laid out by columns; see `columns.multiply`."""
    multiply_columns(
        take_nibbles,
        no_nibbles, dot4_nibbles, nibble_total, ZERO_CODE, COLUMN_BYTES,
        weights, matrix, x, active, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip
