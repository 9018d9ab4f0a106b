"""Weights of a file as columns, as `columns.py` wants them. See also `pack.py`.

`stride` is the way from one column to the next.
"""

from rwkv_edge.jit import inline
from rwkv_edge.runtime.kernels.column_layout import GROUP_ROWS
from rwkv_edge.runtime.kernels.pack import columns_of
from rwkv_edge.runtime.simd.arithmetic import high_nibbles, low_nibbles, nibbles_to_high
from rwkv_edge.runtime.simd.memory import store_i8x64

# Blocks of all groups of a thread that are written before the next ones: their cache lines lie side
# by side, and should be whole before they leave the L2 cache.
TURN_BLOCKS = 8


@inline
def pack_column_tiles(
    pack_tile, block_bytes, layout, raw, raw_group, weights, matrix, first_group, last_group
):
    """Lay out groups of 128 rows of a file's blocks, each of which becomes a tile, by columns.

    pack_tile(raw, row, source, weights, matrix, block, group) writes what a group has of the tile
    that begins with a block, out of the file's blocks at byte `source` of its rows, and gives how
    many of their scales are NaN or infinite.
    """
    n_tiles = raw.shape[1] // block_bytes
    turn = max(TURN_BLOCKS // layout.tile_blocks, 1)
    n_bad = 0
    for first_tile in range(0, n_tiles, turn):
        last_tile = min(first_tile + turn, n_tiles)
        for group in range(first_group, last_group):
            row = (group - raw_group) * GROUP_ROWS
            for tile in range(first_tile, last_tile):
                block, source = tile * layout.tile_blocks, tile * block_bytes
                n_bad += pack_tile(raw, row, source, weights, matrix, block, group)
    return n_bad


@inline
def store_nibbles(packed, low_column, high_column, low, high):
    """A column of low nibbles, and one of high nibbles; 64 rows in each half of their bytes."""
    store_i8x64(packed, low_column, low_nibbles(low) | nibbles_to_high(low_nibbles(high)))
    store_i8x64(packed, high_column, high_nibbles(low) | nibbles_to_high(high_nibbles(high)))


@inline
def store_four_nibble_columns(packed, low_columns, high_columns, stride, low, high):
    """Four bytes of each row: four columns of low nibbles, and four of high ones."""
    a, b = low_columns, high_columns
    store_nibbles(packed, a, b, low[0], high[0])
    store_nibbles(packed, a + stride, b + stride, low[1], high[1])
    store_nibbles(packed, a + 2 * stride, b + 2 * stride, low[2], high[2])
    store_nibbles(packed, a + 3 * stride, b + 3 * stride, low[3], high[3])


@inline
def store_nibble_columns(packed, low_columns, high_columns, stride, low, high):
    """16 bytes of each of 128 rows, the first 64 in `low`: 16 columns of low nibbles and of high.

    low_columns, high_columns: bytes that these columns begin at.
    """
    a, b, step = low_columns, high_columns, 4 * stride
    store_four_nibble_columns(packed, a, b, stride, columns_of(low, 0), columns_of(high, 0))
    a, b = a + step, b + step
    store_four_nibble_columns(packed, a, b, stride, columns_of(low, 1), columns_of(high, 1))
    a, b = a + step, b + step
    store_four_nibble_columns(packed, a, b, stride, columns_of(low, 2), columns_of(high, 2))
    a, b = a + step, b + step
    store_four_nibble_columns(packed, a, b, stride, columns_of(low, 3), columns_of(high, 3))


@inline
def store_byte_columns(packed, p, stride, columns):
    """Four columns of 64 rows: half of each."""
    store_i8x64(packed, p, columns[0])
    store_i8x64(packed, p + stride, columns[1])
    store_i8x64(packed, p + 2 * stride, columns[2])
    store_i8x64(packed, p + 3 * stride, columns[3])
