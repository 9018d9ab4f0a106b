"""Packing of the formats whose blocks are 32 weights. See `pack.py`."""

import numpy as np

from rwkv_edge.jit import inline, kernel
from rwkv_edge.quant import IQ4_NL, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
from rwkv_edge.runtime.kernels.activations import BLOCK
from rwkv_edge.runtime.kernels.codes import EIGHT_BITS, FIVE_BITS, FOUR_BITS
from rwkv_edge.runtime.kernels.column_layout import (
    BYTE_COLUMN,
    GROUP_ROWS,
    NIBBLE_COLUMN,
    ROW_HALVES,
    ColumnLayout,
    column_stride,
    places_of,
)
from rwkv_edge.runtime.kernels.pack import (
    HALVES_BYTES,
    columns_of,
    load_eight,
    load_group,
    pack_halves,
    pack_pairs,
    store_quads,
)
from rwkv_edge.runtime.kernels.pack_columns import (
    pack_column_tiles,
    store_byte_columns,
    store_nibble_columns,
)
from rwkv_edge.runtime.kernels.packed_format import ROWS
from rwkv_edge.runtime.kernels.panel import BYTES_WITH_1, store_codes
from rwkv_edge.runtime.simd.arithmetic import splat_i8
from rwkv_edge.runtime.simd.dot_products import byte_zero_code
from rwkv_edge.runtime.simd.shuffles import load_quads

HALF_BLOCK = BLOCK // 2


def offset_of(quant_format, field):
    """Where a field of a file's block begins."""
    return quant_format.block.fields[field][1]


Q4_0_BYTES, Q4_0_CODES = Q4_0.block.itemsize, offset_of(Q4_0, "codes")
Q8_0_BYTES, Q8_0_CODES = Q8_0.block.itemsize, offset_of(Q8_0, "codes")
IQ4_NL_BYTES, IQ4_NL_CODES = IQ4_NL.block.itemsize, offset_of(IQ4_NL, "codes")
Q4_1_BYTES, Q4_1_CODES = Q4_1.block.itemsize, offset_of(Q4_1, "codes")
Q5_0_BYTES, Q5_0_CODES = Q5_0.block.itemsize, offset_of(Q5_0, "codes")
Q5_1_BYTES, Q5_1_CODES = Q5_1.block.itemsize, offset_of(Q5_1, "codes")
Q5_0_FIFTH, Q5_1_FIFTH = offset_of(Q5_0, "fifth_bits"), offset_of(Q5_1, "fifth_bits")
Q4_1_LEAST, Q5_1_LEAST = offset_of(Q4_1, "least"), offset_of(Q5_1, "least")
# A scale stands first in all of them.
Q4_0_COLUMNS = ColumnLayout(1, 0, ROW_HALVES, NIBBLE_COLUMN, 1, BYTES_WITH_1)
Q8_0_COLUMNS = ColumnLayout(1, 0, ROW_HALVES, BYTE_COLUMN, 1, BYTES_WITH_1)


@inline
def pack_scale(raw, row, source, packed, target):
    """The half that a block begins with."""
    return pack_halves(raw, row, source, packed, target, ROWS, 0)


@inline
def pack_scale_and_least(raw, row, source, packed, target):
    """The two halves that a block begins with."""
    n_bad = pack_halves(raw, row, source, packed, target, ROWS, 0)
    return n_bad + pack_halves(
        raw, row, source + Q4_1_LEAST, packed, target + HALVES_BYTES, ROWS, 0
    )


@inline
def pack_nibble_bytes(raw, row, source, packed, target):
    """16 bytes of a file's block hold weights as a packed block does."""
    n_bytes = raw.shape[1]
    store_quads(packed, target, load_quads(raw, row * n_bytes + source, n_bytes))


@inline
def pack_fifth_bits(raw, row, source, packed, target):
    """Four bytes of each row, a bit for each weight: byte k of a row gets those of 4j + k."""
    for lane in range(ROWS):
        for k in range(4):
            packed_bits = 0
            for i in range(4):
                eight = raw[row + lane, source + i]
                packed_bits |= (eight >> k & 1) << 2 * i | (eight >> (k + 4) & 1) << (2 * i + 1)
            packed[target + 4 * lane + k] = packed_bits


@inline
def pack_q4_0_codes(raw, row, source, packed, target):
    """See `pack_pairs`."""
    pack_nibble_bytes(raw, row, source + Q4_0_CODES, packed, target)


@kernel
def pack_q4_0(raw, raw_group, weights, matrix, first_group, last_group):
    """See `pack_pairs`. Also IQ4_NL, whose blocks have the same fields."""
    return pack_pairs(
        pack_q4_0_codes, pack_scale, Q4_0_BYTES, FOUR_BITS, HALVES_BYTES,
        raw, raw_group, weights, matrix, first_group, last_group,
    )  # fmt: skip


@inline
def pack_q4_1_codes(raw, row, source, packed, target):
    """See `pack_pairs`."""
    pack_nibble_bytes(raw, row, source + Q4_1_CODES, packed, target)


@kernel
def pack_q4_1(raw, raw_group, weights, matrix, first_group, last_group):
    """See `pack_pairs`."""
    return pack_pairs(
        pack_q4_1_codes, pack_scale_and_least, Q4_1_BYTES, FOUR_BITS, 2 * HALVES_BYTES,
        raw, raw_group, weights, matrix, first_group, last_group,
    )  # fmt: skip


