"""Packing of Q4_K, Q5_K and Q6_K as columns of 128 rows, see `columns.py`.

The head of a tile is the halves that all its blocks share; a block begins with the scales of its
parts, a byte each. Codes of more than four bits become bytes.
"""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.kernels.activations import BLOCK
from rwkv_edge.runtime.kernels.column_layout import (
    BYTE_COLUMN,
    GROUP_ROWS,
    HALF_ROWS,
    NIBBLE_COLUMN,
    ROW_BYTES,
    ROW_HALVES,
    ColumnLayout,
    column_stride,
    places_of,
)
from rwkv_edge.runtime.kernels.pack import (
    SIGN,
    SUPER_BLOCKS,
    columns_of,
    load_group,
    pack_bytes,
    pack_halves,
)
from rwkv_edge.runtime.kernels.pack_columns import (
    pack_column_tiles,
    store_byte_columns,
    store_nibble_columns,
)
from rwkv_edge.runtime.kernels.pack_super_blocks import (
    K_LEAST,
    K_SCALE,
    K_SCALES,
    PART_BYTES,
    Q4_K_BYTES,
    Q4_K_CODES,
    Q5_K_BYTES,
    Q5_K_CODES,
    Q5_K_FIFTH,
    Q6_K_BYTES,
    Q6_K_CODES,
    Q6_K_SCALE,
    Q6_K_SCALES,
    Q6_K_UPPER,
    six_bits_of,
)
from rwkv_edge.runtime.kernels.panel import BYTES_WITH_2
from rwkv_edge.runtime.simd.arithmetic import bits_from, bits_to

# A scale and a least value of each row and part, or two scales.
TWO_BYTES = 2 * ROW_BYTES
Q4_K_COLUMNS = ColumnLayout(SUPER_BLOCKS, 2 * ROW_HALVES, TWO_BYTES, NIBBLE_COLUMN, 1, BYTES_WITH_2)
Q5_K_COLUMNS = ColumnLayout(SUPER_BLOCKS, 2 * ROW_HALVES, TWO_BYTES, BYTE_COLUMN, 1, BYTES_WITH_2)
Q6_K_COLUMNS = ColumnLayout(SUPER_BLOCKS, ROW_HALVES, TWO_BYTES, BYTE_COLUMN, 2, BYTES_WITH_2)
# Columns that are read at once, of half the rows of a group.
STEP = 16


@inline
def pack_k_row_scales(layout, raw, row, source, weights, matrix, block, group):
    """Scales and least values of Q4_K and Q5_K, as `k_row_scale` and `k_row_least` read them."""
    head, _, _ = places_of(layout, matrix, block, group)
    n_bad = pack_halves(raw, row, source + K_SCALE, weights, head, GROUP_ROWS, 0)
    least = head + ROW_HALVES
    n_bad += pack_halves(raw, row, source + K_LEAST, weights, least, GROUP_ROWS, SIGN)
    for i in range(SUPER_BLOCKS):
        _, scales, _ = places_of(layout, matrix, block + i, group)
        for lane in range(GROUP_ROWS):
            scale, least_scale = six_bits_of(raw[row + lane], source + K_SCALES, i)
            weights[scales + lane] = scale
            weights[scales + ROW_BYTES + lane] = least_scale
    return n_bad


