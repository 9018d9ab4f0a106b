"""Q4_K: four bits a weight, with scales of scales."""

import numpy as np

from rwkv_edge.quant.affine_search import AffineCodes, affine_super_blocks
from rwkv_edge.quant.base import Bytes, Float32Array, QuantFormat, half_of_scale
from rwkv_edge.quant.packed_bits import (
    SUPER_BLOCK,
    halves,
    nibbles,
    pack_scales_and_mins,
    scales_and_mins,
)

N_PARTS = 8
PART_LEN = SUPER_BLOCK // N_PARTS
# Scales and least values of parts are 0 to this.
LIMIT = 63
CODES = AffineCodes(largest=15, targets=(15.0, 14.0, 15.6), n_fits=2, has_positive_least=False)


class Q4_K(QuantFormat):
    """w = scale * part's scale * code - least * part's least; parts of 32 weights. Source: ggml.

    The parts' scales and least values have six bits, see `scales_and_mins`. 32 bytes of codes hold
    one part in their low halves and the next in their high halves.
    """

    block_len = SUPER_BLOCK
    # float16 bits: numba on the CPU cannot read a float16 record field.
    block = np.dtype(
        [
            ("scale", "<u2"),
            ("least", "<u2"),
            ("scales", "u1", (12,)),
            ("codes", "u1", (N_PARTS // 2, PART_LEN)),
        ]
    )
    ggml_type = 12

    @classmethod
    def encode(cls, weights: Float32Array) -> Bytes:
        """Scales and least values are searched for, see `affine_search`."""
        n_rows, n_columns = weights.shape
        cls.row_bytes(n_columns)
        found = affine_super_blocks(weights, CODES, cls.block_len, N_PARTS, LIMIT)
        codes = found.codes.reshape(-1, N_PARTS, PART_LEN)
        blocks = np.empty(found.scale.shape, cls.block)
        blocks["scale"] = half_of_scale(found.scale)
        blocks["least"] = half_of_scale(found.least)
        blocks["scales"] = pack_scales_and_mins(found.scales, found.leasts)
        blocks["codes"] = codes[:, 0::2] | (codes[:, 1::2] << 4)
        return blocks.view(np.uint8).reshape(n_rows, -1)

    @classmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """Scales times code, minus the least value, in float32."""
        blocks = cls.blocks(raw, n_columns)
        scales, mins = scales_and_mins(blocks["scales"])
        part_scales = halves(blocks["scale"])[..., None] * scales.astype(np.float32)
        part_least = halves(blocks["least"])[..., None] * mins.astype(np.float32)
        codes = nibbles(blocks["codes"]).reshape(*blocks.shape, N_PARTS, PART_LEN)
        weights = part_scales[..., None] * codes.astype(np.float32) - part_least[..., None]
        return weights.reshape(-1, n_columns)
