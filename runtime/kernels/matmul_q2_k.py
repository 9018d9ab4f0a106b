"""Q2_K weights times activations: two bits a weight, a scale and a least value for 16."""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.kernels.block_scales import HALF_PARTS_BYTES, store_scales
from rwkv_edge.runtime.kernels.codes import TWO_BITS, unpack_two_bits
from rwkv_edge.runtime.kernels.matmul_blocks import multiply, sum_halves_of_nibbles
from rwkv_edge.runtime.kernels.pack import HALVES_BYTES, SUPER_BLOCKS
from rwkv_edge.runtime.kernels.pack_super_blocks import Q2_K_TILE, pack_q2_k
from rwkv_edge.runtime.kernels.packed_format import ROWS, PackedFormat
from rwkv_edge.runtime.kernels.panel import BYTES_WITH_4, scaled, store_codes, with_least
from rwkv_edge.runtime.kernels.panel_products import TWO_BIT_PANEL
from rwkv_edge.runtime.simd.memory import at, load_f16x16, load_u4x16

# A tile is the codes of a super-block, then its scales.
SCALES_AT = SUPER_BLOCKS * TWO_BITS


@inline
def scales_of(weights, tile, i, part):
    """Scales of either half of block i of a tile."""
    halves = load_f16x16(weights, tile + SCALES_AT + HALF_PARTS_BYTES)
    return halves * load_u4x16(weights, tile + SCALES_AT + (2 * i + part) * ROWS, 0)


@inline
def least_of(weights, tile, i, part):
    """Their least values."""
    halves = load_f16x16(weights, tile + SCALES_AT + HALF_PARTS_BYTES + HALVES_BYTES)
    return halves * load_u4x16(weights, tile + SCALES_AT + (2 * i + part) * ROWS, 4)


@inline
def add_block(weights, tile, i, x, block, total):
    """See `matmul_blocks.py`."""
    codes = tile + i * TWO_BITS
    low, high = sum_halves_of_nibbles(unpack_two_bits(weights, codes), x.quads, block)
    x_scale = at(x.scales, block)
    low_sum, high_sum = at(x.half_sums, 2 * block), at(x.half_sums, 2 * block + 1)
    total = scaled(low, 0, low_sum, x_scale, scales_of(weights, tile, i, 0), total)
    total = with_least(least_of(weights, tile, i, 0), low_sum, x_scale, total)
    total = scaled(high, 0, high_sum, x_scale, scales_of(weights, tile, i, 1), total)
    return with_least(least_of(weights, tile, i, 1), high_sum, x_scale, total)


@inline
def decode_block(weights, tile, i, panel, p):
    """See `matmul_blocks.py`."""
    codes = tile + i * TWO_BITS
    store_codes(panel, p, unpack_two_bits(weights, codes))
    store_scales(panel, p, 0, scales_of(weights, tile, i, 0))
    store_scales(panel, p, 1, scales_of(weights, tile, i, 1))
    store_scales(panel, p, 2, least_of(weights, tile, i, 0))
    store_scales(panel, p, 3, least_of(weights, tile, i, 1))


@kernel
def matmul_q2_k(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for Q2_K weights; see `multiply`."""
    multiply(
        add_block, decode_block, SUPER_BLOCKS, Q2_K_TILE, BYTES_WITH_4,
        weights, matrix, x, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip


DENSE_FORMAT = PackedFormat(
    multiply=matmul_q2_k,
    pack=pack_q2_k,
    tile_blocks=SUPER_BLOCKS,
    tile_bytes=Q2_K_TILE,
    multiply_panel=TWO_BIT_PANEL,
    part_len=16,
)
