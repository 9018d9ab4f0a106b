"""Matrices whose single columns are cheap to read, for inputs that are mostly zero.

After relu², most inputs of channel_mix_value are zero, and their columns need not be read. The
result is the same to the last bit: their products would be zeros in sums of whole numbers.

Layout of the quantized formats (`matmul_floats.py` has the others): groups of 128 rows; in each,
block after block of 32 columns; in a block the 128 scales, as halves, and then column after column
of codes. Codes of a column lie in the order in which `transpose4` leaves rows side by side.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.kernels.activations import BLOCK
from rwkv_edge.runtime.kernels.pack import ROWS
from rwkv_edge.runtime.kernels.panel import (
    BLOCK_BYTES,
    PANEL_BLOCKS,
    PANEL_TOKENS,
    SCALES,
    call_panel,
    scaled,
)
from rwkv_edge.runtime.simd.arithmetic import nibbles_from, splat_f32, splat_i32
from rwkv_edge.runtime.simd.memory import (
    load_f16x16,
    load_f32x16,
    load_i8x64,
    prefetch,
    store_bytes_f32x16,
    store_f32x16,
    store_i8x64,
)
from rwkv_edge.runtime.simd.shuffles import transpose4

# Rows of a group: a column of Q4_0 is then one cache line.
GROUP_ROWS = 128
HALF_ROWS = 64
SCALE_BYTES = 2 * GROUP_ROWS
# Panels of 16 rows in a group, each of so many blocks: together one panel's room.
GROUP_PANELS = GROUP_ROWS // ROWS
GROUP_PANEL_BLOCKS = PANEL_BLOCKS // GROUP_PANELS
# Cache lines ahead of its use that a column is asked for.
PREFETCH_LINES = 128


class ActiveColumns(NamedTuple):
    """Which inputs of T tokens are not zero, block by block of 32.

    counts: (T, blocks) int32, and low_counts those in the first half of the block. columns:
    (T, blocks, 32) int32, within the block, ascending, then zeros. codes: (T, blocks, 32) int8,
    theirs, then zeros; quads: the same bytes as int32.
    """

    counts: npt.NDArray[np.int32]
    low_counts: npt.NDArray[np.int32]
    columns: npt.NDArray[np.int32]
    codes: npt.NDArray[np.int8]
    quads: npt.NDArray[np.int32]


def new_active_columns(n_tokens: int, n_columns: int) -> ActiveColumns:
    """Room for `n_tokens` rows of n_columns."""
    shape = (n_tokens, -(-n_columns // BLOCK))
    codes = np.zeros((*shape, BLOCK), np.int8)
    return ActiveColumns(
        counts=np.zeros(shape, np.int32),
        low_counts=np.zeros(shape, np.int32),
        columns=np.zeros((*shape, BLOCK), np.int32),
        codes=codes,
        quads=codes.view(np.int32),
    )


@kernel
def list_active(codes, active, token, first, last):
    """Fill the lists of one token for columns first to last, multiples of 32, from its codes."""
    for block in range(first // BLOCK, last // BLOCK):
        columns, kept = active.columns[token, block], active.codes[token, block]
        n = 0
        for c in range(BLOCK):
            # Written always and kept if it is not zero: no branch to guess wrong.
            code = codes[block * BLOCK + c]
            columns[n] = c
            kept[n] = code
            n += code != 0
        active.counts[token, block] = n
        for c in range(n, BLOCK):
            columns[c] = 0
            kept[c] = 0


@kernel
def list_active_values(values, active, token, first, last):
    """The same from float32 values, for a matrix that multiplies those; codes are not listed."""
    for block in range(first // BLOCK, (last + BLOCK - 1) // BLOCK):
        columns = active.columns[token, block]
        n = n_low = 0
        for c in range(BLOCK):
            columns[n] = c
            n += values[block * BLOCK + c] != 0
            if c == BLOCK // 2 - 1:
                n_low = n
        active.counts[token, block] = n
        active.low_counts[token, block] = n_low


@inline
def add_quad(take, dot, weights, base, half, columns, quads, i, s0, s1, s2, s3):
    """s + four active columns, of 64 rows, times their codes."""
    w = transpose4(
        take(weights, base, columns[i], half),
        take(weights, base, columns[i + 1], half),
        take(weights, base, columns[i + 2], half),
        take(weights, base, columns[i + 3], half),
    )
    x = splat_i32(quads[i // 4])
    return dot(s0, w[0], x), dot(s1, w[1], x), dot(s2, w[2], x), dot(s3, w[3], x)


@inline
def multiply_half(
    take, empty, dot, widen, zero_code, weights, block_start, codes_start, half,
    x, active, token, block, y, row,
):  # fmt: skip
    """y[row:row + 64] += the product of one block with its active columns; half: 0 or 1."""
    columns, quads = active.columns[token, block], active.quads[token, block]
    s0 = s1 = s2 = s3 = empty()
    for i in range(0, active.counts[token, block], 4):
        s0, s1, s2, s3 = add_quad(
            take, dot, weights, codes_start, half, columns, quads, i, s0, s1, s2, s3
        )
    scales = block_start + 2 * HALF_ROWS * half
    add_scaled(widen(s0), zero_code, weights, scales, x, token, block, y, row)
    add_scaled(widen(s1), zero_code, weights, scales + 32, x, token, block, y, row + 16)
    add_scaled(widen(s2), zero_code, weights, scales + 64, x, token, block, y, row + 32)
    add_scaled(widen(s3), zero_code, weights, scales + 96, x, token, block, y, row + 48)


@inline
def add_scaled(product, zero_code, weights, scales, x, token, block, y, row):
    """y[row:row + 16] += product, scaled."""
    total = load_f32x16(y, row)
    weight_scales = load_f16x16(weights, scales)
    store_f32x16(y, row, scaled(product, zero_code, x, token, block, weight_scales, total))


@inline
def multiply(
    take, empty, dot, widen, zero_code, column_bytes,
    weights, matrix, x, active, n_tokens, y, first_row, last_row, panel,
):  # fmt: skip
    """y[token, row] = sum over active columns of W[row, column] x[token, column]; overwritten.

    take(weights, p, column, half) reads 64 rows of one column of a block that begins at p. Rows
    first_row to last_row, both multiples of 128. Of PANEL_TOKENS tokens on, all columns are read.
    """
    n_blocks = matrix.n_columns // BLOCK
    block_bytes = SCALE_BYTES + BLOCK * column_bytes
    for row in range(first_row, last_row, GROUP_ROWS):
        start = matrix.offset + row // GROUP_ROWS * n_blocks * block_bytes
        if n_tokens >= PANEL_TOKENS:
            for first_block in range(0, n_blocks, GROUP_PANEL_BLOCKS):
                n = min(GROUP_PANEL_BLOCKS, n_blocks - first_block)
                for i in range(n):
                    p = start + (first_block + i) * block_bytes
                    decode_block(take, weights, p, panel, i)
                for k in range(GROUP_PANELS):
                    panel_start = k * GROUP_PANEL_BLOCKS * BLOCK_BYTES
                    operands = (panel, panel_start, n, x, n_tokens, first_block, y, row + k * ROWS)
                    call_panel(matrix.multiply_panel, operands)
            continue
        for token in range(n_tokens):
            out = y[token]
            ahead = blocks_ahead(active.counts[token], SCALE_BYTES, column_bytes)
            for j in range(row, row + GROUP_ROWS, 16):
                store_f32x16(out, j, splat_f32(np.float32(0)))
            for block in range(n_blocks):
                later = block + ahead
                if later < n_blocks:
                    columns, n = active.columns[token, later], active.counts[token, later]
                    ask_for(weights, start + later * block_bytes, column_bytes, columns, n)
                if active.counts[token, block] == 0:
                    continue
                p = start + block * block_bytes
                codes = p + SCALE_BYTES
                for half in range(2):
                    multiply_half(
                        take, empty, dot, widen, zero_code, weights, p, codes, half,
                        x, active, token, block, out, row + half * HALF_ROWS,
                    )  # fmt: skip


@inline
def blocks_ahead(counts, block_bytes, column_bytes):
    """How many blocks further on the lines to ask for lie, by how many columns are active.

    block_bytes are read of every block, column_bytes of every active column.
    """
    n_active = 0
    for block in range(counts.size):
        n_active += counts[block]
    n_bytes = counts.size * block_bytes + n_active * column_bytes
    return 1 + counts.size * PREFETCH_LINES * 64 // max(n_bytes, 1)


@inline
def ask_for(weights, p, column_bytes, columns, n):
    """Prefetch what a block at byte p will read: no hardware guesses which columns."""
    if n > 0:
        for line in range(0, SCALE_BYTES, 64):
            prefetch(weights, p + line)
        for i in range(n):
            for line in range(0, column_bytes, 64):
                prefetch(weights, p + SCALE_BYTES + columns[i] * column_bytes + line)


@inline
def decode_block(take, weights, p, panel, i):
    """Write one block of 128 rows into the group's eight panels, as block i of each."""
    for k in range(GROUP_PANELS):
        target = (k * GROUP_PANEL_BLOCKS + i) * BLOCK_BYTES
        store_bytes_f32x16(panel, target + SCALES, load_f16x16(weights, p + 2 * ROWS * k))
    codes = p + SCALE_BYTES
    for half in range(2):
        for c in range(0, BLOCK, 4):
            w = transpose4(
                take(weights, codes, c, half),
                take(weights, codes, c + 1, half),
                take(weights, codes, c + 2, half),
                take(weights, codes, c + 3, half),
            )
            panel_bytes = GROUP_PANEL_BLOCKS * BLOCK_BYTES
            target = half * 4 * panel_bytes + i * BLOCK_BYTES + c // 4 * 64
            store_i8x64(panel, target, w[0])
            store_i8x64(panel, target + panel_bytes, w[1])
            store_i8x64(panel, target + 2 * panel_bytes, w[2])
            store_i8x64(panel, target + 3 * panel_bytes, w[3])


@inline
def take_nibbles(weights, p, column, half):
    """64 rows of one Q4_0 column: the low halves of its bytes, or the high ones."""
    return nibbles_from(load_i8x64(weights, p + column * 64), np.int32(4 * half))


@inline
def take_bytes(weights, p, column, half):
    """64 rows of one Q8_0 column."""
    return load_i8x64(weights, p + column * 128 + half * 64)
