"""Weights of a file interleaved into the order in which the matrix products read them."""

from rwkv_edge.jit import kernel

# Rows that travel together: one lane of a vector each.
ROWS = 16
# Blocks of a row in one tile of quantized weights. Two make a tile whole cache lines.
TILE_BLOCKS = 2
SCALE_BYTES = 2 * ROWS


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
