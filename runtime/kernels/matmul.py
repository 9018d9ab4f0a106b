"""A matrix product, whatever format its weights are in; and which format is which number."""

from enum import IntEnum
from typing import Any

import numba
import numpy as np
from numba import types

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.kernels.columns import ActiveColumns
from rwkv_edge.runtime.kernels.matmul_floats import (
    matmul_bf16,
    matmul_bf16_columns,
    matmul_f16,
    matmul_f16_columns,
    matmul_f32,
    matmul_f32_columns,
)
from rwkv_edge.runtime.kernels.matmul_q4_0 import matmul_q4_0, matmul_q4_0_columns
from rwkv_edge.runtime.kernels.matmul_q8_0 import matmul_q8_0, matmul_q8_0_columns
from rwkv_edge.runtime.kernels.panel import (
    ACTIVATIONS_TYPE,
    byte_panel_address,
    nibble_panel_address,
)
from rwkv_edge.runtime.simd.calls import address_of, array_of, call_through_address

# One packed matrix: where it starts in the arena of weights, rows and columns with padding, format,
# and the addresses of the kernels that multiply it, and a panel of it with many tokens.
MATRIX = np.dtype(
    [
        ("offset", "i8"),
        ("n_rows", "i8"),
        ("n_columns", "i8"),
        ("format", "i8"),
        ("multiply", "i8"),
        ("multiply_panel", "i8"),
    ]
)


class PackedFormat(IntEnum):
    """Formats in memory. Q8_0 to Q4_0_COLUMNS multiply quantized activations; from Q8_0_COLUMNS on
    they can skip columns.
    """

    F32 = 0
    F16 = 1
    BF16 = 2
    Q8_0 = 3
    Q4_0 = 4
    Q8_0_COLUMNS = 5
    Q4_0_COLUMNS = 6
    F32_COLUMNS = 7
    F16_COLUMNS = 8
    BF16_COLUMNS = 9


KERNELS: dict[PackedFormat, Any] = {
    PackedFormat.F32: matmul_f32,
    PackedFormat.F16: matmul_f16,
    PackedFormat.BF16: matmul_bf16,
    PackedFormat.Q8_0: matmul_q8_0,
    PackedFormat.Q4_0: matmul_q4_0,
    PackedFormat.Q8_0_COLUMNS: matmul_q8_0_columns,
    PackedFormat.Q4_0_COLUMNS: matmul_q4_0_columns,
    PackedFormat.F32_COLUMNS: matmul_f32_columns,
    PackedFormat.F16_COLUMNS: matmul_f16_columns,
    PackedFormat.BF16_COLUMNS: matmul_bf16_columns,
}
F32, F16, BF16, Q8_0 = (
    int(f) for f in (PackedFormat.F32, PackedFormat.F16, PackedFormat.BF16, PackedFormat.Q8_0)
)
NIBBLES = (PackedFormat.Q4_0, PackedFormat.Q4_0_COLUMNS)
BYTES = (PackedFormat.Q8_0, PackedFormat.Q8_0_COLUMNS)
FIRST_QUANTIZED = Q8_0
LAST_QUANTIZED = int(PackedFormat.Q4_0_COLUMNS)
FIRST_BY_COLUMNS = int(PackedFormat.Q8_0_COLUMNS)


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


def kernel_addresses(packed_format: PackedFormat) -> tuple[int, int]:
    """`MATRIX.multiply` and `multiply_panel`; compiles the kernels where no one has."""
    multiply = address_of(KERNELS[packed_format], ARGUMENTS)
    if packed_format in NIBBLES:
        return multiply, nibble_panel_address()
    return multiply, byte_panel_address() if packed_format in BYTES else 0


@kernel
def takes_codes(matrix):
    """Does this matrix multiply int8 activations?"""
    return FIRST_QUANTIZED <= matrix.format <= LAST_QUANTIZED


@kernel
def reads_columns(matrix):
    """Can this matrix skip columns whose inputs are zero?"""
    return matrix.format >= FIRST_BY_COLUMNS


@kernel
def matmul(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y[token, row] = sum over columns of W[row, column] x[token, column]; y is overwritten.

    Rows first_row to last_row, both multiples of 16, or of 128 for one that `reads_columns`;
    n_tokens rows of x. active: which columns such a one reads, for fewer than PANEL_TOKENS tokens.
    panel: PANEL_BYTES that this thread has to itself.
    """
    call_kernel(
        matrix.multiply,
        (weights, matrix, x, active, n_tokens, y, first_row, last_row, panel),
    )
