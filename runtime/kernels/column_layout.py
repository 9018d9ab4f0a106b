"""How quantized matrices lie whose single columns are cheap to read.

First the heads of all tiles, for what all blocks of a tile share; then the scales of all blocks of
32 columns; then all columns of codes. Each of them for all groups of 128 rows before the next one:
what a thread reads of a column lies together, and scales, which are read of nearly every block, are
a stream of their own. Memory gives single cache lines at a third of its speed or less. Codes of 128
rows lie in the order in which `transpose4` leaves rows side by side.
"""

from typing import NamedTuple

from rwkv_edge.jit import inline
from rwkv_edge.runtime.kernels.activations import BLOCK

# Rows of a group: of a column of nibbles, that is one cache line.
GROUP_ROWS = 128
HALF_ROWS = 64
# Bytes of a word of one or two bytes for each row of a group.
ROW_BYTES, ROW_HALVES = GROUP_ROWS, 2 * GROUP_ROWS
# Bytes of one column of a group.
NIBBLE_COLUMN, BYTE_COLUMN = GROUP_ROWS // 2, GROUP_ROWS


class ColumnLayout(NamedTuple):
    """Sizes of a format's tiles, for each group of 128 rows.

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


@inline
def column_stride(layout, matrix):
    """The way from one column to the next, in bytes."""
    return matrix.n_rows // GROUP_ROWS * layout.column_bytes


@inline
def places_of(layout, matrix, block, group):
    """Bytes at which a group's head, scales, and codes of the first column of a block begin."""
    n_groups, n_blocks = matrix.n_rows // GROUP_ROWS, matrix.n_columns // BLOCK
    heads = matrix.offset
    scales = heads + n_blocks // layout.tile_blocks * n_groups * layout.head_bytes
    codes = scales + n_blocks * n_groups * layout.scale_bytes
    return (
        heads + (block // layout.tile_blocks * n_groups + group) * layout.head_bytes,
        scales + (block * n_groups + group) * layout.scale_bytes,
        codes + (block * BLOCK * n_groups + group) * layout.column_bytes,
    )
