"""IQ4_XS weights times activations: four bits that stand for eight, a scale a part."""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.kernels.block_scales import PARTS_BYTES, store_scales
from rwkv_edge.runtime.kernels.codes import FOUR_BITS, unpack_iq4
from rwkv_edge.runtime.kernels.matmul_blocks import multiply, sum_bytes
from rwkv_edge.runtime.kernels.pack import SUPER_BLOCKS
from rwkv_edge.runtime.kernels.pack_super_blocks import IQ4_XS_TILE, pack_iq4_xs
from rwkv_edge.runtime.kernels.packed_format import ROWS, PackedFormat
from rwkv_edge.runtime.kernels.panel import BYTES_WITH_1, scaled, store_codes
from rwkv_edge.runtime.kernels.panel_products import BYTE_PANEL
from rwkv_edge.runtime.simd.dot_products import byte_zero_code
from rwkv_edge.runtime.simd.memory import at, load_f16x16, load_i8x16

# A tile is the codes of a super-block, then its scales.
SCALES_AT = SUPER_BLOCKS * FOUR_BITS


@inline
def scales_of(weights, tile, i):
    """Scales of part i of a tile."""
    halves = load_f16x16(weights, tile + SCALES_AT + PARTS_BYTES)
    return halves * load_i8x16(weights, tile + SCALES_AT + i * ROWS)


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
def matmul_iq4_xs(weights, matrix, x, active, n_tokens, y, first_row, last_row, panel):
    """y = x W^T for IQ4_XS weights; see `multiply`."""
    multiply(
        add_block, decode_block, SUPER_BLOCKS, IQ4_XS_TILE, BYTES_WITH_1,
        weights, matrix, x, n_tokens, y, first_row, last_row, panel,
    )  # fmt: skip


DENSE_FORMAT = PackedFormat(
    multiply=matmul_iq4_xs,
    pack=pack_iq4_xs,
    tile_blocks=SUPER_BLOCKS,
    tile_bytes=IQ4_XS_TILE,
    multiply_panel=BYTE_PANEL,
)
