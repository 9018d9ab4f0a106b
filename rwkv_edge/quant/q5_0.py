"""Q5_0: five bits a weight."""

import numpy as np

from rwkv_edge.quant.base import Bytes, Float32Array, QuantFormat, half_of_scale
from rwkv_edge.quant.packed_bits import bits, halves, nibbles, pack_bits, pack_nibbles
from rwkv_edge.quant.scale_search import ScaledCodes, scaled_blocks, whole_numbers

# Codes are 0 to 31; this one means zero.
ZERO_CODE = 16
CODES = ScaledCodes(whole_numbers(-16, 15), targets=(-16.0, -17.0, -16.5, -15.5, -15.0), n_fits=1)


class Q5_0(QuantFormat):
    """32 weights share one scale: w = scale * (code - 16). Source: ggml `block_q5_0`.

    Byte j holds the low four bits of weights j and j + 16; bit j of fifth_bits is weight j's.
    """

    block_len = 32
    # float16 bits: numba on the CPU cannot read a float16 record field.
    block = np.dtype(
        [
            ("scale", "<u2"),
            ("fifth_bits", "u1", (block_len // 8,)),
            ("codes", "u1", (block_len // 2,)),
        ]
    )
    ggml_type = 6

    @classmethod
    def encode(cls, weights: Float32Array) -> Bytes:
        """The scale is searched for, see `scale_search`."""
        n_rows, n_columns = weights.shape
        cls.row_bytes(n_columns)
        found = scaled_blocks(weights, CODES, cls.block_len)
        codes = (found.values + ZERO_CODE).astype(np.uint8)
        blocks = np.empty(found.scale.shape, cls.block)
        blocks["scale"] = half_of_scale(found.scale)
        blocks["fifth_bits"] = pack_bits(codes >> 4)
        blocks["codes"] = pack_nibbles(codes & 15)
        return blocks.view(np.uint8).reshape(n_rows, -1)

    @classmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """Product of scale and code - 16, in float32."""
        blocks = cls.blocks(raw, n_columns)
        codes = nibbles(blocks["codes"]) | (bits(blocks["fifth_bits"]) << 4)
        scale = halves(blocks["scale"])
        weights = scale[..., None] * (codes.astype(np.float32) - ZERO_CODE)
        return weights.reshape(-1, n_columns)
