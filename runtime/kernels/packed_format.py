"""What the arena must know of a weight type: how matrices lie, and what multiplies them."""

from dataclasses import dataclass
from typing import Any

# Rows that travel together: one lane of a vector each.
ROWS = 16


@dataclass(frozen=True)
class PackedFormat:
    """Groups of rows, in each of them tile after tile of blocks of 32 columns.

    multiply: the kernel, of the arguments of `matmul`. pack(raw, raw_group, weights, matrix,
    first_group, last_group) fills whole groups of a matrix, in the arena of weights, out of a
    file's rows, of which group raw_group is the first, and gives how many of their scales, or
    numbers, are NaN or infinite. tile_bytes: of a tile
    of tile_blocks blocks of group_rows rows. multiply_panel: kernels for a panel of it, and for one
    on a CPU with AMX; None if inputs are not quantized. part_len: columns that share a scale, 0 for
    plain numbers. reads_columns: can it skip those whose inputs are zero?
    """

    multiply: Any
    pack: Any
    tile_blocks: int
    tile_bytes: int
    multiply_panel: tuple[Any, Any] | None
    part_len: int = 32
    group_rows: int = ROWS
    reads_columns: bool = False
