"""Q5_K: five bits a weight, with scales of scales."""

import numpy as np

from rwkv_edge.quant.base import Bytes, Float32Array, QuantFormat
from rwkv_edge.quant.packed_bits import SUPER_BLOCK, halves, nibbles, scales_and_mins

N_PARTS = 8
PART_LEN = SUPER_BLOCK // N_PARTS
PLACES = np.arange(N_PARTS, dtype=np.uint8)[:, None]


class Q5_K(QuantFormat):
    """w = scale * part's scale * code - least * part's least; parts of 32 weights. Source: ggml.

    As Q4_K; bit p of byte j of fifth_bits belongs to weight j of part p.
    """

    block_len = SUPER_BLOCK
    # float16 bits: numba on the CPU cannot read a float16 record field.
    block = np.dtype(
        [
            ("scale", "<u2"),
            ("least", "<u2"),
            ("scales", "u1", (12,)),
            ("fifth_bits", "u1", (PART_LEN,)),
            ("codes", "u1", (N_PARTS // 2, PART_LEN)),
        ]
    )
    ggml_type = 13

    @classmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """Scales times code, minus the least value, in float32."""
        blocks = cls.blocks(raw, n_columns)
        scales, mins = scales_and_mins(blocks["scales"])
        part_scales = halves(blocks["scale"])[..., None] * scales.astype(np.float32)
        part_least = halves(blocks["least"])[..., None] * mins.astype(np.float32)
        codes = nibbles(blocks["codes"]).reshape(*blocks.shape, N_PARTS, PART_LEN)
        codes |= (blocks["fifth_bits"][..., None, :] >> PLACES & 1) << 4
        weights = part_scales[..., None] * codes.astype(np.float32) - part_least[..., None]
        return weights.reshape(-1, n_columns)
