"""Q4_0 weights times activations: four bits a weight, a scale a block."""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.quant.q4_0 import ZERO_CODE
from rwkv_edge.runtime.kernels.block_scales import (
    add_scaled_rows,
    decode_row_scales,
    row_scales,
    store_scales,
)
from rwkv_edge.runtime.kernels.codes import FOUR_BITS, unpack_nibbles
from rwkv_edge.runtime.kernels.column_layout import (
    GROUP_ROWS,
    tile_bytes,
)
from rwkv_edge.runtime.kernels.columns import multiply as multiply_columns
from rwkv_edge.runtime.kernels.columns import take_nibbles
from rwkv_edge.runtime.kernels.matmul_blocks import multiply, sum_nibbles
from rwkv_edge.runtime.kernels.pack import HALVES_BYTES, PAIR
from rwkv_edge.runtime.kernels.pack_blocks import Q4_0_COLUMNS, pack_q4_0, pack_q4_0_columns
from rwkv_edge.runtime.kernels.packed_format import PackedFormat
from rwkv_edge.runtime.kernels.panel import BYTES_WITH_1, scaled, store_codes
from rwkv_edge.runtime.kernels.panel_products import NIBBLE_PANEL
from rwkv_edge.runtime.simd.dot_products import dot4_nibbles, nibble_total, no_nibbles
from rwkv_edge.runtime.simd.memory import at, load_f16x16

# A tile is the codes of two blocks, then their scales.
SCALES_AT = PAIR * FOUR_BITS
TILE_BYTES = SCALES_AT + PAIR * HALVES_BYTES


@inline
def add_block(weights, tile, i, x, block, total):
    """See `matmul_blocks.py`."""
    codes = tile + i * FOUR_BITS
    product = sum_nibbles(unpack_nibbles(weights, codes), x.quads, block)
    scales = load_f16x16(weights, tile + SCALES_AT + i * HALVES_BYTES)
    return scaled(product, ZERO_CODE, at(x.sums, block), at(x.scales, block), scales, total)


@inline
def decode_block(weights, tile, i, panel, p):
    """See `matmul_blocks.py`."""
    codes = tile + i * FOUR_BITS
    store_codes(panel, p, unpack_nibbles(weights, codes))
    store_scales(panel, p, 0, load_f16x16(weights, tile + SCALES_AT + i * HALVES_BYTES))


@kernel
def matmul_q4_0(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for Q4_0 weights; see `multiply`."""
    multiply(
        add_block, decode_block, PAIR, TILE_BYTES, BYTES_WITH_1,
        weights, matrix, x, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip


@inline
def add_rows(product, weights, head, scales_at, k, part, x, block, y, row):
    """See `columns.multiply`."""
    scales = row_scales(weights, scales_at, k)
    x_sum, x_scale = at(x.sums, block), at(x.scales, block)
    add_scaled_rows(product, ZERO_CODE, x_sum, x_scale, scales, y, row)


@kernel
def matmul_q4_0_columns(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """The same for weights laid out by columns; see `columns.multiply`."""
    multiply_columns(
        take_nibbles, no_nibbles, dot4_nibbles, nibble_total, add_rows, decode_row_scales,
        Q4_0_COLUMNS, weights, matrix, x, active, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip


DENSE_FORMAT = PackedFormat(
    multiply=matmul_q4_0,
    pack=pack_q4_0,
    tile_blocks=PAIR,
    tile_bytes=TILE_BYTES,
    multiply_panel=NIBBLE_PANEL,
)
COLUMNS_FORMAT = PackedFormat(
    multiply=matmul_q4_0_columns,
    pack=pack_q4_0_columns,
    tile_blocks=Q4_0_COLUMNS.tile_blocks,
    tile_bytes=tile_bytes(Q4_0_COLUMNS),
    multiply_panel=NIBBLE_PANEL,
    group_rows=GROUP_ROWS,
    reads_columns=True,
)
