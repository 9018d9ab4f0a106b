"""Q4_1: four bits a weight, with a least value."""

import numpy as np

from rwkv_edge.quant.affine_search import AffineCodes, affine_blocks
from rwkv_edge.quant.base import Bytes, Float32Array, QuantFormat, half_of_scale
from rwkv_edge.quant.packed_bits import halves, nibbles, pack_nibbles

CODES = AffineCodes(largest=15, targets=(15.0, 13.0, 13.8, 14.5), n_fits=2, has_positive_least=True)


class Q4_1(QuantFormat):
    """32 weights share a scale and a least value: w = scale * code + least. Source: ggml.

    Byte j holds weight j in its low half and weight j + 16 in its high half.
    """

    block_len = 32
    # float16 bits: numba on the CPU cannot read a float16 record field.
    block = np.dtype([("scale", "<u2"), ("least", "<u2"), ("codes", "u1", (block_len // 2,))])
    ggml_type = 3

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
        blocks["codes"] = pack_nibbles(codes)
        return blocks.view(np.uint8).reshape(n_rows, -1)

    @classmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """Scale times code, plus the least value, in float32."""
        blocks = cls.blocks(raw, n_columns)
        codes = nibbles(blocks["codes"]).astype(np.float32)
        scale, least = halves(blocks["scale"]), halves(blocks["least"])
        return (scale[..., None] * codes + least[..., None]).reshape(-1, n_columns)
