"""IQ4_NL weights times activations: four bits that stand for eight, a scale a block."""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.kernels.block_scales import store_scales
from rwkv_edge.runtime.kernels.codes import FOUR_BITS, unpack_iq4
from rwkv_edge.runtime.kernels.matmul_blocks import multiply, sum_bytes
from rwkv_edge.runtime.kernels.pack import HALVES_BYTES, PAIR
from rwkv_edge.runtime.kernels.pack_blocks import pack_q4_0
from rwkv_edge.runtime.kernels.packed_format import PackedFormat
from rwkv_edge.runtime.kernels.panel import BYTES_WITH_1, scaled, store_codes
from rwkv_edge.runtime.kernels.panel_products import BYTE_PANEL
from rwkv_edge.runtime.simd.dot_products import byte_zero_code
from rwkv_edge.runtime.simd.memory import at, load_f16x16

# A tile is the codes of two blocks, then their scales.
SCALES_AT = PAIR * FOUR_BITS
TILE_BYTES = SCALES_AT + PAIR * HALVES_BYTES


@inline
def scales_of(weights, tile, i):
    """Scales of block i of a tile."""
    return load_f16x16(weights, tile + SCALES_AT + i * HALVES_BYTES)


@inline
def add_block(weights, tile, i, x, block, total):
    """See `matmul_blocks.py`."""
    codes = tile + i * FOUR_BITS
    product = sum_bytes(unpack_iq4(weights, codes), x.quads, block)
    x_sum, x_scale = at(x.sums, block), at(x.scales, block)
    return scaled(product, byte_zero_code(), x_sum, x_scale, scales_of(weights, tile, i), total)


@inline
def decode_block(weights, tile, i, panel, p):
    """See `matmul_blocks.py`."""
    codes = tile + i * FOUR_BITS
    store_codes(panel, p, unpack_iq4(weights, codes))
    store_scales(panel, p, 0, scales_of(weights, tile, i))


@kernel
def matmul_iq4_nl(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for IQ4_NL weights; see `multiply`."""
    multiply(
        add_block, decode_block, PAIR, TILE_BYTES, BYTES_WITH_1,
        weights, matrix, x, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip


DENSE_FORMAT = PackedFormat(
    multiply=matmul_iq4_nl,
    pack=pack_q4_0,
    tile_blocks=PAIR,
    tile_bytes=TILE_BYTES,
    multiply_panel=BYTE_PANEL,
)