@inline
def pack_q5_0_codes(raw, row, source, packed, target):
    """See `pack_pairs`."""
    pack_nibble_bytes(raw, row, source + Q5_0_CODES, packed, target)
    pack_fifth_bits(raw, row, source + Q5_0_FIFTH, packed, target + FOUR_BITS)


@kernel
def pack_q5_0(raw, raw_group, weights, matrix, first_group, last_group):
    """See `pack_pairs`."""
    return pack_pairs(
        pack_q5_0_codes, pack_scale, Q5_0_BYTES, FIVE_BITS, HALVES_BYTES,
        raw, raw_group, weights, matrix, first_group, last_group,
    )  # fmt: skip


@inline
def pack_q5_1_codes(raw, row, source, packed, target):
    """See `pack_pairs`."""
    pack_nibble_bytes(raw, row, source + Q5_1_CODES, packed, target)
    pack_fifth_bits(raw, row, source + Q5_1_FIFTH, packed, target + FOUR_BITS)


@kernel
def pack_q5_1(raw, raw_group, weights, matrix, first_group, last_group):
    """See `pack_pairs`."""
    return pack_pairs(
        pack_q5_1_codes, pack_scale_and_least, Q5_1_BYTES, FIVE_BITS, 2 * HALVES_BYTES,
        raw, raw_group, weights, matrix, first_group, last_group,
    )  # fmt: skip


@inline
def pack_q8_0_codes(raw, row, source, packed, target):
    """See `pack_pairs`. Bytes become what `dot4` takes."""
    n_bytes = raw.shape[1]
    w = load_eight(raw, row * n_bytes + source + Q8_0_CODES, n_bytes)
    flip = splat_i8(np.uint8(byte_zero_code()))
    flipped = (
        w[0] ^ flip, w[1] ^ flip, w[2] ^ flip, w[3] ^ flip,
        w[4] ^ flip, w[5] ^ flip, w[6] ^ flip, w[7] ^ flip,
    )  # fmt: skip
    store_codes(packed, target, flipped)


@kernel
def pack_q8_0(raw, raw_group, weights, matrix, first_group, last_group):
    """See `pack_pairs`."""
    return pack_pairs(
        pack_q8_0_codes, pack_scale, Q8_0_BYTES, EIGHT_BITS, HALVES_BYTES,
        raw, raw_group, weights, matrix, first_group, last_group,
    )  # fmt: skip


@inline
def pack_q4_0_column_block(raw, row, source, weights, matrix, block, group):
    """See `pack_column_tiles`. A byte of the file holds two columns."""
    _, scales, codes = places_of(Q4_0_COLUMNS, matrix, block, group)
    n_bytes, stride = raw.shape[1], column_stride(Q4_0_COLUMNS, matrix)
    first = row * n_bytes + source + Q4_0_CODES
    low = load_group(raw, first, n_bytes)
    high = load_group(raw, first + GROUP_ROWS // 2 * n_bytes, n_bytes)
    store_nibble_columns(weights, codes, codes + HALF_BLOCK * stride, stride, low, high)
    return pack_halves(raw, row, source, weights, scales, GROUP_ROWS, 0)


@kernel
def pack_q4_0_columns(raw, raw_group, weights, matrix, first_group, last_group):
    """See `pack_tiles`."""
    return pack_column_tiles(
        pack_q4_0_column_block, Q4_0_BYTES, Q4_0_COLUMNS,
        raw, raw_group, weights, matrix, first_group, last_group,
    )  # fmt: skip


@inline
def flipped_columns(rows, quad):
    """Four columns of 64 rows, as `dot4` takes them."""
    columns, flip = columns_of(rows, quad), splat_i8(np.uint8(byte_zero_code()))
    return columns[0] ^ flip, columns[1] ^ flip, columns[2] ^ flip, columns[3] ^ flip


@inline
def pack_q8_0_column_block(raw, row, source, weights, matrix, block, group):
    """See `pack_column_tiles`."""
    _, scales, codes = places_of(Q8_0_COLUMNS, matrix, block, group)
    n_bytes, stride = raw.shape[1], column_stride(Q8_0_COLUMNS, matrix)
    for quarter in range(4):
        # 16 columns of the first 64 rows, of the others, and the same of 16 more.
        half, column = quarter % 2 * (GROUP_ROWS // 2), quarter // 2 * HALF_BLOCK
        rows = load_group(raw, (row + half) * n_bytes + source + Q8_0_CODES + column, n_bytes)
        p = codes + column * stride + half
        store_byte_columns(weights, p, stride, flipped_columns(rows, 0))
        store_byte_columns(weights, p + 4 * stride, stride, flipped_columns(rows, 1))
        store_byte_columns(weights, p + 8 * stride, stride, flipped_columns(rows, 2))
        store_byte_columns(weights, p + 12 * stride, stride, flipped_columns(rows, 3))
    return pack_halves(raw, row, source, weights, scales, GROUP_ROWS, 0)


@kernel
def pack_q8_0_columns(raw, raw_group, weights, matrix, first_group, last_group):
    """See `pack_tiles`."""
    return pack_column_tiles(
        pack_q8_0_column_block, Q8_0_BYTES, Q8_0_COLUMNS,
        raw, raw_group, weights, matrix, first_group, last_group,
    )  # fmt: skip
