"""Q8_0 weights times activations: eight bits a weight, a scale a block."""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.kernels.block_scales import (
    add_scaled_rows,
    decode_row_scales,
    row_scales,
    store_scales,
)
from rwkv_edge.runtime.kernels.codes import EIGHT_BITS, unpack_bytes
from rwkv_edge.runtime.kernels.column_layout import (
    GROUP_ROWS,
    tile_bytes,
)
from rwkv_edge.runtime.kernels.columns import multiply as multiply_columns
from rwkv_edge.runtime.kernels.columns import take_bytes
from rwkv_edge.runtime.kernels.matmul_blocks import multiply, sum_bytes
from rwkv_edge.runtime.kernels.pack import HALVES_BYTES, PAIR
from rwkv_edge.runtime.kernels.pack_blocks import Q8_0_COLUMNS, pack_q8_0, pack_q8_0_columns
from rwkv_edge.runtime.kernels.packed_format import PackedFormat
from rwkv_edge.runtime.kernels.panel import BYTES_WITH_1, scaled, store_codes
from rwkv_edge.runtime.kernels.panel_products import BYTE_PANEL
from rwkv_edge.runtime.simd.dot_products import byte_total, byte_zero_code, dot4, no_bytes
from rwkv_edge.runtime.simd.memory import at, load_f16x16

# A tile is the codes of two blocks, then their scales.
SCALES_AT = PAIR * EIGHT_BITS
TILE_BYTES = SCALES_AT + PAIR * HALVES_BYTES


@inline
def add_block(weights, tile, i, x, block, total):
    """See `matmul_blocks.py`."""
    codes = tile + i * EIGHT_BITS
    product = sum_bytes(unpack_bytes(weights, codes), x.quads, block)
    scales = load_f16x16(weights, tile + SCALES_AT + i * HALVES_BYTES)
    x_sum, x_scale = at(x.sums, block), at(x.scales, block)
    return scaled(product, byte_zero_code(), x_sum, x_scale, scales, total)


@inline
def decode_block(weights, tile, i, panel, p):
    """See `matmul_blocks.py`."""
    codes = tile + i * EIGHT_BITS
    store_codes(panel, p, unpack_bytes(weights, codes))
    store_scales(panel, p, 0, load_f16x16(weights, tile + SCALES_AT + i * HALVES_BYTES))


@kernel
def matmul_q8_0(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for Q8_0 weights; see `multiply`."""
    multiply(
        add_block, decode_block, PAIR, TILE_BYTES, BYTES_WITH_1,
        weights, matrix, x, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip


@inline
def add_rows(product, weights, head, scales_at, k, part, x, block, y, row):
    """See `columns.multiply`."""
    scales = row_scales(weights, scales_at, k)
    x_sum, x_scale = at(x.sums, block), at(x.scales, block)
    add_scaled_rows(product, byte_zero_code(), x_sum, x_scale, scales, y, row)


@kernel
def matmul_q8_0_columns(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """The same for weights laid out by columns; see `columns.multiply`."""
    multiply_columns(
        take_bytes, no_bytes, dot4, byte_total, add_rows, decode_row_scales, Q8_0_COLUMNS,
        weights, matrix, x, active, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip


DENSE_FORMAT = PackedFormat(
    multiply=matmul_q8_0,
    pack=pack_q8_0,
    tile_blocks=PAIR,
    tile_bytes=TILE_BYTES,
    multiply_panel=BYTE_PANEL,
)
COLUMNS_FORMAT = PackedFormat(
    multiply=matmul_q8_0_columns,
    pack=pack_q8_0_columns,
    tile_blocks=Q8_0_COLUMNS.tile_blocks,
    tile_bytes=tile_bytes(Q8_0_COLUMNS),
    multiply_panel=BYTE_PANEL,
    group_rows=GROUP_ROWS,
    reads_columns=True,
)
