"""Q2_K: two bits a weight, with scales of scales."""

import numpy as np

from rwkv_edge.quant.base import Bytes, Float32Array, QuantFormat
from rwkv_edge.quant.packed_bits import SUPER_BLOCK, halves

N_PARTS = 16
# Weights that the bytes of codes are shared by, at four places in each: half a super-block.
GROUP = SUPER_BLOCK // 2
PLACES = np.array([0, 2, 4, 6], np.uint8)[:, None]


class Q2_K(QuantFormat):
    """w = scale * part's scale * code - least * part's least; parts of 16 weights. Source: ggml.

    A part's scale and least value are the halves of a byte. Byte j of a half holds its weights
    j, j + 32, j + 64 and j + 96, from the lowest bits on.
    """

    block_len = SUPER_BLOCK
    # float16 bits: numba on the CPU cannot read a float16 record field.
    block = np.dtype(
        [
            ("scales", "u1", (N_PARTS,)),
            ("codes", "u1", (block_len // GROUP, GROUP // 4)),
            ("scale", "<u2"),
            ("least", "<u2"),
        ]
    )
    ggml_type = 10

    @classmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """Scales times code, minus the least value, in float32."""
        blocks = cls.blocks(raw, n_columns)
        codes = blocks["codes"][..., None, :] >> PLACES & 3
        codes = codes.reshape(*blocks.shape, N_PARTS, -1).astype(np.float32)
        scales = (blocks["scales"] & 15).astype(np.float32) * halves(blocks["scale"])[..., None]
        least = (blocks["scales"] >> 4).astype(np.float32) * halves(blocks["least"])[..., None]
        return (scales[..., None] * codes - least[..., None]).reshape(-1, n_columns)
