"""Q4_0: four bits a weight."""

import numpy as np

from rwkv_edge.quant.base import Bytes, Float32Array, QuantFormat, half_of_scale, inverse_of_scale

# Codes are 0 to 15; this one means zero.
ZERO_CODE = 8


class Q4_0(QuantFormat):
    """32 weights share one scale: w = scale * (code - 8). Source: ggml `block_q4_0`.

    Byte j holds weight j in its low half and weight j + 16 in its high half.
    """

    block_len = 32
    # float16 bits: numba on the CPU cannot read a float16 record field.
    block = np.dtype([("scale", "<u2"), ("codes", "u1", (block_len // 2,))])
    ggml_type = 2

    @classmethod
    def encode(cls, weights: Float32Array) -> Bytes:
        """The weight of largest magnitude becomes code 0, that is -8; its sign is the scale's."""
        n_rows, n_columns = weights.shape
        cls.row_bytes(n_columns)
        x = weights.reshape(n_rows, -1, cls.block_len)
        largest = np.take_along_axis(x, np.abs(x).argmax(axis=-1)[..., None], axis=-1)
        scale = largest[..., 0] / np.float32(-ZERO_CODE)
        inverse = inverse_of_scale(scale)
        codes = np.trunc(x * inverse[..., None] + np.float32(ZERO_CODE + 0.5))
        codes = codes.clip(0, 15).astype(np.uint8)
        low, high = codes[..., : cls.block_len // 2], codes[..., cls.block_len // 2 :]
        blocks = np.empty(scale.shape, cls.block)
        blocks["scale"] = half_of_scale(scale)
        blocks["codes"] = low | (high << 4)
        return blocks.view(np.uint8).reshape(n_rows, -1)

    @classmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """Product of scale and code - 8, in float32."""
        blocks = cls.blocks(raw, n_columns)
        codes = np.concatenate([blocks["codes"] & 15, blocks["codes"] >> 4], axis=-1)
        scale = blocks["scale"].view(np.float16).astype(np.float32)
        weights = scale[..., None] * (codes.astype(np.float32) - ZERO_CODE)
        return weights.reshape(-1, n_columns)
