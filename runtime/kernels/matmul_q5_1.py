"""Q5_1 weights times activations: five bits a weight, a scale and a least value a block."""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.kernels.block_scales import store_scales
from rwkv_edge.runtime.kernels.codes import FIVE_BITS, unpack_five_bits
from rwkv_edge.runtime.kernels.matmul_blocks import multiply, sum_codes
from rwkv_edge.runtime.kernels.pack import HALVES_BYTES, PAIR
from rwkv_edge.runtime.kernels.pack_blocks import pack_q5_1
from rwkv_edge.runtime.kernels.packed_format import PackedFormat
from rwkv_edge.runtime.kernels.panel import BYTES_WITH_2, scaled, store_codes, with_least
from rwkv_edge.runtime.kernels.panel_products import LEAST_FIVE_BIT_PANEL
from rwkv_edge.runtime.simd.memory import at, load_f16x16

# A tile is the codes of two blocks, then the scales and least values of each.
SCALES_AT = PAIR * FIVE_BITS
TILE_BYTES = SCALES_AT + 2 * PAIR * HALVES_BYTES


@inline
def scales_of(weights, tile, i):
    """Scales of block i of a tile."""
    return load_f16x16(weights, tile + SCALES_AT + 2 * i * HALVES_BYTES)


@inline
def least_of(weights, tile, i):
    """Their least values."""
    return load_f16x16(weights, tile + SCALES_AT + (2 * i + 1) * HALVES_BYTES)


@inline
def add_block(weights, tile, i, x, block, total):
    """See `matmul_blocks.py`."""
    codes = tile + i * FIVE_BITS
    product = sum_codes(unpack_five_bits(weights, codes), x.quads, block)
    x_sum, x_scale = at(x.sums, block), at(x.scales, block)
    total = scaled(product, 0, x_sum, x_scale, scales_of(weights, tile, i), total)
    return with_least(least_of(weights, tile, i), x_sum, x_scale, total)


@inline
def decode_block(weights, tile, i, panel, p):
    """See `matmul_blocks.py`."""
    codes = tile + i * FIVE_BITS
    store_codes(panel, p, unpack_five_bits(weights, codes))
    store_scales(panel, p, 0, scales_of(weights, tile, i))
    store_scales(panel, p, 1, least_of(weights, tile, i))


@kernel
def matmul_q5_1(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for Q5_1 weights; see `multiply`."""
    multiply(
        add_block, decode_block, PAIR, TILE_BYTES, BYTES_WITH_2,
        weights, matrix, x, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip


DENSE_FORMAT = PackedFormat(
    multiply=matmul_q5_1,
    pack=pack_q5_1,
    tile_blocks=PAIR,
    tile_bytes=TILE_BYTES,
    multiply_panel=LEAST_FIVE_BIT_PANEL,
)
