"""Q6_K weights times activations: six bits a weight, a scale for every 16 columns."""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.quant.q6_k import ZERO_CODE
from rwkv_edge.runtime.kernels.block_scales import (
    add_scaled_rows,
    half_part_row_scale,
    half_part_scale,
    store_scales,
)
from rwkv_edge.runtime.kernels.codes import SIX_BITS, unpack_six_bits
from rwkv_edge.runtime.kernels.column_layout import GROUP_ROWS, tile_bytes
from rwkv_edge.runtime.kernels.columns import multiply as multiply_columns
from rwkv_edge.runtime.kernels.columns import take_bytes
from rwkv_edge.runtime.kernels.matmul_blocks import multiply, sum_halves_of_codes
from rwkv_edge.runtime.kernels.pack import SUPER_BLOCKS
from rwkv_edge.runtime.kernels.pack_super_blocks import Q6_K_TILE, pack_q6_k
from rwkv_edge.runtime.kernels.pack_super_columns import Q6_K_COLUMNS, pack_q6_k_columns
from rwkv_edge.runtime.kernels.packed_format import PackedFormat
from rwkv_edge.runtime.kernels.panel import BYTES_WITH_2, scaled, store_codes
from rwkv_edge.runtime.kernels.panel_products import SIX_BIT_PANEL
from rwkv_edge.runtime.simd.dot_products import byte_total, dot4_codes, no_bytes
from rwkv_edge.runtime.simd.memory import at

# A tile is the codes of a super-block, then its scales.
SCALES_AT = SUPER_BLOCKS * SIX_BITS


@inline
def scales_of(weights, tile, i, part):
    """Scales of either half of block i of a tile."""
    return half_part_scale(weights, tile + SCALES_AT, i, part)


@inline
def add_block(weights, tile, i, x, block, total):
    """See `matmul_blocks.py`."""
    codes = tile + i * SIX_BITS
    low, high = sum_halves_of_codes(unpack_six_bits(weights, codes), x.quads, block)
    x_scale = at(x.scales, block)
    low_sum, high_sum = at(x.half_sums, 2 * block), at(x.half_sums, 2 * block + 1)
    total = scaled(low, ZERO_CODE, low_sum, x_scale, scales_of(weights, tile, i, 0), total)
    return scaled(high, ZERO_CODE, high_sum, x_scale, scales_of(weights, tile, i, 1), total)


@inline
def decode_block(weights, tile, i, panel, p):
    """See `matmul_blocks.py`."""
    codes = tile + i * SIX_BITS
    store_codes(panel, p, unpack_six_bits(weights, codes))
    store_scales(panel, p, 0, scales_of(weights, tile, i, 0))
    store_scales(panel, p, 1, scales_of(weights, tile, i, 1))


@kernel
def matmul_q6_k(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for Q6_K weights; see `multiply`."""
    multiply(
        add_block, decode_block, SUPER_BLOCKS, Q6_K_TILE, BYTES_WITH_2,
        weights, matrix, x, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip


@inline
def add_rows(product, weights, head, scales_at, k, part, x, block, y, row):
    """See `columns.multiply`."""
    scales = half_part_row_scale(weights, head, scales_at, k, part)
    x_sum, x_scale = at(x.half_sums, 2 * block + part), at(x.scales, block)
    add_scaled_rows(product, ZERO_CODE, x_sum, x_scale, scales, y, row)


@inline
def decode_rows(weights, head, scales_at, k, panel, p):
    """See `columns.multiply`."""
    store_scales(panel, p, 0, half_part_row_scale(weights, head, scales_at, k, 0))
    store_scales(panel, p, 1, half_part_row_scale(weights, head, scales_at, k, 1))


@kernel
def matmul_q6_k_columns(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """The same for weights laid out by columns; see `columns.multiply`."""
    multiply_columns(
        take_bytes, no_bytes, dot4_codes, byte_total, add_rows, decode_rows, Q6_K_COLUMNS,
        weights, matrix, x, active, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip


DENSE_FORMAT = PackedFormat(
    multiply=matmul_q6_k,
    pack=pack_q6_k,
    tile_blocks=SUPER_BLOCKS,
    tile_bytes=Q6_K_TILE,
    multiply_panel=SIX_BIT_PANEL,
    part_len=16,
)
COLUMNS_FORMAT = PackedFormat(
    multiply=matmul_q6_k_columns,
    pack=pack_q6_k_columns,
    tile_blocks=SUPER_BLOCKS,
    tile_bytes=tile_bytes(Q6_K_COLUMNS),
    multiply_panel=SIX_BIT_PANEL,
    part_len=16,
    group_rows=GROUP_ROWS,
    reads_columns=True,
)
