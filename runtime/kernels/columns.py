"""Matrices whose single columns are cheap to read, for inputs that are mostly zero.

After relu², most inputs of channel_mix_value are zero, and their columns need not be read. The
result is the same to the last bit: their products would be zeros in sums of whole numbers.

`column_layout.py` says how they lie, and `matmul_floats.py` how plain numbers do.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.kernels.activations import BLOCK, HALF, slot
from rwkv_edge.runtime.kernels.column_layout import (
    GROUP_ROWS,
    HALF_ROWS,
    column_stride,
    places_of,
)
from rwkv_edge.runtime.kernels.packed_format import ROWS
from rwkv_edge.runtime.kernels.panel import PANEL_BLOCKS, PANEL_TOKENS, call_panel
from rwkv_edge.runtime.simd.arithmetic import nibbles_from, splat_f32, splat_i32
from rwkv_edge.runtime.simd.memory import (
    at,
    load_i8x64,
    prefetch_lines_into_l2,
    store_f32x16,
    store_i8x64,
)
from rwkv_edge.runtime.simd.shuffles import transpose4

# Panels of 16 rows in a group, each of so many blocks: together one panel's room.
GROUP_PANELS = GROUP_ROWS // ROWS
GROUP_PANEL_BLOCKS = PANEL_BLOCKS // GROUP_PANELS
# Blocks of all groups of a thread that are decoded before the next ones, so that cache lines which
# lie side by side are read soon one after the other.
TURN_BLOCKS = 16
# From so many tokens on, all columns are read if the active ones of all tokens, added up, are more
# than so many times the columns of the matrix.
FEWEST_PANEL_TOKENS = 4
MOST_ACTIVE = 1.25
# How far ahead of its use memory is asked for.
PREFETCH_BYTES = 8192


class ActiveColumns(NamedTuple):
    """Which inputs of T tokens are not zero, block by block of 32.

    counts: (T, blocks) int32, and low_counts those that are listed first: in the first half of the
    block or, for plain numbers, the even ones. columns: (T, blocks, 32) int32, within the block,
    then zeros. codes: (T, blocks, 32) int8, theirs, then zeros; quads: the same bytes as int32.
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
def list_active(codes, active, token, part_len, first, last):
    """Fill the lists of one token for columns first to last, multiples of 32, from its codes.

    part_len: 32, or 16 for a matrix whose halves of a block have scales of their own. Then those of
    the first half are filled up to whole quads, by columns whose code is zero.
    """
    for block in range(first // BLOCK, last // BLOCK):
        columns, kept = active.columns[token, block], active.codes[token, block]
        n = 0
        for part in range(0, BLOCK, HALF):
            if part > 0 and part_len == HALF:
                whole = (n + 3) // 4 * 4
                for c in range(n, whole):
                    columns[c] = 0
                    kept[c] = 0
                n = whole
            active.low_counts[token, block] = n
            for c in range(part, part + HALF):
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
    """The same from float32 values, for a matrix that multiplies those; codes are not listed.

    Even columns come before odd ones, and low_counts says how many they are.
    """
    for block in range(first // BLOCK, (last + BLOCK - 1) // BLOCK):
        columns = active.columns[token, block]
        n = 0
        for parity in range(2):
            active.low_counts[token, block] = n
            for c in range(parity, BLOCK, 2):
                columns[n] = c
                n += values[block * BLOCK + c] != 0
        active.counts[token, block] = n


@inline
def add_quad(take, dot, weights, codes, stride, half, columns, quads, i, s0, s1, s2, s3):
    """s + four active columns, of 64 rows, times their codes."""
    w = transpose4(
        take(weights, codes + at(columns, i) * stride, half),
        take(weights, codes + at(columns, i + 1) * stride, half),
        take(weights, codes + at(columns, i + 2) * stride, half),
        take(weights, codes + at(columns, i + 3) * stride, half),
    )
    # i is not negative: a shift divides it, where // would look.
    x = splat_i32(at(quads, i >> 2))
    return dot(s0, w[0], x), dot(s1, w[1], x), dot(s2, w[2], x), dot(s3, w[3], x)


@inline
def multiply_half(
    take, empty, dot, widen, add_rows, layout, weights, head, scales, codes, stride, half,
    x, active, token, block, y, row,
):  # fmt: skip
    """y[row:row + 64] += the product of one block with its active columns; half: 0 or 1.

    x, y: of the token. head, scales, codes: where those of the group begin; stride: from one column
    to the next.
    """
    columns, quads = active.columns[token, block], active.quads[token, block]
    n_low, n = active.low_counts[token, block], active.counts[token, block]
    k = GROUP_PANELS // 2 * half
    for part in range(layout.n_parts):
        first = n_low if part > 0 else 0
        last = n_low if part + 1 < layout.n_parts else n
        if first == last:
            continue
        s0 = s1 = s2 = s3 = empty()
        for i in range(first, last, 4):
            s0, s1, s2, s3 = add_quad(
                take, dot, weights, codes, stride, half, columns, quads, i, s0, s1, s2, s3
            )
        add_rows(widen(s0), weights, head, scales, k, part, x, block, y, row)
        add_rows(widen(s1), weights, head, scales, k + 1, part, x, block, y, row + 16)
        add_rows(widen(s2), weights, head, scales, k + 2, part, x, block, y, row + 32)
        add_rows(widen(s3), weights, head, scales, k + 3, part, x, block, y, row + 48)


@inline
def multiply(
    take, empty, dot, widen, add_rows, decode_scales, layout,
    weights, matrix, x, active, n_tokens, y, first_row, last_row, panel,
):  # fmt: skip
    """y[token, row] = sum over active columns of W[row, column] x[token, column]; overwritten.

    take(weights, p, half) reads 64 rows of the column at byte p. add_rows(product, weights, head,
    scales_at, k, part, x, block, y, row) adds a product, scaled, to y[row:row + 16] of one token:
    rows k * 16 of the group whose head and scales begin at these bytes. decode_scales(weights,
    head, scales_at, k, panel, p) writes their scales to a panel. Rows first_row to last_row, both
    multiples of 128. All columns are read where `reads_all` says so.
    """
    if reads_all(active, n_tokens, matrix.n_columns):
        multiply_panels(
            take, decode_scales, layout,
            weights, matrix, x, n_tokens, y, first_row, last_row, panel,
        )  # fmt: skip
        return
    n_blocks, stride = matrix.n_columns // BLOCK, column_stride(layout, matrix)
    first_group, last_group = first_row // GROUP_ROWS, last_row // GROUP_ROWS
    n_groups = last_group - first_group
    for token in range(n_tokens):
        x_row, out = slot(x, token), y[token]
        block_bytes = layout.scale_bytes + layout.head_bytes // layout.tile_blocks
        ahead = blocks_ahead(
            active.counts[token], n_groups * block_bytes, n_groups * layout.column_bytes
        )
        for row in range(first_row, last_row, ROWS):
            store_f32x16(out, row, splat_f32(np.float32(0)))
        for block in range(n_blocks):
            later = block + ahead
            for group in range(first_group, last_group):
                if later < n_blocks:
                    ask_for(weights, layout, matrix, active, token, later, group)
                if active.counts[token, block] == 0:
                    continue
                head, scales, codes = places_of(layout, matrix, block, group)
                for half in range(2):
                    multiply_half(
                        take, empty, dot, widen, add_rows, layout,
                        weights, head, scales, codes, stride, half,
                        x_row, active, token, block, out, group * GROUP_ROWS + half * HALF_ROWS,
                    )  # fmt: skip


@inline
def reads_all(active, n_tokens, n_columns):
    """Do so many columns have to be read that it is cheaper to decode each of them once?"""
    if n_tokens >= PANEL_TOKENS:
        return True
    if n_tokens < FEWEST_PANEL_TOKENS:
        return False
    n_active = 0
    for token in range(n_tokens):
        n_active += count_active(active.counts[token])
    return n_active > n_columns * MOST_ACTIVE


@inline
def count_active(counts):
    """The active columns of one token, in all blocks."""
    n_active = 0
    for block in range(counts.size):
        n_active += counts[block]
    return n_active


@inline
def blocks_ahead(counts, block_bytes, column_bytes):
    """How many blocks further on what to ask for lies, by how many columns are active.

    block_bytes are read of every block, column_bytes of every active column.
    """
    n_bytes = counts.size * block_bytes + count_active(counts) * column_bytes
    return 1 + counts.size * PREFETCH_BYTES // max(n_bytes, 1)


@inline
def ask_for(weights, layout, matrix, active, token, block, group):
    """Prefetch what a group will read of a block: no hardware guesses which columns."""
    columns, n = active.columns[token, block], active.counts[token, block]
    if n == 0:
        return
    stride = column_stride(layout, matrix)
    _, scales, codes = places_of(layout, matrix, block, group)
    prefetch_lines_into_l2(weights, scales, layout.scale_bytes)
    for i in range(n):
        prefetch_lines_into_l2(weights, codes + at(columns, i) * stride, layout.column_bytes)


@inline
def ask_for_all(weights, layout, matrix, block, group):
    """Prefetch all columns of a block; one past the last is harmless."""
    stride = column_stride(layout, matrix)
    _, scales, codes = places_of(layout, matrix, block, group)
    prefetch_lines_into_l2(weights, scales, layout.scale_bytes)
    for column in range(BLOCK):
        prefetch_lines_into_l2(weights, codes + column * stride, layout.column_bytes)


@inline
def multiply_panels(
    take, decode_scales, layout, weights, matrix, x, n_tokens, y, first_row, last_row, panel
):
    """`multiply` for many tokens: all columns are read, and decoded once for all of them.

    Some columns of all groups before the next ones: their cache lines lie side by side.
    """
    n_blocks = matrix.n_columns // BLOCK
    for first_block in range(0, n_blocks, TURN_BLOCKS):
        last_block = min(first_block + TURN_BLOCKS, n_blocks)
        for row in range(first_row, last_row, GROUP_ROWS):
            for block in range(first_block, last_block, GROUP_PANEL_BLOCKS):
                n = min(GROUP_PANEL_BLOCKS, last_block - block)
                for i in range(n):
                    later = block + i + GROUP_PANEL_BLOCKS
                    ask_for_all(weights, layout, matrix, later, row // GROUP_ROWS)
                    decode_block(
                        take, decode_scales, layout,
                        weights, matrix, block + i, row // GROUP_ROWS, panel, i,
                    )  # fmt: skip
                for k in range(GROUP_PANELS):
                    start = k * GROUP_PANEL_BLOCKS * layout.panel_block_bytes
                    operands = (panel, start, n, x, n_tokens, block, y, row + k * ROWS)
                    call_panel(matrix.multiply_panel, operands)


@inline
def decode_block(take, decode_scales, layout, weights, matrix, block, group, panel, i):
    """Write one block of 128 rows into the group's eight panels, as block i of each."""
    head, scales, codes = places_of(layout, matrix, block, group)
    stride = column_stride(layout, matrix)
    for k in range(GROUP_PANELS):
        target = (k * GROUP_PANEL_BLOCKS + i) * layout.panel_block_bytes
        decode_scales(weights, head, scales, k, panel, target)
    panel_bytes = GROUP_PANEL_BLOCKS * layout.panel_block_bytes
    for half in range(2):
        for c in range(0, BLOCK, 4):
            w = transpose4(
                take(weights, codes + c * stride, half),
                take(weights, codes + (c + 1) * stride, half),
                take(weights, codes + (c + 2) * stride, half),
                take(weights, codes + (c + 3) * stride, half),
            )
            target = half * 4 * panel_bytes + i * layout.panel_block_bytes + c // 4 * 64
            store_i8x64(panel, target, w[0])
            store_i8x64(panel, target + panel_bytes, w[1])
            store_i8x64(panel, target + 2 * panel_bytes, w[2])
            store_i8x64(panel, target + 3 * panel_bytes, w[3])


@inline
def take_nibbles(weights, p, half):
    """64 rows of a column of nibbles: the low halves of its bytes, or the high ones."""
    return nibbles_from(load_i8x64(weights, p), np.int32(4 * half))


@inline
def take_bytes(weights, p, half):
    """64 rows of a column of bytes."""
    return load_i8x64(weights, p + half * HALF_ROWS)
