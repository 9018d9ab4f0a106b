"""IQ4_XS: the values of IQ4_NL, with scales of scales."""

import numpy as np

from rwkv_edge.quant.base import Bytes, Float32Array, QuantFormat, half_of_scale
from rwkv_edge.quant.iq4_nl import CODES
from rwkv_edge.quant.packed_bits import IQ4_VALUES, SUPER_BLOCK, halves, nibbles, pack_nibbles
from rwkv_edge.quant.scale_search import scaled_super_blocks

N_PARTS = 8
# Scales of a part are 0 to 63; this one means zero.
ZERO_SCALE = 32
LOWEST_SCALE, HIGHEST_SCALE = -32, 31


class IQ4_XS(QuantFormat):
    """w = scale * (part's scale - 32) * IQ4_VALUES[code]; parts of 32 weights. Source: ggml.

    A part's scale has its upper two bits in scales_high, from the lowest bits on, and its lower
    four in scales_low, two to a byte. Byte j of a part holds its weights j and j + 16.
    """

    block_len = SUPER_BLOCK
    # float16 bits: numba on the CPU cannot read a float16 record field.
    block = np.dtype(
        [
            ("scale", "<u2"),
            ("scales_high", "<u2"),
            ("scales_low", "u1", (N_PARTS // 2,)),
            ("codes", "u1", (N_PARTS, block_len // N_PARTS // 2)),
        ]
    )
    ggml_type = 23

    @classmethod
    def encode(cls, weights: Float32Array) -> Bytes:
        """Scales are searched for, see `scale_search`."""
        n_rows, n_columns = weights.shape
        cls.row_bytes(n_columns)
        found = scaled_super_blocks(
            weights, CODES, cls.block_len, N_PARTS, LOWEST_SCALE, HIGHEST_SCALE
        )
        codes = IQ4_VALUES.searchsorted(found.values).astype(np.uint8)
        scales = (found.scales + np.int16(ZERO_SCALE)).astype(np.uint16)
        low = (scales & 15).astype(np.uint8)
        upper = scales >> 4 << (2 * np.arange(N_PARTS, dtype=np.uint16))
        blocks = np.empty(found.scale.shape, cls.block)
        blocks["scale"] = half_of_scale(found.scale)
        blocks["scales_high"] = np.bitwise_or.reduce(upper, axis=1)
        blocks["scales_low"] = low[:, 0::2] | (low[:, 1::2] << 4)
        blocks["codes"] = pack_nibbles(codes.reshape(-1, N_PARTS, SUPER_BLOCK // N_PARTS))
        return blocks.view(np.uint8).reshape(n_rows, -1)

    @classmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """Product of both scales, then of that and the code's value, in float32."""
        blocks = cls.blocks(raw, n_columns)
        low = np.stack([blocks["scales_low"] & 15, blocks["scales_low"] >> 4], axis=-1)
        high = blocks["scales_high"][..., None] >> (2 * np.arange(N_PARTS, dtype=np.uint16)) & 3
        scales = low.reshape(high.shape).astype(np.float32) + 16 * high.astype(np.float32)
        part_scales = halves(blocks["scale"])[..., None] * (scales - ZERO_SCALE)
        values = IQ4_VALUES[nibbles(blocks["codes"])].astype(np.float32)
        weights: Float32Array = (part_scales[..., None] * values).reshape(-1, n_columns)
        return weights
