"""Q3_K: three bits a weight, with scales of scales."""

import numpy as np

from rwkv_edge.quant.base import Bytes, Float32Array, QuantFormat, half_of_scale
from rwkv_edge.quant.packed_bits import SUPER_BLOCK, halves, nibbles, pack_nibbles
from rwkv_edge.quant.scale_search import ScaledCodes, scaled_super_blocks, whole_numbers

N_PARTS = 16
# Weights that the bytes of low bits are shared by, at four places in each: half a super-block.
GROUP = SUPER_BLOCK // 2
PLACES = np.array([0, 2, 4, 6], np.uint8)[:, None]
# Codes are 0 to 7, and scales of a part 0 to 63; these mean zero.
ZERO_CODE = 4
ZERO_SCALE = 32
CODES = ScaledCodes(whole_numbers(-4, 3), targets=(-4.0, -4.8, -4.4, -3.6, -3.2), n_fits=1)
LOWEST_SCALE, HIGHEST_SCALE = -32, 31


class Q3_K(QuantFormat):
    """w = scale * (part's scale - 32) * (code - 4); parts of 16 weights. Source: ggml.

    Byte j of a half holds the low two bits of its weights j, j + 32, j + 64 and j + 96; byte j of
    third_bits holds the third one of weights j, j + 32, and so on to j + 224. Of a part's scale,
    the low four bits are in bytes 0 to 7 of scales, the upper two in bytes 8 to 11.
    """

    block_len = SUPER_BLOCK
    # float16 bits: numba on the CPU cannot read a float16 record field.
    block = np.dtype(
        [
            ("third_bits", "u1", (block_len // 8,)),
            ("codes", "u1", (block_len // GROUP, GROUP // 4)),
            ("scales", "u1", (12,)),
            ("scale", "<u2"),
        ]
    )
    ggml_type = 11

    @classmethod
    def encode(cls, weights: Float32Array) -> Bytes:
        """Scales are searched for, see `scale_search`."""
        n_rows, n_columns = weights.shape
        cls.row_bytes(n_columns)
        found = scaled_super_blocks(
            weights, CODES, cls.block_len, N_PARTS, LOWEST_SCALE, HIGHEST_SCALE
        )
        codes = (found.values + ZERO_CODE).astype(np.uint8)
        # (blocks, halves, places of a byte, bytes)
        low = (codes & 3).reshape(-1, cls.block_len // GROUP, 4, GROUP // 4)
        third = (codes >> 2).reshape(-1, 8, cls.block_len // 8)
        scales = (found.scales + np.int16(ZERO_SCALE)).astype(np.uint8)
        upper = (scales >> 4).reshape(-1, 4, N_PARTS // 4)
        blocks = np.empty(found.scale.shape, cls.block)
        blocks["scale"] = half_of_scale(found.scale)
        blocks["scales"][:, :8] = pack_nibbles(scales & 15)
        blocks["scales"][:, 8:] = np.bitwise_or.reduce(upper << PLACES, axis=1)
        blocks["codes"] = np.bitwise_or.reduce(low << PLACES, axis=2)
        third <<= np.arange(8, dtype=np.uint8)[:, None]
        blocks["third_bits"] = np.bitwise_or.reduce(third, axis=1)
        return blocks.view(np.uint8).reshape(n_rows, -1)

    @classmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """Product of both scales, then of that and code - 4, in float32."""
        blocks = cls.blocks(raw, n_columns)
        low = (blocks["codes"][..., None, :] >> PLACES & 3).reshape(*blocks.shape, -1)
        third = blocks["third_bits"][..., None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1
        codes = (low | (third.reshape(low.shape) << 2)).astype(np.float32) - ZERO_CODE
        upper = (blocks["scales"][..., None, 8:] >> PLACES & 3).reshape(*blocks.shape, N_PARTS)
        scales = (nibbles(blocks["scales"][..., :8]) | (upper << 4)).astype(np.float32)
        part_scales = halves(blocks["scale"])[..., None] * (scales - ZERO_SCALE)
        codes = codes.reshape(*blocks.shape, N_PARTS, -1)
        weights: Float32Array = (part_scales[..., None] * codes).reshape(-1, n_columns)
        return weights