@inline
def pack_q4_k_tile(raw, row, source, weights, matrix, block, group):
    """See `pack_column_tiles`."""
    n_bytes, stride = raw.shape[1], column_stride(Q4_K_COLUMNS, matrix)
    for pair in range(SUPER_BLOCKS // 2):
        _, _, low_codes = places_of(Q4_K_COLUMNS, matrix, block + 2 * pair, group)
        _, _, high_codes = places_of(Q4_K_COLUMNS, matrix, block + 2 * pair + 1, group)
        for column in range(0, BLOCK, STEP):
            first = row * n_bytes + source + Q4_K_CODES + pair * PART_BYTES + column
            low = load_group(raw, first, n_bytes)
            high = load_group(raw, first + HALF_ROWS * n_bytes, n_bytes)
            a, b = low_codes + column * stride, high_codes + column * stride
            store_nibble_columns(weights, a, b, stride, low, high)
    return pack_k_row_scales(Q4_K_COLUMNS, raw, row, source, weights, matrix, block, group)


@inline
def joined_columns(codes, upper, quad, nibble, bit, n_bits):
    """Four columns of codes: nibbles, with n_bits of `upper` on top of them."""
    c, u = columns_of(codes, quad), columns_of(upper, quad)
    return (
        bits_from(c[0], nibble, 4) | bits_to(bits_from(u[0], bit, n_bits), 4),
        bits_from(c[1], nibble, 4) | bits_to(bits_from(u[1], bit, n_bits), 4),
        bits_from(c[2], nibble, 4) | bits_to(bits_from(u[2], bit, n_bits), 4),
        bits_from(c[3], nibble, 4) | bits_to(bits_from(u[3], bit, n_bits), 4),
    )


@inline
def pack_joined(raw, codes_at, upper_at, nibble, bit, n_bits, weights, target, stride):
    """A block of 64 rows: 32 bytes of codes and of upper bits, of which it has some bits each."""
    n_bytes = raw.shape[1]
    for column in range(0, BLOCK, STEP):
        codes = load_group(raw, codes_at + column, n_bytes)
        upper = load_group(raw, upper_at + column, n_bytes)
        p = target + column * stride
        store_byte_columns(weights, p, stride, joined_columns(codes, upper, 0, nibble, bit, n_bits))
        p += 4 * stride
        store_byte_columns(weights, p, stride, joined_columns(codes, upper, 1, nibble, bit, n_bits))
        p += 4 * stride
        store_byte_columns(weights, p, stride, joined_columns(codes, upper, 2, nibble, bit, n_bits))
        p += 4 * stride
        store_byte_columns(weights, p, stride, joined_columns(codes, upper, 3, nibble, bit, n_bits))


@inline
def pack_q5_k_tile(raw, row, source, weights, matrix, block, group):
    """See `pack_column_tiles`."""
    n_bytes, stride = raw.shape[1], column_stride(Q5_K_COLUMNS, matrix)
    for half in range(0, GROUP_ROWS, HALF_ROWS):
        start = (row + half) * n_bytes + source
        for i in range(SUPER_BLOCKS):
            codes = start + Q5_K_CODES + i // 2 * PART_BYTES
            _, _, target = places_of(Q5_K_COLUMNS, matrix, block + i, group)
            upper, nibble = start + Q5_K_FIFTH, i % 2 * 4
            pack_joined(raw, codes, upper, nibble, i, 1, weights, target + half, stride)
    return pack_k_row_scales(Q5_K_COLUMNS, raw, row, source, weights, matrix, block, group)


@inline
def pack_q6_k_tile(raw, row, source, weights, matrix, block, group):
    """See `pack_column_tiles`."""
    n_bytes, stride = raw.shape[1], column_stride(Q6_K_COLUMNS, matrix)
    for half in range(0, GROUP_ROWS, HALF_ROWS):
        start = (row + half) * n_bytes + source
        for i in range(SUPER_BLOCKS):
            # Of four parts, the first two have the low nibbles, and the others the high ones.
            codes = start + Q6_K_CODES + (i // 4 * 2 + i % 2) * PART_BYTES
            upper = start + Q6_K_UPPER + i // 4 * PART_BYTES
            nibble, bit = i % 4 // 2 * 4, i % 4 * 2
            _, _, target = places_of(Q6_K_COLUMNS, matrix, block + i, group)
            pack_joined(raw, codes, upper, nibble, bit, 2, weights, target + half, stride)
    for i in range(SUPER_BLOCKS):
        _, scales, _ = places_of(Q6_K_COLUMNS, matrix, block + i, group)
        parts = source + Q6_K_SCALES + 2 * i
        pack_bytes(raw, row, parts, weights, scales, GROUP_ROWS)
        pack_bytes(raw, row, parts + 1, weights, scales + ROW_BYTES, GROUP_ROWS)
    head, _, _ = places_of(Q6_K_COLUMNS, matrix, block, group)
    return pack_halves(raw, row, source + Q6_K_SCALE, weights, head, GROUP_ROWS, 0)


@kernel
def pack_q4_k_columns(raw, raw_group, weights, matrix, first_group, last_group):
    """See `pack_column_tiles`."""
    return pack_column_tiles(
        pack_q4_k_tile, Q4_K_BYTES, Q4_K_COLUMNS,
        raw, raw_group, weights, matrix, first_group, last_group,
    )  # fmt: skip


@kernel
def pack_q5_k_columns(raw, raw_group, weights, matrix, first_group, last_group):
    """See `pack_column_tiles`."""
    return pack_column_tiles(
        pack_q5_k_tile, Q5_K_BYTES, Q5_K_COLUMNS,
        raw, raw_group, weights, matrix, first_group, last_group,
    )  # fmt: skip


@kernel
def pack_q6_k_columns(raw, raw_group, weights, matrix, first_group, last_group):
    """See `pack_column_tiles`."""
    return pack_column_tiles(
        pack_q6_k_tile, Q6_K_BYTES, Q6_K_COLUMNS,
        raw, raw_group, weights, matrix, first_group, last_group,
    )  # fmt: skip
