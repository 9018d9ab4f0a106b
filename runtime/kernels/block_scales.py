"""Where packed blocks have their scales, and what is done with them.

In tiles of 16 rows, of two blocks: 16 halves for each block; of a super-block: 16 bytes for each
part, scale or least value, and then the halves that all parts share. In matrices by columns, the
same of 128 rows: the halves in a head, the bytes at `scales_at`.
"""

from rwkv_edge.jit import inline
from rwkv_edge.runtime.kernels.column_layout import ROW_BYTES, ROW_HALVES
from rwkv_edge.runtime.kernels.pack import HALVES_BYTES
from rwkv_edge.runtime.kernels.packed_format import ROWS
from rwkv_edge.runtime.kernels.panel import SCALES, VECTOR_BYTES, scaled, with_least
from rwkv_edge.runtime.simd.memory import (
    CACHE_LINE,
    at,
    load_f16x16,
    load_f32x16,
    load_i8x16,
    load_u8x16,
    store_bytes_f32x16,
    store_f32x16,
)

# Of Q4_K and Q5_K, eight parts of 16 rows: a scale and a least value, and where the halves begin.
PART_PAIR = 2 * ROWS
PAIRS_BYTES = 8 * PART_PAIR
K_SCALES_BYTES = PAIRS_BYTES + 2 * HALVES_BYTES
# Of Q6_K, Q3_K and Q2_K, 16 parts of 16 rows; of IQ4_XS, eight.
HALF_PARTS_BYTES, PARTS_BYTES = 16 * ROWS, 8 * ROWS


def whole_lines(n_bytes):
    """Padded to cache lines, so that no vector of the next tile lies across two."""
    return -(-n_bytes // CACHE_LINE) * CACHE_LINE


@inline
def k_scale(weights, p, i):
    """Scales of part i of a super-block of 16 rows whose scales begin at p: Q4_K, Q5_K."""
    return load_f16x16(weights, p + PAIRS_BYTES) * load_u8x16(weights, p + i * PART_PAIR)


@inline
def k_least(weights, p, i):
    """The least values of the same."""
    halves = load_f16x16(weights, p + PAIRS_BYTES + HALVES_BYTES)
    return halves * load_u8x16(weights, p + i * PART_PAIR + ROWS)


@inline
def half_part_scale(weights, p, i, part):
    """Scales of the first or second half of block i of a super-block: Q6_K, Q3_K."""
    halves = load_f16x16(weights, p + HALF_PARTS_BYTES)
    return halves * load_i8x16(weights, p + (2 * i + part) * ROWS)


@inline
def store_scales(panel, p, which, scales):
    """One of the vectors of scales, or of least values, of the block at byte p of a panel."""
    store_bytes_f32x16(panel, p + SCALES + which * VECTOR_BYTES, scales)


@inline
def add_scaled_rows(product, zero_code, x_sum, x_scale, scales, y, row):
    """y[row:row + 16] += product, scaled."""
    store_f32x16(y, row, scaled(product, zero_code, x_sum, x_scale, scales, load_f32x16(y, row)))


@inline
def row_scales(weights, p, k):
    """Scales of rows 16 k and on of a block that begins at p: Q4_0, Q8_0."""
    return load_f16x16(weights, p + k * HALVES_BYTES)


@inline
def decode_row_scales(weights, head, scales_at, k, panel, p):
    """See `columns.multiply`."""
    store_scales(panel, p, 0, row_scales(weights, scales_at, k))


@inline
def k_row_scale(weights, head, scales_at, k):
    """The same of a part of a super-block: Q4_K, Q5_K."""
    halves = load_f16x16(weights, head + k * HALVES_BYTES)
    return halves * load_u8x16(weights, scales_at + k * ROWS)


@inline
def k_row_least(weights, head, scales_at, k):
    """And its least values."""
    halves = load_f16x16(weights, head + ROW_HALVES + k * HALVES_BYTES)
    return halves * load_u8x16(weights, scales_at + ROW_BYTES + k * ROWS)


@inline
def add_k_rows(product, weights, head, scales_at, k, part, x, block, y, row):
    """y[row:row + 16] += product, scaled, and the least values: Q4_K, Q5_K."""
    x_sum, x_scale = at(x.sums, block), at(x.scales, block)
    scales = k_row_scale(weights, head, scales_at, k)
    total = scaled(product, 0, x_sum, x_scale, scales, load_f32x16(y, row))
    least = k_row_least(weights, head, scales_at, k)
    store_f32x16(y, row, with_least(least, x_sum, x_scale, total))


@inline
def decode_k_rows(weights, head, scales_at, k, panel, p):
    """See `columns.multiply`."""
    store_scales(panel, p, 0, k_row_scale(weights, head, scales_at, k))
    store_scales(panel, p, 1, k_row_least(weights, head, scales_at, k))


@inline
def half_part_row_scale(weights, head, scales_at, k, part):
    """Scales of half of a block of a super-block: Q6_K."""
    halves = load_f16x16(weights, head + k * HALVES_BYTES)
    return halves * load_i8x16(weights, scales_at + part * ROW_BYTES + k * ROWS)
