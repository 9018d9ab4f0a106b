"""Q6_K: six bits a weight, with scales of scales."""

import numpy as np

from rwkv_edge.quant.base import Bytes, Float32Array, QuantFormat, half_of_scale
from rwkv_edge.quant.packed_bits import SUPER_BLOCK, halves, nibbles, pack_nibbles
from rwkv_edge.quant.scale_search import ScaledCodes, scaled_super_blocks, whole_numbers

N_PARTS = 16
N_HALVES = 2
# Weights of a half.
GROUP = SUPER_BLOCK // N_HALVES
PLACES = np.array([0, 2, 4, 6], np.uint8)[:, None]
# Codes are 0 to 63; this one means zero.
ZERO_CODE = 32
CODES = ScaledCodes(whole_numbers(-32, 31), targets=(-32.0, -36.0, -33.0, -31.0, -28.0), n_fits=1)
# Scales of parts have a byte with a sign.
LOWEST_SCALE, HIGHEST_SCALE = -128, 127


class Q6_K(QuantFormat):
    """w = scale * part's scale * (code - 32); parts of 16 weights. Source: ggml `block_q6_K`.

    Of each half of 128 weights, byte j of codes holds the low four bits of its weights j and
    j + 64, and byte j of upper_bits the upper two of j, j + 32, j + 64 and j + 96.
    """

    block_len = SUPER_BLOCK
    # float16 bits: numba on the CPU cannot read a float16 record field.
    block = np.dtype(
        [
            ("codes", "u1", (N_HALVES, GROUP // 2)),
            ("upper_bits", "u1", (N_HALVES, GROUP // 4)),
            ("scales", "i1", (N_PARTS,)),
            ("scale", "<u2"),
        ]
    )
    ggml_type = 14

    @classmethod
    def encode(cls, weights: Float32Array) -> Bytes:
        """Scales are searched for, see `scale_search`."""
        n_rows, n_columns = weights.shape
        cls.row_bytes(n_columns)
        found = scaled_super_blocks(
            weights, CODES, cls.block_len, N_PARTS, LOWEST_SCALE, HIGHEST_SCALE
        )
        codes = (found.values + ZERO_CODE).astype(np.uint8).reshape(-1, N_HALVES, GROUP)
        # (blocks, halves, places of a byte, bytes)
        upper = (codes >> 4).reshape(-1, N_HALVES, 4, GROUP // 4)
        blocks = np.empty(found.scale.shape, cls.block)
        blocks["scale"] = half_of_scale(found.scale)
        blocks["scales"] = found.scales
        blocks["codes"] = pack_nibbles(codes & 15)
        blocks["upper_bits"] = np.bitwise_or.reduce(upper << PLACES, axis=2)
        return blocks.view(np.uint8).reshape(n_rows, -1)

    @classmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """Product of both scales, then of that and code - 32, in float32."""
        blocks = cls.blocks(raw, n_columns)
        low = nibbles(blocks["codes"])
        upper = (blocks["upper_bits"][..., None, :] >> PLACES & 3).reshape(low.shape)
        codes = (low | (upper << 4)).astype(np.float32) - ZERO_CODE
        part_scales = halves(blocks["scale"])[..., None] * blocks["scales"].astype(np.float32)
        codes = codes.reshape(*blocks.shape, N_PARTS, -1)
        weights: Float32Array = (part_scales[..., None] * codes).reshape(-1, n_columns)
        return weights
