"""Q3_K weights times activations: three bits a weight, a scale for every 16 columns."""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.quant.q3_k import ZERO_CODE
from rwkv_edge.runtime.kernels.block_scales import (
    half_part_scale,
    store_scales,
)
from rwkv_edge.runtime.kernels.codes import THREE_BITS, unpack_three_bits
from rwkv_edge.runtime.kernels.matmul_blocks import multiply, sum_halves_of_nibbles
from rwkv_edge.runtime.kernels.pack import SUPER_BLOCKS
from rwkv_edge.runtime.kernels.pack_super_blocks import Q3_K_TILE, pack_q3_k
from rwkv_edge.runtime.kernels.packed_format import PackedFormat
from rwkv_edge.runtime.kernels.panel import BYTES_WITH_2, scaled, store_codes
from rwkv_edge.runtime.kernels.panel_products import THREE_BIT_PANEL
from rwkv_edge.runtime.simd.memory import at

# A tile is the codes of a super-block, then its scales.
SCALES_AT = SUPER_BLOCKS * THREE_BITS


@inline
def scales_of(weights, tile, i, part):
    """Scales of either half of block i of a tile."""
    return half_part_scale(weights, tile + SCALES_AT, i, part)


@inline
def add_block(weights, tile, i, x, block, total):
    """See `matmul_blocks.py`."""
    codes = tile + i * THREE_BITS
    low, high = sum_halves_of_nibbles(unpack_three_bits(weights, codes), x.quads, block)
    x_scale = at(x.scales, block)
    low_sum, high_sum = at(x.half_sums, 2 * block), at(x.half_sums, 2 * block + 1)
    total = scaled(low, ZERO_CODE, low_sum, x_scale, scales_of(weights, tile, i, 0), total)
    return scaled(high, ZERO_CODE, high_sum, x_scale, scales_of(weights, tile, i, 1), total)


@inline
def decode_block(weights, tile, i, panel, p):
    """See `matmul_blocks.py`."""
    codes = tile + i * THREE_BITS
    store_codes(panel, p, unpack_three_bits(weights, codes))
    store_scales(panel, p, 0, scales_of(weights, tile, i, 0))
    store_scales(panel, p, 1, scales_of(weights, tile, i, 1))


@kernel
def matmul_q3_k(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for Q3_K weights; see `multiply`."""
    multiply(
        add_block, decode_block, SUPER_BLOCKS, Q3_K_TILE, BYTES_WITH_2,
        weights, matrix, x, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip


DENSE_FORMAT = PackedFormat(
    multiply=matmul_q3_k,
    pack=pack_q3_k,
    tile_blocks=SUPER_BLOCKS,
    tile_bytes=Q3_K_TILE,
    multiply_panel=THREE_BIT_PANEL,
    part_len=16,
)
