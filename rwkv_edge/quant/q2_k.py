"""Q2_K: two bits a weight, with scales of scales."""

import numpy as np

from rwkv_edge.quant.affine_search import AffineCodes, affine_super_blocks
from rwkv_edge.quant.base import Bytes, Float32Array, QuantFormat, half_of_scale
from rwkv_edge.quant.packed_bits import SUPER_BLOCK, halves

N_PARTS = 16
# Weights that the bytes of codes are shared by, at four places in each: half a super-block.
GROUP = SUPER_BLOCK // 2
PLACES = np.array([0, 2, 4, 6], np.uint8)[:, None]
# Scales and least values of parts are 0 to this.
LIMIT = 15
CODES = AffineCodes(largest=3, targets=(3.0, 2.0, 3.6), n_fits=2, has_positive_least=False)


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
    def encode(cls, weights: Float32Array) -> Bytes:
        """Scales and least values are searched for, see `affine_search`."""
        n_rows, n_columns = weights.shape
        cls.row_bytes(n_columns)
        found = affine_super_blocks(weights, CODES, cls.block_len, N_PARTS, LIMIT)
        # (blocks, halves, places of a byte, bytes)
        codes = found.codes.reshape(-1, cls.block_len // GROUP, 4, GROUP // 4)
        blocks = np.empty(found.scale.shape, cls.block)
        blocks["scale"] = half_of_scale(found.scale)
        blocks["least"] = half_of_scale(found.least)
        blocks["scales"] = found.scales | (found.leasts << 4)
        blocks["codes"] = np.bitwise_or.reduce(codes << PLACES, axis=2)
        return blocks.view(np.uint8).reshape(n_rows, -1)

    @classmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """Scales times code, minus the least value, in float32."""
        blocks = cls.blocks(raw, n_columns)
        codes = blocks["codes"][..., None, :] >> PLACES & 3
        codes = codes.reshape(*blocks.shape, N_PARTS, -1).astype(np.float32)
        scales = (blocks["scales"] & 15).astype(np.float32) * halves(blocks["scale"])[..., None]
        least = (blocks["scales"] >> 4).astype(np.float32) * halves(blocks["least"])[..., None]
        weights: Float32Array = (scales[..., None] * codes - least[..., None]).reshape(
            -1, n_columns
        )
        return weights
