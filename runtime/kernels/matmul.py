"""A matrix product, whatever format its weights are in; and the table of formats."""

import numba
import numpy as np
from numba import types

from rwkv_edge.errors import UnsupportedModelError
from rwkv_edge.jit import kernel
from rwkv_edge.quant import (
    BF16,
    F16,
    F32,
    IQ4_NL,
    IQ4_XS,
    Q2_K,
    Q3_K,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q5_1,
    Q5_K,
    Q6_K,
    Q8_0,
    QuantFormat,
)
from rwkv_edge.runtime.kernels import (
    matmul_floats,
    matmul_iq4_nl,
    matmul_iq4_xs,
    matmul_q2_k,
    matmul_q3_k,
    matmul_q4_0,
    matmul_q4_1,
    matmul_q4_k,
    matmul_q5_0,
    matmul_q5_1,
    matmul_q5_k,
    matmul_q6_k,
    matmul_q8_0,
)
from rwkv_edge.runtime.kernels.columns import ActiveColumns
from rwkv_edge.runtime.kernels.packed_format import PackedFormat
from rwkv_edge.runtime.kernels.panel import ACTIVATIONS_TYPE
from rwkv_edge.runtime.kernels.panel import ARGUMENTS as PANEL_ARGUMENTS
from rwkv_edge.runtime.simd.calls import address_of, array_of, call_through_address
from rwkv_edge.runtime.simd.cpu import tier

# One packed matrix: where it starts in the arena of weights, rows and columns with padding, columns
# that share a scale, rows that threads take together, and the addresses of the kernels that
# multiply it, and a panel of it with many tokens.
MATRIX = np.dtype(
    [
        ("offset", "i8"),
        ("n_rows", "i8"),
        ("n_columns", "i8"),
        ("part_len", "i8"),
        ("row_unit", "i8"),
        ("multiply", "i8"),
        ("multiply_panel", "i8"),
    ]
)

# By the format in a file: how a matrix is packed, and how one whose inputs are mostly zero is.
PACKED_FORMATS: dict[type[QuantFormat], tuple[PackedFormat, PackedFormat]] = {
    F32: (matmul_floats.F32_FORMAT, matmul_floats.F32_COLUMNS_FORMAT),
    F16: (matmul_floats.F16_FORMAT, matmul_floats.F16_COLUMNS_FORMAT),
    BF16: (matmul_floats.BF16_FORMAT, matmul_floats.BF16_COLUMNS_FORMAT),
    Q4_0: (matmul_q4_0.DENSE_FORMAT, matmul_q4_0.COLUMNS_FORMAT),
    Q8_0: (matmul_q8_0.DENSE_FORMAT, matmul_q8_0.COLUMNS_FORMAT),
    Q4_K: (matmul_q4_k.DENSE_FORMAT, matmul_q4_k.COLUMNS_FORMAT),
    Q5_K: (matmul_q5_k.DENSE_FORMAT, matmul_q5_k.COLUMNS_FORMAT),
    Q6_K: (matmul_q6_k.DENSE_FORMAT, matmul_q6_k.COLUMNS_FORMAT),
    # Rarer ones read all columns.
    Q4_1: (matmul_q4_1.DENSE_FORMAT, matmul_q4_1.DENSE_FORMAT),
    Q5_0: (matmul_q5_0.DENSE_FORMAT, matmul_q5_0.DENSE_FORMAT),
    Q5_1: (matmul_q5_1.DENSE_FORMAT, matmul_q5_1.DENSE_FORMAT),
    IQ4_NL: (matmul_iq4_nl.DENSE_FORMAT, matmul_iq4_nl.DENSE_FORMAT),
    Q2_K: (matmul_q2_k.DENSE_FORMAT, matmul_q2_k.DENSE_FORMAT),
    Q3_K: (matmul_q3_k.DENSE_FORMAT, matmul_q3_k.DENSE_FORMAT),
    IQ4_XS: (matmul_iq4_xs.DENSE_FORMAT, matmul_iq4_xs.DENSE_FORMAT),
}


def packed_format(quant_format: type[QuantFormat], sparse_inputs: bool = False) -> PackedFormat:
    """The packed twin of a file's format. Raises UnsupportedModelError if there is none."""
    found = PACKED_FORMATS.get(quant_format)
    if found is None:
        raise UnsupportedModelError(
            f"the numba backend has no kernel for {quant_format.__name__}; "
            "convert the original checkpoint again, or use --backend reference"
        )
    return found[1] if sparse_inputs else found[0]


# Those of `matmul`, which every kernel of a format takes.
ARGUMENTS: tuple[types.Type, ...] = (
    array_of(types.uint8, 1),
    numba.from_dtype(MATRIX),
    ACTIVATIONS_TYPE,
    types.NamedTuple(
        [
            array_of(types.int32, 2),
            array_of(types.int32, 2),
            array_of(types.int32, 3),
            array_of(types.int8, 3),
            array_of(types.int32, 3),
        ],
        ActiveColumns,
    ),
    types.intp,
    array_of(types.float32, 2),
    types.intp,
    types.intp,
    array_of(types.uint8, 1),
)
call_kernel = call_through_address(ARGUMENTS)


def kernel_addresses(packed: PackedFormat) -> tuple[int, int]:
    """`MATRIX.multiply` and `multiply_panel`; compiles the kernels where no one has."""
    multiply = address_of(packed.multiply, ARGUMENTS)
    if packed.multiply_panel is None:
        return multiply, 0
    plain, by_tiles = packed.multiply_panel
    return multiply, address_of(by_tiles if tier() == "amx" else plain, PANEL_ARGUMENTS)


@kernel
def takes_codes(matrix):
    """Does this matrix multiply int8 activations?"""
    return matrix.part_len > 0


@kernel
def matmul(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y[token, row] = sum over columns of W[row, column] x[token, column]; y is overwritten.

    Rows first_row to last_row, both multiples of the matrix's row_unit; n_tokens rows of x. active:
    which columns one that can skip columns reads, for fewer than PANEL_TOKENS tokens. panel:
    PANEL_BYTES that this thread has to itself.
    """
    call_kernel(
        matrix.multiply,
        (weights, matrix, x, active, n_tokens, y, first_row, last_row, panel),
    )
