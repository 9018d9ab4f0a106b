"""Weights of a file interleaved into the order in which the matrix products read them."""

import numpy as np

from rwkv_edge.jit import inline, kernel
from rwkv_edge.quant import Q4_0, Q8_0

# Rows that travel together: one lane of a vector each.
ROWS = 16
# Blocks of a row in one tile of quantized weights. Two make a tile whole cache lines.
TILE_BLOCKS = 2
SCALE_BYTES = 2 * ROWS
# Bytes of a block in a file, and of its scale.
Q4_0_BYTES, Q8_0_BYTES = Q4_0.block.itemsize, Q8_0.block.itemsize
HALF_BYTES = 2
BLOCK = 32


def tile_bytes(code_bytes: int) -> int:
    """Bytes of a tile of quantized weights whose blocks hold `code_bytes` of codes for 16 rows."""
    return TILE_BLOCKS * (code_bytes + SCALE_BYTES)


@kernel
def pack_blocks(raw, packed, code_words, flip, first_group, last_group):
    """Interleave groups of 16 rows of a file's blocks (a half of scale, then codes) into tiles.

    A tile is the codes of its first block, those of its second, and the scales of both. In the
    codes of a block, four bytes of row 0 are followed by the same four of rows 1 to 15.
    raw: (rows, words of a row) uint16. packed: the matrix, as uint16 words; overwritten.
    code_words: 16-bit words of codes per block and row; flip is XORed to each.
    Rows and blocks that the matrix does not have become zero scales.
    """
    n_rows, n_words = raw.shape
    block_words = 1 + code_words
    n_blocks = n_words // block_words
    n_tiles = -(-n_blocks // TILE_BLOCKS)
    tile_words = TILE_BLOCKS * ROWS * block_words
    for group in range(first_group, last_group):
        for block in range(TILE_BLOCKS * n_tiles):
            tile = (group * n_tiles + block // TILE_BLOCKS) * tile_words
            half = block % TILE_BLOCKS
            codes = tile + half * ROWS * code_words
            scales = tile + TILE_BLOCKS * ROWS * code_words + half * ROWS
            for lane in range(ROWS):
                row = group * ROWS + lane
                if row >= n_rows or block >= n_blocks:
                    packed[scales + lane] = 0
                    continue
                source = block * block_words
                packed[scales + lane] = raw[row, source]
                for pair in range(code_words // 2):
                    target = codes + (pair * ROWS + lane) * 2
                    packed[target] = raw[row, source + 1 + 2 * pair] ^ flip
                    packed[target + 1] = raw[row, source + 2 + 2 * pair] ^ flip


@kernel
def pack_columns(raw, packed, n_columns_padded, first_group, last_group):
    """Interleave groups of 16 rows of plain numbers: column by column, 16 rows each.

    raw: (rows, columns) of any integer type as wide as the numbers; packed: 1-d of the same type,
    overwritten. Rows and columns that the matrix does not have become zero.
    """
    n_rows, n_columns = raw.shape
    for group in range(first_group, last_group):
        start = group * n_columns_padded * ROWS
        for lane in range(ROWS):
            row = group * ROWS + lane
            for column in range(n_columns_padded):
                target = start + column * ROWS + lane
                if row < n_rows and column < n_columns:
                    packed[target] = raw[row, column]
                else:
                    packed[target] = 0


@kernel
def pack_nibble_columns(raw, packed, order, group_rows, first_group, last_group):
    """Rearrange Q4_0 blocks (a half of scale, 16 bytes of codes) for `columns.py`.

    raw: (rows, bytes of a row) uint8; packed: the matrix, bytes; overwritten. Byte p of a column
    holds row order[p] in its low half and row group_rows / 2 + order[p] in its high one.
    """
    n_rows, n_bytes = raw.shape
    n_blocks = n_bytes // Q4_0_BYTES
    half_rows = group_rows // 2
    target = first_group * n_blocks * (HALF_BYTES * group_rows + BLOCK * half_rows)
    for group in range(first_group, last_group):
        for block in range(n_blocks):
            source = Q4_0_BYTES * block
            pack_scales(raw, packed, source, target, group * group_rows, group_rows)
            target += HALF_BYTES * group_rows
            for p in range(half_rows):
                low_row = group * group_rows + order[p]
                high_row = low_row + half_rows
                for j in range(BLOCK // 2):
                    low = raw[low_row, source + HALF_BYTES + j] if low_row < n_rows else np.uint8(0)
                    high = (
                        raw[high_row, source + HALF_BYTES + j] if high_row < n_rows else np.uint8(0)
                    )
                    packed[target + j * half_rows + p] = (low & 15) | (high & 15) << 4
                    packed[target + (BLOCK // 2 + j) * half_rows + p] = (low >> 4) | (high & 0xF0)
            target += BLOCK * half_rows


@kernel
def pack_byte_columns(raw, packed, order, group_rows, flip, first_group, last_group):
    """Rearrange Q8_0 blocks (a half of scale, 32 codes) for `columns.py`; flip is XORed to codes.

    As `pack_nibble_columns`, but byte p of the first half of a column holds row order[p], and that
    of the second half row group_rows / 2 + order[p].
    """
    n_rows, n_bytes = raw.shape
    n_blocks = n_bytes // Q8_0_BYTES
    half_rows = group_rows // 2
    target = first_group * n_blocks * (HALF_BYTES * group_rows + BLOCK * group_rows)
    for group in range(first_group, last_group):
        for block in range(n_blocks):
            source = Q8_0_BYTES * block
            pack_scales(raw, packed, source, target, group * group_rows, group_rows)
            target += HALF_BYTES * group_rows
            for p in range(group_rows):
                row = group * group_rows + p // half_rows * half_rows + order[p % half_rows]
                for j in range(BLOCK):
                    code = raw[row, source + HALF_BYTES + j] if row < n_rows else np.uint8(0)
                    packed[target + j * group_rows + p] = code ^ flip
            target += BLOCK * group_rows


@inline
def pack_scales(raw, packed, source, target, first_row, n):
    """The two bytes at `source` of n rows, one row after the other; zeros past the last row."""
    for i in range(n):
        row = first_row + i
        inside = row < raw.shape[0]
        packed[target + HALF_BYTES * i] = raw[row, source] if inside else np.uint8(0)
        packed[target + HALF_BYTES * i + 1] = raw[row, source + 1] if inside else np.uint8(0)
