"""Q8_0: eight bits a weight."""

import numpy as np

from rwkv_edge.quant.base import Bytes, Float32Array, QuantFormat, half_of_scale, inverse_of_scale

LARGEST_CODE = 127


class Q8_0(QuantFormat):
    """32 weights share one scale: w = scale * code. Source: ggml `block_q8_0`."""

    block_len = 32
    # float16 bits: numba on the CPU cannot read a float16 record field.
    block = np.dtype([("scale", "<u2"), ("codes", "i1", (block_len,))])
    ggml_type = 8

    @classmethod
    def encode(cls, weights: Float32Array) -> Bytes:
        """The largest magnitude of a block becomes 127; halves round away from zero."""
        n_rows, n_columns = weights.shape
        cls.row_bytes(n_columns)
        x = weights.reshape(n_rows, -1, cls.block_len)
        scale = np.abs(x).max(axis=-1) / np.float32(LARGEST_CODE)
        scaled = x * inverse_of_scale(scale)[..., None]
        code = np.trunc(scaled)
        # Adding a half and cutting off would turn the number just below 0.5 into 1.
        rest = scaled - code
        code += np.where(np.abs(rest) >= np.float32(0.5), np.sign(rest), np.float32(0))
        blocks = np.empty(scale.shape, cls.block)
        blocks["scale"] = half_of_scale(scale)
        blocks["codes"] = code
        return blocks.view(np.uint8).reshape(n_rows, -1)

    @classmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """Product of scale and code, in float32."""
        blocks = cls.blocks(raw, n_columns)
        scale = blocks["scale"].view(np.float16).astype(np.float32)
        return (scale[..., None] * blocks["codes"].astype(np.float32)).reshape(-1, n_columns)
