"""Matrices whose single columns are cheap to read, for inputs that are mostly zero.

After relu², most inputs of channel_mix_value are zero, and their columns need not be read. The
result is the same to the last bit: their products would be zeros in sums of whole numbers.

Layout of the quantized formats (`matmul_floats.py` has the others): groups of 128 rows; in each,
tile after tile of columns. A tile has a head, for what all its blocks share, and then its blocks of
32 columns: in each their scales, and then column after column of codes. Codes of a column lie in
the order in which `transpose4` leaves rows side by side.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.kernels.activations import BLOCK, HALF
from rwkv_edge.runtime.kernels.packed_format import ROWS
from rwkv_edge.runtime.kernels.panel import PANEL_BLOCKS, PANEL_TOKENS, call_panel
from rwkv_edge.runtime.simd.arithmetic import nibbles_from, splat_f32, splat_i32
from rwkv_edge.runtime.simd.memory import load_i8x64, prefetch, store_f32x16, store_i8x64
from rwkv_edge.runtime.simd.shuffles import transpose4

# Rows of a group: a column of nibbles is then one cache line.
GROUP_ROWS = 128
HALF_ROWS = 64
# Bytes of a word of one or two bytes for each row of a group.
ROW_BYTES, ROW_HALVES = GROUP_ROWS, 2 * GROUP_ROWS
# Bytes of one column of a group.
NIBBLE_COLUMN, BYTE_COLUMN = GROUP_ROWS // 2, GROUP_ROWS
# Panels of 16 rows in a group, each of so many blocks: together one panel's room.
GROUP_PANELS = GROUP_ROWS // ROWS
GROUP_PANEL_BLOCKS = PANEL_BLOCKS // GROUP_PANELS
# Cache lines ahead of its use that a column is asked for.
PREFETCH_LINES = 128


class ColumnLayout(NamedTuple):
    """Sizes of a format's tiles.

    tile_blocks: blocks of a tile; head_bytes: of a tile; scale_bytes: of a block; column_bytes: of
    a column of codes; n_parts: of a block that have scales of their own, 1 or 2.
    panel_block_bytes: of a block in a panel.
    """

    tile_blocks: int
    head_bytes: int
    scale_bytes: int
    column_bytes: int
    n_parts: int
    panel_block_bytes: int


def tile_bytes(layout: ColumnLayout) -> int:
    """Bytes of a tile of 128 rows."""
    block_bytes = layout.scale_bytes + BLOCK * layout.column_bytes
    return layout.head_bytes + layout.tile_blocks * block_bytes


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
def add_quad(take, dot, weights, codes, half, columns, quads, i, s0, s1, s2, s3):
    """s + four active columns, of 64 rows, times their codes."""
    w = transpose4(
        take(weights, codes, columns[i], half),
        take(weights, codes, columns[i + 1], half),
        take(weights, codes, columns[i + 2], half),
        take(weights, codes, columns[i + 3], half),
    )
    x = splat_i32(quads[i // 4])
    return dot(s0, w[0], x), dot(s1, w[1], x), dot(s2, w[2], x), dot(s3, w[3], x)


@inline
def multiply_half(
    take, empty, dot, widen, add_rows, layout, weights, tile, block_start, half,
    x, active, token, block, y, row,
):  # fmt: skip
    """y[row:row + 64] += the product of one block with its active columns; half: 0 or 1."""
    columns, quads = active.columns[token, block], active.quads[token, block]
    n_low, n = active.low_counts[token, block], active.counts[token, block]
    codes, k = block_start + layout.scale_bytes, GROUP_PANELS // 2 * half
    for part in range(layout.n_parts):
        first = n_low if part > 0 else 0
        last = n_low if part + 1 < layout.n_parts else n
        if first == last:
            continue
        s0 = s1 = s2 = s3 = empty()
        for i in range(first, last, 4):
            s0, s1, s2, s3 = add_quad(
                take, dot, weights, codes, half, columns, quads, i, s0, s1, s2, s3
            )
        add_rows(widen(s0), weights, tile, block_start, k, part, x, token, block, y, row)
        add_rows(widen(s1), weights, tile, block_start, k + 1, part, x, token, block, y, row + 16)
        add_rows(widen(s2), weights, tile, block_start, k + 2, part, x, token, block, y, row + 32)
        add_rows(widen(s3), weights, tile, block_start, k + 3, part, x, token, block, y, row + 48)


@inline
def multiply(
    take, empty, dot, widen, add_rows, decode_scales, layout,
    weights, matrix, x, active, n_tokens, y, first_row, last_row, panel,
):  # fmt: skip
    """y[token, row] = sum over active columns of W[row, column] x[token, column]; overwritten.

    take(weights, p, column, half) reads 64 rows of one column of a block whose codes begin at p.
    add_rows(product, weights, tile, block_start, k, part, x, token, block, y, row) adds a product,
    scaled, to y[row:row + 16]: rows k * 16 of the group. decode_scales(weights, tile, block_start,
    k, panel, p) writes their scales to a panel. Rows first_row to last_row, both multiples of 128.
    Of PANEL_TOKENS tokens on, all columns are read.
    """
    n_blocks = matrix.n_columns // BLOCK
    block_bytes = layout.scale_bytes + BLOCK * layout.column_bytes
    tile_bytes = layout.head_bytes + layout.tile_blocks * block_bytes
    for row in range(first_row, last_row, GROUP_ROWS):
        start = matrix.offset + row // GROUP_ROWS * (n_blocks // layout.tile_blocks) * tile_bytes
        if n_tokens >= PANEL_TOKENS:
            for first_block in range(0, n_blocks, GROUP_PANEL_BLOCKS):
                n = min(GROUP_PANEL_BLOCKS, n_blocks - first_block)
                for i in range(n):
                    block = first_block + i
                    tile = start + block // layout.tile_blocks * tile_bytes
                    p = tile + layout.head_bytes + block % layout.tile_blocks * block_bytes
                    decode_block(take, decode_scales, layout, weights, tile, p, panel, i)
                for k in range(GROUP_PANELS):
                    panel_start = k * GROUP_PANEL_BLOCKS * layout.panel_block_bytes
                    operands = (panel, panel_start, n, x, n_tokens, first_block, y, row + k * ROWS)
                    call_panel(matrix.multiply_panel, operands)
            continue
        for token in range(n_tokens):
            out = y[token]
            fixed_bytes = layout.scale_bytes + layout.head_bytes // layout.tile_blocks
            ahead = blocks_ahead(active.counts[token], fixed_bytes, layout.column_bytes)
            for j in range(row, row + GROUP_ROWS, 16):
                store_f32x16(out, j, splat_f32(np.float32(0)))
            for block in range(n_blocks):
                later = block + ahead
                if later < n_blocks:
                    columns, n = active.columns[token, later], active.counts[token, later]
                    p = start + later // layout.tile_blocks * tile_bytes
                    p += layout.head_bytes + later % layout.tile_blocks * block_bytes
                    ask_for(weights, p, layout, columns, n)
                if active.counts[token, block] == 0:
                    continue
                tile = start + block // layout.tile_blocks * tile_bytes
                p = tile + layout.head_bytes + block % layout.tile_blocks * block_bytes
                for half in range(2):
                    multiply_half(
                        take, empty, dot, widen, add_rows, layout, weights, tile, p, half,
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
def ask_for(weights, p, layout, columns, n):
    """Prefetch what a block at byte p will read: no hardware guesses which columns."""
    if n > 0:
        for line in range(0, layout.scale_bytes, 64):
            prefetch(weights, p + line)
        for i in range(n):
            for line in range(0, layout.column_bytes, 64):
                prefetch(weights, p + layout.scale_bytes + columns[i] * layout.column_bytes + line)


@inline
def decode_block(take, decode_scales, layout, weights, tile, block_start, panel, i):
    """Write one block of 128 rows into the group's eight panels, as block i of each."""
    for k in range(GROUP_PANELS):
        target = (k * GROUP_PANEL_BLOCKS + i) * layout.panel_block_bytes
        decode_scales(weights, tile, block_start, k, panel, target)
    codes = block_start + layout.scale_bytes
    panel_bytes = GROUP_PANEL_BLOCKS * layout.panel_block_bytes
    for half in range(2):
        for c in range(0, BLOCK, 4):
            w = transpose4(
                take(weights, codes, c, half),
                take(weights, codes, c + 1, half),
                take(weights, codes, c + 2, half),
                take(weights, codes, c + 3, half),
            )
            target = half * 4 * panel_bytes + i * layout.panel_block_bytes + c // 4 * 64
            store_i8x64(panel, target, w[0])
            store_i8x64(panel, target + panel_bytes, w[1])
            store_i8x64(panel, target + 2 * panel_bytes, w[2])
            store_i8x64(panel, target + 3 * panel_bytes, w[3])


@inline
def take_nibbles(weights, p, column, half):
    """64 rows of one column of nibbles: the low halves of its bytes, or the high ones."""
    return nibbles_from(load_i8x64(weights, p + column * NIBBLE_COLUMN), np.int32(4 * half))


@inline
def take_bytes(weights, p, column, half):
    """64 rows of one column of bytes."""
    return load_i8x64(weights, p + column * BYTE_COLUMN + half * HALF_ROWS)
