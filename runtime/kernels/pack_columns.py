"""Weights of a file as columns of 128 rows, as `columns.py` wants them. See also `pack.py`."""

from rwkv_edge.jit import inline
from rwkv_edge.runtime.kernels.columns import BYTE_COLUMN, NIBBLE_COLUMN
from rwkv_edge.runtime.kernels.pack import columns_of
from rwkv_edge.runtime.simd.arithmetic import high_nibbles, low_nibbles, nibbles_to_high
from rwkv_edge.runtime.simd.memory import store_i8x64


@inline
def store_nibbles(packed, low_column, high_column, low, high):
    """A column of low nibbles, and one of high nibbles; 64 rows in each half of their bytes."""
    store_i8x64(packed, low_column, low_nibbles(low) | nibbles_to_high(low_nibbles(high)))
    store_i8x64(packed, high_column, high_nibbles(low) | nibbles_to_high(high_nibbles(high)))


@inline
def store_four_nibble_columns(packed, low_columns, high_columns, low, high):
    """Four bytes of each row: four columns of low nibbles, and four of high ones."""
    a, b = low_columns, high_columns
    store_nibbles(packed, a, b, low[0], high[0])
    store_nibbles(packed, a + NIBBLE_COLUMN, b + NIBBLE_COLUMN, low[1], high[1])
    store_nibbles(packed, a + 2 * NIBBLE_COLUMN, b + 2 * NIBBLE_COLUMN, low[2], high[2])
    store_nibbles(packed, a + 3 * NIBBLE_COLUMN, b + 3 * NIBBLE_COLUMN, low[3], high[3])


@inline
def store_nibble_columns(packed, low_columns, high_columns, low, high):
    """16 bytes of each of 128 rows, the first 64 in `low`: 16 columns of low nibbles and of high.

    low_columns, high_columns: bytes that these columns begin at.
    """
    a, b, step = low_columns, high_columns, 4 * NIBBLE_COLUMN
    store_four_nibble_columns(packed, a, b, columns_of(low, 0), columns_of(high, 0))
    a, b = a + step, b + step
    store_four_nibble_columns(packed, a, b, columns_of(low, 1), columns_of(high, 1))
    a, b = a + step, b + step
    store_four_nibble_columns(packed, a, b, columns_of(low, 2), columns_of(high, 2))
    a, b = a + step, b + step
    store_four_nibble_columns(packed, a, b, columns_of(low, 3), columns_of(high, 3))


@inline
def store_byte_columns(packed, p, columns):
    """Four columns of 64 rows: half of each."""
    store_i8x64(packed, p, columns[0])
    store_i8x64(packed, p + BYTE_COLUMN, columns[1])
    store_i8x64(packed, p + 2 * BYTE_COLUMN, columns[2])
    store_i8x64(packed, p + 3 * BYTE_COLUMN, columns[3])
