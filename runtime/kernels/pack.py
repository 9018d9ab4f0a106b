"""Weights of a file interleaved into the order in which the matrix products read them."""

import numpy as np

from rwkv_edge.jit import inline, kernel
from rwkv_edge.quant import Q4_0, Q8_0
from rwkv_edge.runtime.simd.arithmetic import (
    high_nibbles,
    low_nibbles,
    nibbles_to_high,
    splat_i8,
)
from rwkv_edge.runtime.simd.memory import store_i8x64
from rwkv_edge.runtime.simd.shuffles import columns4, load_quads

# Rows that travel together: one lane of a vector each.
ROWS = 16
# Blocks of a row in one tile of quantized weights. Two make a tile whole cache lines.
TILE_BLOCKS = 2
SCALE_BYTES = 2 * ROWS
# Bytes of a block in a file, and of its scale.
Q4_0_BYTES, Q8_0_BYTES = Q4_0.block.itemsize, Q8_0.block.itemsize
HALF_BYTES = 2
BLOCK = 32
# Columns of plain numbers that are interleaved before the next ones.
COLUMN_PART = 128


def tile_bytes(code_bytes: int) -> int:
    """Bytes of a tile of quantized weights whose blocks hold `code_bytes` of codes for 16 rows."""
    return TILE_BLOCKS * (code_bytes + SCALE_BYTES)


