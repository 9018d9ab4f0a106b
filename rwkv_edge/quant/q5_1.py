"""Q5_1: five bits a weight, with a least value."""

import numpy as np

from rwkv_edge.quant.affine_search import AffineCodes, affine_blocks
from rwkv_edge.quant.base import Bytes, Float32Array, QuantFormat, half_of_scale
from rwkv_edge.quant.packed_bits import bits, halves, nibbles, pack_bits, pack_nibbles

CODES = AffineCodes(largest=31, targets=(31.0, 29.0, 29.8, 30.5), n_fits=2, has_positive_least=True)


class Q5_1(QuantFormat):
    """32 weights share a scale and a least value: w = scale * code + least. Source: ggml.

    Byte j holds the low four bits of weights j and j + 16; bit j of fifth_bits is weight j's.
    """

    block_len = 32
    # float16 bits: numba on the CPU cannot read a float16 record field.
    block = np.dtype(
        [
            ("scale", "<u2"),
            ("least", "<u2"),
            ("fifth_bits", "u1", (block_len // 8,)),
            ("codes", "u1", (block_len // 2,)),
        ]
    )
    ggml_type = 7

    @classmethod
    def encode(cls, weights: Float32Array) -> Bytes:
        """Scale and least value are searched for, see `affine_search`."""
        n_rows, n_columns = weights.shape
        cls.row_bytes(n_columns)
        found = affine_blocks(weights, CODES, cls.block_len)
        codes = found.codes
        blocks = np.empty(found.scale.shape, cls.block)
        blocks["scale"] = half_of_scale(found.scale)
        blocks["least"] = half_of_scale(found.least)
        blocks["fifth_bits"] = pack_bits(codes >> 4)
        blocks["codes"] = pack_nibbles(codes & 15)
        return blocks.view(np.uint8).reshape(n_rows, -1)

    @classmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """Scale times code, plus the least value, in float32."""
        blocks = cls.blocks(raw, n_columns)
        codes = nibbles(blocks["codes"]) | (bits(blocks["fifth_bits"]) << 4)
        scale, least = halves(blocks["scale"]), halves(blocks["least"])
        weights = scale[..., None] * codes.astype(np.float32) + least[..., None]
        return weights.reshape(-1, n_columns)
