"""F32, F16 and BF16 weights times float32 activations.

Packed layout: groups of 16 rows side by side, column after column, so that one vector holds one
column. A matrix that may skip columns has groups of 32 rows: a column of F16 is then one cache
line.
"""

import numpy as np

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.kernels.activations import BLOCK
from rwkv_edge.runtime.kernels.columns import blocks_ahead, reads_all
from rwkv_edge.runtime.kernels.pack_floats import (
    BF16_EXPONENT,
    F16_EXPONENT,
    F32_EXPONENT,
    packing_of,
)
from rwkv_edge.runtime.kernels.packed_format import ROWS, PackedFormat
from rwkv_edge.runtime.simd.arithmetic import fma, splat_f32, sums_in_registers
from rwkv_edge.runtime.simd.memory import (
    load_bf16x16,
    load_bytes_f32x16,
    load_f16x16,
    prefetch,
    store_f32x16,
)

# Columns are padded to whole blocks. Even and odd ones are summed side by side: one chain of fused
# multiply-adds would wait for itself. Memory is read straight on, which CPUs foresee.
COLUMN_STEP = BLOCK
COLUMN_GROUP_ROWS = 2 * ROWS


@inline
def multiply(
    load, element_bytes, group_rows, weights, matrix, x, n_tokens, y, first_row, last_row
):  # fmt: skip
    """y[token, row] = sum over columns of W[row, column] x[token, column]; y is overwritten.

    load reads 16 weights of one column. Rows first_row to last_row, both multiples of 16.
    """
    n_columns = matrix.n_columns
    step = element_bytes * group_rows
    zero = splat_f32(np.float32(0))
    n_together = sums_in_registers() // 2
    for row in range(first_row, last_row, ROWS):
        start = matrix.offset + (row // group_rows * n_columns) * step
        start += row % group_rows * element_bytes
        token = 0
        while token + n_together <= n_tokens:
            x0, x1, x2, x3 = x[token], x[token + 1], x[token + 2], x[token + 3]
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = zero
            for c in range(0, n_columns, 2):
                d = c + 1
                w, v = load(weights, start + c * step), load(weights, start + d * step)
                a0, b0 = fma(w, splat_f32(x0[c]), a0), fma(v, splat_f32(x0[d]), b0)
                a1, b1 = fma(w, splat_f32(x1[c]), a1), fma(v, splat_f32(x1[d]), b1)
                a2, b2 = fma(w, splat_f32(x2[c]), a2), fma(v, splat_f32(x2[d]), b2)
                a3, b3 = fma(w, splat_f32(x3[c]), a3), fma(v, splat_f32(x3[d]), b3)
            store_f32x16(y[token], row, a0 + b0)
            store_f32x16(y[token + 1], row, a1 + b1)
            store_f32x16(y[token + 2], row, a2 + b2)
            # Where it is not stored it is not computed either: LLVM knows the number.
            if n_together == 4:
                store_f32x16(y[token + 3], row, a3 + b3)
            token += n_together
        while token < n_tokens:
            x0 = x[token]
            # In the order of the tokens above, so that both give the same bits.
            a0 = b0 = zero
            for c in range(0, n_columns, 2):
                p = start + c * step
                a0 = fma(load(weights, p), splat_f32(x0[c]), a0)
                b0 = fma(load(weights, p + step), splat_f32(x0[c + 1]), b0)
            store_f32x16(y[token], row, a0 + b0)
            token += 1


@inline
def multiply_active(
    load, element_bytes, weights, matrix, x, active, n_tokens, y, first_row, last_row
):  # fmt: skip
    """The same for a matrix in groups of 32 rows, reading active columns alone, to the same bits.

    All columns are read where `reads_all` says so.
    """
    if reads_all(active, n_tokens, matrix.n_columns):
        multiply(
            load, element_bytes, COLUMN_GROUP_ROWS,
            weights, matrix, x, n_tokens, y, first_row, last_row,
        )  # fmt: skip
        return
    n_blocks = matrix.n_columns // BLOCK
    half_bytes = element_bytes * ROWS
    step = 2 * half_bytes
    zero = splat_f32(np.float32(0))
    for token in range(n_tokens):
        values = x[token]
        ahead = blocks_ahead(active.counts[token], 0, step)
        for row in range(first_row, last_row, COLUMN_GROUP_ROWS):
            start = matrix.offset + row * matrix.n_columns * element_bytes
            a0 = a1 = b0 = b1 = zero
            for block in range(n_blocks):
                later = block + ahead
                if later < n_blocks:
                    ask_for(weights, start + later * BLOCK * step, step, active, token, later)
                p, first = start + block * BLOCK * step, block * BLOCK
                columns = active.columns[token, block]
                n_even, n = active.low_counts[token, block], active.counts[token, block]
                for i in range(n_even):
                    value, q = splat_f32(values[first + columns[i]]), p + columns[i] * step
                    a0 = fma(load(weights, q), value, a0)
                    a1 = fma(load(weights, q + half_bytes), value, a1)
                for i in range(n_even, n):
                    value, q = splat_f32(values[first + columns[i]]), p + columns[i] * step
                    b0 = fma(load(weights, q), value, b0)
                    b1 = fma(load(weights, q + half_bytes), value, b1)
            store_f32x16(y[token], row, a0 + b0)
            store_f32x16(y[token], row + ROWS, a1 + b1)


@inline
def ask_for(weights, p, step, active, token, block):
    """Prefetch the active columns of a block at byte p."""
    columns = active.columns[token, block]
    for i in range(active.counts[token, block]):
        for line in range(0, step, 64):
            prefetch(weights, p + columns[i] * step + line)


@kernel
def matmul_f32(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for float32 weights; see `multiply`."""
    multiply(
        load_bytes_f32x16, 4, ROWS, weights, matrix, x.values, n_tokens, y, first_row, last_row
    )


@kernel
def matmul_f16(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for IEEE half weights; see `multiply`."""
    multiply(load_f16x16, 2, ROWS, weights, matrix, x.values, n_tokens, y, first_row, last_row)


@kernel
def matmul_bf16(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for bfloat16 weights; see `multiply`."""
    multiply(load_bf16x16, 2, ROWS, weights, matrix, x.values, n_tokens, y, first_row, last_row)


@kernel
def matmul_f32_columns(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """The same without columns whose inputs are zero; see `multiply_active`."""
    multiply_active(
        load_bytes_f32x16, 4, weights, matrix, x.values, active, n_tokens, y, first_row, last_row
    )


@kernel
def matmul_f16_columns(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """The same without columns whose inputs are zero; see `multiply_active`."""
    multiply_active(
        load_f16x16, 2, weights, matrix, x.values, active, n_tokens, y, first_row, last_row
    )


@kernel
def matmul_bf16_columns(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """The same without columns whose inputs are zero; see `multiply_active`."""
    multiply_active(
        load_bf16x16, 2, weights, matrix, x.values, active, n_tokens, y, first_row, last_row
    )


def format_of(multiply_kernel, exponent, element_bytes, group_rows):
    """Numbers that take so many bytes, in groups of so many rows; only the larger skip columns."""
    return PackedFormat(
        multiply=multiply_kernel,
        pack=packing_of(exponent, group_rows),
        tile_blocks=1,
        tile_bytes=group_rows * COLUMN_STEP * element_bytes,
        multiply_panel=None,
        part_len=0,
        group_rows=group_rows,
        reads_columns=group_rows == COLUMN_GROUP_ROWS,
    )


F32_FORMAT = format_of(matmul_f32, F32_EXPONENT, 4, ROWS)
F16_FORMAT = format_of(matmul_f16, F16_EXPONENT, 2, ROWS)
BF16_FORMAT = format_of(matmul_bf16, BF16_EXPONENT, 2, ROWS)
F32_COLUMNS_FORMAT = format_of(matmul_f32_columns, F32_EXPONENT, 4, COLUMN_GROUP_ROWS)
F16_COLUMNS_FORMAT = format_of(matmul_f16_columns, F16_EXPONENT, 2, COLUMN_GROUP_ROWS)
BF16_COLUMNS_FORMAT = format_of(matmul_bf16_columns, BF16_EXPONENT, 2, COLUMN_GROUP_ROWS)
