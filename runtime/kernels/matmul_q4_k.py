"""Q4_K weights times activations: four bits a weight, a scale and a least value a part."""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.kernels.block_scales import (
    add_k_rows,
    decode_k_rows,
    k_least,
    k_scale,
    store_scales,
)
from rwkv_edge.runtime.kernels.codes import FOUR_BITS, unpack_nibbles
from rwkv_edge.runtime.kernels.column_layout import GROUP_ROWS, tile_bytes
from rwkv_edge.runtime.kernels.columns import multiply as multiply_columns
from rwkv_edge.runtime.kernels.columns import take_nibbles
from rwkv_edge.runtime.kernels.matmul_blocks import multiply, sum_nibbles
from rwkv_edge.runtime.kernels.pack import SUPER_BLOCKS
from rwkv_edge.runtime.kernels.pack_super_blocks import Q4_K_TILE, pack_q4_k
from rwkv_edge.runtime.kernels.pack_super_columns import Q4_K_COLUMNS, pack_q4_k_columns
from rwkv_edge.runtime.kernels.packed_format import PackedFormat
from rwkv_edge.runtime.kernels.panel import BYTES_WITH_2, scaled, store_codes, with_least
from rwkv_edge.runtime.kernels.panel_products import LEAST_NIBBLE_PANEL
from rwkv_edge.runtime.simd.dot_products import dot4_nibbles, nibble_total, no_nibbles
from rwkv_edge.runtime.simd.memory import at

# A tile is the codes of a super-block, then its scales.
SCALES_AT = SUPER_BLOCKS * FOUR_BITS


@inline
def scales_of(weights, tile, i):
    """Scales of part i of a tile."""
    return k_scale(weights, tile + SCALES_AT, i)


@inline
def least_of(weights, tile, i):
    """Their least values."""
    return k_least(weights, tile + SCALES_AT, i)


@inline
def add_block(weights, tile, i, x, block, total):
    """See `matmul_blocks.py`."""
    codes = tile + i * FOUR_BITS
    product = sum_nibbles(unpack_nibbles(weights, codes), x.quads, block)
    x_sum, x_scale = at(x.sums, block), at(x.scales, block)
    total = scaled(product, 0, x_sum, x_scale, scales_of(weights, tile, i), total)
    return with_least(least_of(weights, tile, i), x_sum, x_scale, total)


@inline
def decode_block(weights, tile, i, panel, p):
    """See `matmul_blocks.py`."""
    codes = tile + i * FOUR_BITS
    store_codes(panel, p, unpack_nibbles(weights, codes))
    store_scales(panel, p, 0, scales_of(weights, tile, i))
    store_scales(panel, p, 1, least_of(weights, tile, i))


@kernel
def matmul_q4_k(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for Q4_K weights; see `multiply`."""
    multiply(
        add_block, decode_block, SUPER_BLOCKS, Q4_K_TILE, BYTES_WITH_2,
        weights, matrix, x, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip


@kernel
def matmul_q4_k_columns(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """The same for weights laid out by columns; see `columns.multiply`."""
    multiply_columns(
        take_nibbles, no_nibbles, dot4_nibbles, nibble_total, add_k_rows, decode_k_rows,
        Q4_K_COLUMNS, weights, matrix, x, active, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip


DENSE_FORMAT = PackedFormat(
    multiply=matmul_q4_k,
    pack=pack_q4_k,
    tile_blocks=SUPER_BLOCKS,
    tile_bytes=Q4_K_TILE,
    multiply_panel=LEAST_NIBBLE_PANEL,
)
COLUMNS_FORMAT = PackedFormat(
    multiply=matmul_q4_k_columns,
    pack=pack_q4_k_columns,
    tile_blocks=SUPER_BLOCKS,
    tile_bytes=tile_bytes(Q4_K_COLUMNS),
    multiply_panel=LEAST_NIBBLE_PANEL,
    group_rows=GROUP_ROWS,
    reads_columns=True,
)