@kernel
def pack_blocks(raw, packed, code_bytes, flip, first_group, last_group):
    """Interleave groups of 16 rows of a file's blocks (a half of scale, then codes) into tiles.

    A tile is the codes of its first block, those of its second, and the scales of both. In the
    codes of a block, four bytes of row 0 are followed by the same four of rows 1 to 15.
    raw: (rows, bytes of a row) uint8. packed: the matrix, bytes; overwritten. code_bytes: of a
    block and row, a multiple of 16; flip is XORed to each.
    Rows and blocks that the matrix does not have become zero scales.
    """
    n_rows, n_bytes = raw.shape
    block_bytes = HALF_BYTES + code_bytes
    n_blocks = n_bytes // block_bytes
    n_tiles = -(-n_blocks // TILE_BLOCKS)
    for group in range(first_group, last_group):
        row = group * ROWS
        for block in range(TILE_BLOCKS * n_tiles):
            tile = (group * n_tiles + block // TILE_BLOCKS) * TILE_BLOCKS * ROWS * block_bytes
            half = block % TILE_BLOCKS
            codes = tile + half * ROWS * code_bytes
            scales = tile + TILE_BLOCKS * ROWS * code_bytes + half * SCALE_BYTES
            source = block * block_bytes
            if block >= n_blocks:
                for i in range(SCALE_BYTES):
                    packed[scales + i] = 0
            elif row + ROWS <= n_rows:
                pack_scales(raw, packed, source, scales, row, ROWS)
                for j in range(0, code_bytes, 16):
                    first = row * n_bytes + source + HALF_BYTES + j
                    w = load_quads(raw, first, n_bytes)
                    store_quads(packed, codes + j * ROWS, w, splat_i8(flip))
            else:
                pack_scales(raw, packed, source, scales, row, ROWS)
                for lane in range(n_rows - row):
                    for j in range(code_bytes):
                        target = codes + (j // 4 * ROWS + lane) * 4 + j % 4
                        packed[target] = raw[row + lane, source + HALF_BYTES + j] ^ flip


@inline
def store_quads(packed, p, w, flip):
    """Four vectors, XORed."""
    store_i8x64(packed, p, w[0] ^ flip)
    store_i8x64(packed, p + 64, w[1] ^ flip)
    store_i8x64(packed, p + 128, w[2] ^ flip)
    store_i8x64(packed, p + 192, w[3] ^ flip)


@kernel
def pack_columns(raw, packed, n_columns_padded, group_rows, first_group, last_group):
    """Interleave groups of rows of plain numbers: column by column, `group_rows` rows each.

    raw: (rows, columns) of any integer type as wide as the numbers; packed: 1-d of the same type,
    overwritten. Rows and columns that the matrix does not have become zero.
    """
    n_rows, n_columns = raw.shape
    for group in range(first_group, last_group):
        start = group * n_columns_padded * group_rows
        # By parts of the columns, so that what is written stays in the nearest cache.
        for part in range(0, n_columns_padded, COLUMN_PART):
            for lane in range(group_rows):
                row = group * group_rows + lane
                for column in range(part, min(part + COLUMN_PART, n_columns_padded)):
                    target = start + column * group_rows + lane
                    if row < n_rows and column < n_columns:
                        packed[target] = raw[row, column]
                    else:
                        packed[target] = 0


@inline
def load_group(raw, first, stride):
    """16 bytes of each of 64 rows: four times the vectors of `load_quads`."""
    return (
        load_quads(raw, first, stride),
        load_quads(raw, first + 16 * stride, stride),
        load_quads(raw, first + 32 * stride, stride),
        load_quads(raw, first + 48 * stride, stride),
    )


@inline
def columns_of(group, quad):
    """Four columns of 64 rows, of those that `load_group` read."""
    return columns4(group[0][quad], group[1][quad], group[2][quad], group[3][quad])


@inline
def store_nibbles(packed, p, low, high):
    """A column of low nibbles at p, and 16 columns on one of high nibbles; 128 rows each."""
    store_i8x64(packed, p, low_nibbles(low) | nibbles_to_high(low_nibbles(high)))
    store_i8x64(packed, p + 16 * 64, high_nibbles(low) | nibbles_to_high(high_nibbles(high)))


@kernel
def pack_nibble_columns(raw, packed, order, group_rows, first_group, last_group):
    """Rearrange Q4_0 blocks (a half of scale, 16 bytes of codes) for `columns.py`.

    raw: (rows, bytes of a row) uint8; packed: the matrix, bytes; overwritten. Byte p of a column
    holds row order[p] of a group of 128 in its low half and row 64 + order[p] in its high one;
    order: `rows_side_by_side`. Rows that the matrix does not have are zeros.
    """
    n_rows, n_bytes = raw.shape
    n_blocks = n_bytes // Q4_0_BYTES
    half_rows = group_rows // 2
    target = first_group * n_blocks * (HALF_BYTES * group_rows + BLOCK * half_rows)
    for group in range(first_group, last_group):
        row = group * group_rows
        for block in range(n_blocks):
            source = Q4_0_BYTES * block
            pack_scales(raw, packed, source, target, row, group_rows)
            target += HALF_BYTES * group_rows
            if row + group_rows <= n_rows:
                first = row * n_bytes + source + HALF_BYTES
                low = load_group(raw, first, n_bytes)
                high = load_group(raw, first + half_rows * n_bytes, n_bytes)
                store_nibble_block(packed, target, low, high)
            else:
                for p in range(half_rows):
                    low_row = row + order[p]
                    high_row = low_row + half_rows
                    for j in range(BLOCK // 2):
                        i = source + HALF_BYTES + j
                        a = raw[low_row, i] if low_row < n_rows else np.uint8(0)
                        b = raw[high_row, i] if high_row < n_rows else np.uint8(0)
                        packed[target + j * half_rows + p] = (a & 15) | (b & 15) << 4
                        packed[target + (BLOCK // 2 + j) * half_rows + p] = (a >> 4) | (b & 0xF0)
            target += BLOCK * half_rows


@inline
def store_nibble_block(packed, target, low, high):
    """All columns of a block of nibbles."""
    store_nibble_columns(packed, target, columns_of(low, 0), columns_of(high, 0))
    store_nibble_columns(packed, target + 256, columns_of(low, 1), columns_of(high, 1))
    store_nibble_columns(packed, target + 512, columns_of(low, 2), columns_of(high, 2))
    store_nibble_columns(packed, target + 768, columns_of(low, 3), columns_of(high, 3))


@inline
def store_nibble_columns(packed, target, low, high):
    """Four bytes of each row: four columns of low nibbles, and four of high ones."""
    store_nibbles(packed, target, low[0], high[0])
    store_nibbles(packed, target + 64, low[1], high[1])
    store_nibbles(packed, target + 128, low[2], high[2])
    store_nibbles(packed, target + 192, low[3], high[3])


@kernel
def pack_byte_columns(raw, packed, order, group_rows, flip, first_group, last_group):
    """Rearrange Q8_0 blocks (a half of scale, 32 codes) for `columns.py`; flip is XORed to codes.

    As `pack_nibble_columns`, but byte p of the first half of a column holds row order[p], and that
    of the second half row 64 + order[p].
    """
    n_rows, n_bytes = raw.shape
    n_blocks = n_bytes // Q8_0_BYTES
    half_rows = group_rows // 2
    target = first_group * n_blocks * (HALF_BYTES * group_rows + BLOCK * group_rows)
    for group in range(first_group, last_group):
        row = group * group_rows
        for block in range(n_blocks):
            source = Q8_0_BYTES * block
            pack_scales(raw, packed, source, target, row, group_rows)
            target += HALF_BYTES * group_rows
            if row + group_rows <= n_rows:
                for j in range(0, 2 * BLOCK, 16):
                    # 16 columns of the first 64 rows, of the others, and the same of 16 more.
                    half, column = j // BLOCK, j % BLOCK
                    first = (row + half * half_rows) * n_bytes + source + HALF_BYTES + column
                    rows = load_group(raw, first, n_bytes)
                    p = target + column * group_rows + half * half_rows
                    store_bytes(packed, p, columns_of(rows, 0), flip)
                    store_bytes(packed, p + 4 * group_rows, columns_of(rows, 1), flip)
                    store_bytes(packed, p + 8 * group_rows, columns_of(rows, 2), flip)
                    store_bytes(packed, p + 12 * group_rows, columns_of(rows, 3), flip)
            else:
                for p in range(group_rows):
                    i = row + p // half_rows * half_rows + order[p % half_rows]
                    for j in range(BLOCK):
                        code = raw[i, source + HALF_BYTES + j] if i < n_rows else np.uint8(0)
                        packed[target + j * group_rows + p] = code ^ flip
            target += BLOCK * group_rows


@inline
def store_bytes(packed, p, columns, flip):
    """Four columns, XORed; half of each, 128 bytes apart."""
    flips = splat_i8(flip)
    store_i8x64(packed, p, columns[0] ^ flips)
    store_i8x64(packed, p + 128, columns[1] ^ flips)
    store_i8x64(packed, p + 256, columns[2] ^ flips)
    store_i8x64(packed, p + 384, columns[3] ^ flips)


@inline
def pack_scales(raw, packed, source, target, first_row, n):
    """The two bytes at `source` of n rows, one row after the other; zeros past the last row."""
    for i in range(n):
        row = first_row + i
        inside = row < raw.shape[0]
        packed[target + HALF_BYTES * i] = raw[row, source] if inside else np.uint8(0)
        packed[target + HALF_BYTES * i + 1] = raw[row, source + 1] if inside else np.uint8(0)
